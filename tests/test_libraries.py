"""What the cheat sheet says about the losses of other libraries."""

import importlib.util
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def libraries():
    x64 = jax.config.jax_enable_x64
    spec = importlib.util.spec_from_file_location("libraries", ROOT / "benchmarks" / "libraries.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with jax.enable_x64(True):
        yield module
    jax.config.update("jax_enable_x64", x64)


@pytest.mark.filterwarnings("default")  # Theirs.
@pytest.mark.parametrize("name", ["deepxde", "jinns", "pina"])
def test_a_library_reports_our_losses_times_the_factor_of_the_cheat_sheet(name, libraries):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed, and nothing else needs it: pip install {libraries.LIBRARIES[name][0]}")
    assert libraries.factors(name) == pytest.approx(libraries.CHECKED[name][1], rel=1e-10)


def test_the_cheat_sheet_names_the_versions_that_were_checked(libraries):
    page = (ROOT / "book" / "cheat_sheet.md").read_text()
    rows = {
        name: next(line for line in page.splitlines() if line.lower().startswith(f"| {name} "))
        for name in libraries.CHECKED
    }
    for name, (version, _) in libraries.CHECKED.items():
        assert f"{version}, checked" in rows[name]
