"""What the chapters, and the folder of experiments, say of themselves."""

import json
import re
from pathlib import Path

import pytest

BOOK = Path(__file__).resolve().parent.parent / "book"
CHAPTERS = sorted(BOOK.glob("[0-9][0-9]_*.ipynb"))
SCRIPTS = [path for path in sorted((BOOK / "experiments").glob("*.py")) if path.stem != "runs"]
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def docstring(script: Path) -> str:
    return script.read_text().split('"""')[1]


def chapters_of(script: Path) -> set[int]:
    """The chapters that a script says it serves."""
    (sentence,) = re.findall(r"For chapters? ([\d, and\n]+)\.", docstring(script))
    return {int(number) for number in re.findall(r"\d+", sentence)}


@pytest.mark.parametrize("chapter", CHAPTERS, ids=lambda chapter: chapter.stem)
def test_a_chapter_runs_on_the_kernel_that_is_installed(chapter):
    found = json.loads(chapter.read_text())["metadata"]["kernelspec"]["name"]
    assert found == "python3", (
        f"{chapter.name} asks for a kernel {found!r}, which an editor wrote into it: put "
        f'"kernelspec": {json.dumps(KERNEL)} into the metadata at its end.'
    )


def test_a_script_names_the_chapters_that_read_its_result():
    reads = {script.stem: set() for script in SCRIPTS}
    for chapter in CHAPTERS:
        cells = json.loads(chapter.read_text())["cells"]
        code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        for name in re.findall(r'results\.records\("(\w+)"\)', code):
            reads[name].add(int(chapter.name[:2]))
    reads["helmholtz_table"].add(10)  # By a function, of several tables.
    reads["klein_gordon"].add(10)
    assert {script.stem: chapters_of(script) for script in SCRIPTS} == reads


def test_the_index_of_the_experiments_lists_each_with_its_chapters():
    rows = [
        f"| [{script.name}]({script.name}) | {', '.join(map(str, sorted(chapters_of(script))))} "
        f"| {docstring(script).splitlines()[0].rstrip('.')} |"
        for script in sorted(SCRIPTS, key=lambda script: (min(chapters_of(script)), script.name))
    ]
    listed = [line for line in (BOOK / "experiments" / "README.md").read_text().splitlines() if line.startswith("| [")]
    assert listed == rows, "The table of book/experiments/README.md should be:\n" + "\n".join(rows)
