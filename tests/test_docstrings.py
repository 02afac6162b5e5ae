"""The examples in README and in the docstrings of the library."""

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import pinn_analysis

README = Path(__file__).resolve().parent.parent / "README.md"
MODULES = [module.name for module in pkgutil.walk_packages(pinn_analysis.__path__, "pinn_analysis.")]


@pytest.mark.parametrize("name", ["pinn_analysis", *MODULES])
def test_examples_in_docstrings_give_what_they_show(name):
    module = importlib.import_module(name)
    failed, tried = doctest.testmod(module)
    assert not failed
    assert tried == Path(module.__file__).read_text().count(">>> "), "An example where doctest does not find it."


def test_examples_in_readme_give_what_they_show():
    assert not doctest.testfile(str(README), module_relative=False).failed
