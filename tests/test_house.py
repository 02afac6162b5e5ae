"""The plan of the house: which room builds on which, and who touches files, figures and the screen."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import pinn_analysis

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "pinn_analysis"
TREES = {file: ast.parse(file.read_text()) for file in sorted(LIBRARY.rglob("*.py"))}
# The rooms in order, as the docstring of the package lists them.
ROOMS = re.findall(r"`(\w+)`", pinn_analysis.__doc__)


def room(file: Path) -> str:
    """Module or package, public or private, that a file belongs to."""
    return file.relative_to(LIBRARY).parts[0].removesuffix(".py")


def rooms_imported(file: Path) -> set[str]:
    """Rooms of this package that a file imports from, wherever in it."""
    names = set()
    for node in ast.walk(TREES[file]):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("pinn_analysis.")} - {room(file)}


def rooms_below(start: str) -> set[str]:
    """All that a room imports, and what that imports."""
    found, new = set(), {start}
    while new:
        new = {name for file in TREES if room(file) in new for name in rooms_imported(file)} - found
        found |= new
    return found


def files_with(pattern: str, of: type[ast.AST]) -> set[str]:
    """Rooms with a call or an import, as it is written, that matches ``pattern``."""
    return {
        room(file)
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, of) and re.match(pattern, ast.unparse(node))
    }


def test_every_room_is_in_the_plan():
    assert sorted(ROOMS) == sorted({room(file) for file in TREES if not room(file).startswith("_")})


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_builds_only_on_those_before_it(name):
    public = {below for below in rooms_below(name) if not below.startswith("_")}
    assert public <= set(ROOMS[: ROOMS.index(name)])


def test_no_private_module_imports_itself_by_a_detour():
    for name in {room(file) for file in TREES} - {"__init__"}:
        assert name not in rooms_below(name)


def test_only_results_checkpoints_and_the_command_line_touch_files():
    touches = r"open\(|.*\.(open|(read|write)_(text|bytes)|mkdir|unlink|savez\w*|np\.load)\("
    assert files_with(touches, ast.Call) <= {"results", "_provenance", "_checkpoint", "cli"}


def test_only_plotting_imports_matplotlib():
    assert files_with(r"(from|import) matplotlib", (ast.Import, ast.ImportFrom)) == {"plotting"}


def test_only_the_command_line_prints():
    assert files_with(r"print\(", ast.Call) <= {"cli"}


def test_importing_the_library_imports_nothing_that_most_users_do_without():
    code = "import sys, pinn_analysis; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert not {"distributed", "matplotlib", "neural_tangents", "orbax"} & set(loaded.split())
    code = "import pinn_analysis; pinn_analysis.plotting.curves"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_every_room_has_its_place_in_the_book():
    """A package, whose public names come from its private modules, with `:imported-members:`."""
    pages = "".join(page.read_text() for page in ROOT.glob("book/api*.md"))
    shown = re.findall(r"automodule:: pinn_analysis\.(\w+)(\n +:imported-members:)?", pages)
    assert sorted(shown) == [(name, "\n   :imported-members:" * (LIBRARY / name).is_dir()) for name in sorted(ROOMS)]
