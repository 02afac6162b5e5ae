"""What a chapter's download button gives runs anywhere, by itself.

In Jupyter, or uploaded to Colab: in front of the chapter stands one cell.
It installs the versions with which the book was built, and unpacks what it
carries, the library and the stored results that the chapter reads.
"""

import ast
import base64
import io
import re
import zipfile
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path

import nbformat
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
GIVEN = {
    "IPython",
    "pinn_analysis",
}  # By the kernel, and by the cell itself.
SETUP = """\
#@title Run this first. It installs all. {{display-mode: "form"}}
import base64, io, os, sys, zipfile
%pip install --quiet {pins}
# Without its dependencies: it asks for TensorFlow, which nothing here uses.
%pip install --quiet --no-deps neural-tangents=={neural_tangents}
zipfile.ZipFile(io.BytesIO(base64.b64decode("{carried}"))).extractall("pinn-analysis")
os.chdir("pinn-analysis/book")
sys.path.insert(0, os.path.dirname(os.getcwd()))
"""


def setup(app):
    """Called by Sphinx."""
    app.connect("build-finished", write)
    return {"parallel_read_safe": True}


def write(app, exception):
    """Put notebooks where the buttons of the built pages look for them."""
    if exception is None:
        for path in sorted((Path(app.outdir) / "_sources").glob("*.ipynb")):
            nbformat.write(live(Path(app.srcdir) / path.name), path)


def live(path: Path) -> nbformat.NotebookNode:
    """A chapter with the cell that it needs elsewhere."""
    notebook = nbformat.read(path, 4)
    source = "\n".join(
        cell.source for cell in notebook.cells if cell.cell_type == "code"
    )
    first = SETUP.format(
        pins=" ".join(pins(source)),
        neural_tangents=version("neural-tangents"),
        carried=base64.b64encode(carried(source)).decode(),
    )
    hidden = {"jupyter": {"source_hidden": True}}
    cell = nbformat.v4.new_code_cell(first, id="setup", metadata=hidden)
    notebook.cells.insert(0, cell)
    return notebook


def pins(source: str) -> list[str]:
    """What library and chapter import, in the versions installed here."""
    needed = {
        r.name
        for r in map(Requirement, requires("pinn-analysis"))
        if r.marker is None
    }
    distributions = packages_distributions()
    for node in ast.walk(ast.parse(source)):
        names = (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else []
        )
        names += [node.module] if isinstance(node, ast.ImportFrom) else []
        for name in {name.split(".")[0] for name in names} - GIVEN:
            needed |= set(distributions.get(name, []))
    return [
        f"{name}=={version(name)}" for name in sorted(needed, key=str.lower)
    ]


def carried(source: str) -> bytes:
    """A zip file: library, named results, experiments if any is named."""
    files = [
        *(ROOT / "pinn_analysis").rglob("*.py"),
        ROOT / "LICENSE",
        ROOT / "pyproject.toml",
    ]
    named = set(re.findall(r"[\"'](\w+)[\"']", source))
    files += [
        path
        for folder in ("book/results", "benchmarks")
        for path in (ROOT / folder).glob("*.npz")
        if path.stem in named
    ]
    files += (
        (ROOT / "book/experiments").glob("*.py")
        if "experiments" in named
        else []
    )
    out = io.BytesIO()
    with zipfile.ZipFile(
        out, "w", zipfile.ZIP_DEFLATED, compresslevel=9
    ) as archive:
        for path in sorted(files):
            archive.write(path, path.relative_to(ROOT))
        archive.writestr("book/results/", "")
    return out.getvalue()
