"""One list of dependencies: what pyproject.toml, environment.yml, Makefile and README say agrees."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from pinn_analysis import _neural_tangents

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())


def test_conda_installs_what_make_installs():
    (pip,) = (entry["pip"] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))
    (editable,) = re.findall(r'--editable "\.(\[.*\])"', (ROOT / "Makefile").read_text())
    assert pip == [f"-e .{editable}"]
    assert set(editable.strip("[]").split(",")) < set(PROJECT["optional-dependencies"])


def test_conda_and_pip_want_the_same_python():
    assert f"python{PROJECT['requires-python']}" in ENVIRONMENT["dependencies"]


def test_everyone_installs_the_same_neural_tangents_without_tensorflow():
    for file in ("Makefile", "README.md"):
        assert _neural_tangents.INSTALL.removeprefix("pip install ") in (ROOT / file).read_text(), file
    everything = sum(PROJECT["optional-dependencies"].values(), PROJECT["dependencies"])
    assert not [name for name in everything if re.match("neural|tensorflow", name)]


def test_the_packages_on_disk_are_the_packages_installed():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {str(file.parent.relative_to(ROOT)).replace("/", ".") for file in ROOT.glob("pinn_analysis/**/*.py")}
    assert set(packages) == found


def test_the_oldest_versions_are_those_of_pyproject():
    listed = subprocess.run([sys.executable, ROOT / ".ci/oldest.py"], capture_output=True, text=True, check=True).stdout
    extras = PROJECT["optional-dependencies"]
    wanted = PROJECT["dependencies"] + extras["test"] + extras["book"]
    assert [line.replace("==", ">=") for line in listed.split()] == [entry.split(",")[0] for entry in wanted]
