"""Stored results: arrays with how they were obtained, one ``.npz`` file each."""

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

# `book/results` of the checkout, which the package is installed from in editable mode.
FOLDER = Path(__file__).resolve().parent.parent / "book" / "results"
FORMAT = 1  # Raised when files of before can no longer be read.
_TAKEN = ("provenance", "file", "allow_pickle")  # The last two by `numpy.savez_compressed`.


def save(name: str, config: dict, *, seconds: float | int, folder: Path = FOLDER, **arrays: np.ndarray) -> Path:
    """Write ``arrays`` to ``name.npz``, whole or not at all, with their provenance.

    Args:
        name: of the file and of the script ``book/experiments/name.py`` that makes it.
        config: all settings of the run, seeds included; anything JSON takes.
        seconds: wall time of the run.
        folder: where to.
        arrays: what to store; keep a file under a megabyte.

    Raises:
        ValueError: an array is named ``provenance``, ``file`` or ``allow_pickle``, or holds Python objects.
    """
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    for key, value in arrays.items():
        if key in _TAKEN or value.dtype.hasobject:
            raise ValueError(
                f"`{key}` cannot be stored: " + ("the name is taken." if key in _TAKEN else f"dtype is {value.dtype}.")
            )
    provenance = {
        "format": FORMAT,
        "config": config,
        "seconds": round(seconds, 1),
        "device": device(),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {
            module: sys.modules[module].__version__ for module in ("jax", "numpy", "optax") if module in sys.modules
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    path, part = folder / f"{name}.npz", folder / f".{name}.{os.getpid()}.part"
    try:
        with part.open("wb") as file:
            np.savez_compressed(file, provenance=np.array(json.dumps(provenance)), **arrays)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def load(name: str, folder: Path = FOLDER) -> tuple[dict[str, np.ndarray], dict]:
    """Arrays and provenance of ``name.npz``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, not one of ours, or of another format.
    """
    path = folder / f"{name}.npz"
    make = f"`python book/experiments/{name}.py` makes it anew."
    if not path.exists():
        have = sorted(file.stem for file in folder.glob("*.npz"))
        raise FileNotFoundError(f"No results {name!r} in {folder}, which has {have}; {make}")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        provenance = dict(json.loads(str(arrays.pop("provenance"))))
    except Exception as error:  # A damaged archive can raise anything.
        raise ValueError(f"{path} is truncated, or not written by `results.save` ({error}); {make}") from error
    if provenance.get("format") != FORMAT:
        raise ValueError(f"{path} has format {provenance.get('format')}, this version reads {FORMAT}; {make}")
    return arrays, provenance


def describe(provenance: dict) -> str:
    """One line for the reader: device, wall time, version of JAX, commit."""
    commit, _, dirty = provenance["commit"].partition("-")
    changed = " with changes" if dirty else ""
    return (
        f"{provenance['device']}, {provenance['seconds'] / 60:.1f} min, jax {provenance['versions']['jax']}, "
        f"commit {commit[:9]}{changed}"
    )


def device() -> str:
    """The device that JAX computes on, as a reader would name it."""
    first = jax.devices()[0]
    if first.platform == "cpu":
        return f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} CPU cores"
    return first.device_kind


def _commit() -> str:
    """Commit of the checkout, with ``-dirty`` where files have been changed since."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, cwd=FOLDER.parent, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
