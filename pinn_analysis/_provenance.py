"""How a result was obtained: device, precision, commit, versions."""

import contextlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

ROOT = Path(__file__).resolve().parent.parent
# Packages whose versions count, by module, where the module is in use.
_PACKAGES = {name.replace("-", "_"): name for name in ("jax", "jaxlib", "neural-tangents", "numpy", "optax")}


def describe(what: Mapping) -> str:
    """One line for the reader, of the provenance of a record or of a whole table: device, time, versions, commits."""
    provenances = [what] if "commit" in what else [how for _, how in what.values()]
    commits = list(dict.fromkeys(how["commit"].partition("-")[0][:9] for how in provenances))
    named = f"commit{'s' * (len(commits) > 1)} {', '.join(commits)}" if len(commits) < 4 else f"{len(commits)} commits"
    changed = " with changes" if any("-" in how["commit"] for how in provenances) else ""
    return (
        f"{_each(how['device'] for how in provenances)}, {sum(how['seconds'] for how in provenances) / 60:.1f} min, "
        f"jax {_each(how['versions']['jax'] for how in provenances)}, {named}{changed}"
    )


def device() -> str:
    """The device that JAX computes on, as a reader would name it."""
    first = jax.devices()[0]
    if first.platform == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return f"{cores} CPU core{'s' if cores != 1 else ''}"
    return first.device_kind


def precision() -> str:
    """Of what JAX makes of a float where nothing else is said."""
    return jnp.result_type(float).name


def versions() -> dict[str, str]:
    """Of Python, of this package, and of those it stands on that are in use."""
    found = {"python": platform.python_version()}
    for module, package in (_PACKAGES | {"pinn_analysis": "pinn-analysis"}).items():
        if module in sys.modules:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[package] = importlib.metadata.version(package)
    return found


def commit() -> str:
    """Commit of the checkout, with ``-dirty`` where the library or an experiment has been changed since."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # Not a copy that is installed below some other checkout.
        changed = git("status", "--porcelain", "--", "pinn_analysis", "book/experiments")
        return git("rev-parse", "HEAD") + ("-dirty" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _each(names: Iterable[str]) -> str:
    return " and ".join(dict.fromkeys(names))
