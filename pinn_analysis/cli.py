"""The command line: ``pinn-analysis diagnose | solve FILE.py``, ``pinn-analysis experiments list | run NAME``.

A file defines ``problem``, ``apply`` and ``params``, and may define ``points``, ``weights``,
``optimizer`` and ``solution``, with the meaning they have for `diagnosis.diagnose`.
"""

import ast
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import jax

from pinn_analysis import _provenance, diagnosis, solving
from pinn_analysis.problems import Problem

EXPERIMENTS = _provenance.ROOT / "book" / "experiments"
POINTS = 128  # Of each term, if the file has none.
FILE = click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
SEED = click.option("--seed", default=0, show_default=True, help="For whatever is drawn.")
PRECISION = click.option(
    "--x64/--x32", default=True, show_default=True, help="Precision in which the file is run (`jax_enable_x64`)."
)


@click.group()
@click.version_option(package_name="pinn-analysis")
def main() -> None:
    """Why a PINN does not train, and what its problem's solution is.

    FILE is a Python file that defines `problem` (a pinn_analysis.Problem) and, to be diagnosed,
    `apply` and `params`.
    """


@main.command()
@FILE
@click.option(
    "--html", type=click.Path(dir_okay=False, path_type=Path), help="Write the page here; FILE.html if not given."
)
@click.option("--budget", default=60.0, show_default=True, help="Seconds after which nothing further is measured.")
@SEED
@PRECISION
def diagnose(file: Path, html: Path | None, budget: float, seed: int, x64: bool) -> None:
    """Say why the network of FILE does not train, and write a page about it.

    FILE may also define `points` (128 of each term are drawn otherwise), `weights`, `optimizer`
    and `solution`.
    """
    jax.config.update("jax_enable_x64", x64)
    has = _run(file, "problem", "apply", "params")
    points = has.get("points")
    if points is None:
        points = has["problem"].sample(jax.random.key(seed), POINTS)
    options = {name: has.get(name) for name in ("weights", "optimizer", "solution")}
    try:
        found = diagnosis.diagnose(
            has["problem"], has["apply"], has["params"], points, budget=budget, **options,
            progress=lambda name: click.echo(f"measuring: {name}", err=True),
        )  # fmt: skip
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    click.echo(str(found))
    page = html or file.with_suffix(".html")
    try:
        found.to_html(page)
    except OSError as error:
        raise click.ClickException(f"The page was not written: {error}.") from error
    click.echo(f"wrote {page}", err=True)


@main.command()
@FILE
@SEED
@PRECISION
def solve(file: Path, seed: int, x64: bool) -> None:
    """Solve the problem of FILE without training, and say how well."""
    jax.config.update("jax_enable_x64", x64)
    problem = _run(file, "problem")["problem"]
    try:
        solution = solving.solve(problem, key=jax.random.key(seed))
    except ValueError as error:
        raise click.ClickException(str(error)) from error
    click.echo(str(solution))


@main.group()
def experiments() -> None:
    """The long runs behind the book, in a checkout of the repository."""


@experiments.command("list")
def list_experiments() -> None:
    """List them, with what each is about."""
    for script in _scripts():
        about = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
        click.echo(f"{script.stem:24}{about.splitlines()[0] if about else ''}")


@experiments.command("run", context_settings={"ignore_unknown_options": True})
@click.argument("name")
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def run_experiment(name: str, options: tuple[str, ...]) -> None:
    """Run NAME, whose own OPTIONS follow (`-- --help` lists them); one that was stopped goes on."""
    known = {script.stem: script for script in _scripts()}
    if name not in known:
        raise click.ClickException(f"No experiment {name!r}; there are {', '.join(known)}.")
    raise SystemExit(subprocess.call([sys.executable, str(known[name]), *options]))


def _scripts() -> list[Path]:
    found = sorted(path for path in EXPERIMENTS.glob("*.py") if path.stem != "runs")
    if not found:
        raise click.ClickException(f"No experiments in {EXPERIMENTS}: they are in a checkout of the repository.")
    return found


def _run(file: Path, *names: str) -> dict[str, Any]:
    """What a file defines, once it has what it must."""
    sys.path.insert(0, str(file.resolve().parent))  # As `python file` does.
    try:
        has = runpy.run_path(str(file))
    except Exception as error:
        raise click.ClickException(f"{file} cannot be run: {type(error).__name__}: {error}") from error
    finally:
        sys.path.pop(0)
    missing = [name for name in names if name not in has]
    if missing:
        raise click.ClickException(
            f"{file} must define {', '.join(f'`{name}`' for name in names)}; it lacks "
            f"{', '.join(f'`{name}`' for name in missing)}."
        )
    if not isinstance(has["problem"], Problem):
        raise click.ClickException(
            f"`problem` of {file} must be a pinn_analysis.Problem, got {type(has['problem']).__name__}."
        )
    return has
