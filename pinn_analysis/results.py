"""Stored results: arrays with how they were obtained, one ``.npz`` file each.

A file holds one result (`save`, `load`), or a table of many runs, one *record* a cell, that
fills up as they are made (`missing`, `add`, `records`).
"""

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
    return _write(folder / f"{name}.npz", {"format": FORMAT} | _provenance(config, seconds), arrays)


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


def missing(name: str, configs: dict[str, dict], *, folder: Path = FOLDER) -> list[str]:
    """Records of a table that have yet to be run: absent, or stored with fewer ``steps``.

    Args:
        name: of the file.
        configs: settings of each record by its name, ``"steps"`` among them.
        folder: where the file is, or will be.

    Raises:
        ValueError: a stored record has other settings, or the file is no table.
    """
    stored = _stored(name, folder)
    for record, config in configs.items():
        if record in stored:
            have, want = stored[record][1]["config"], json.loads(json.dumps(config))
            differing = {key for key in have | want if have.get(key) != want.get(key)} - {"steps"}
            if differing:
                raise ValueError(
                    f"{record!r} is stored in {folder / name}.npz with another "
                    f"{', '.join(sorted(differing))}.  Nothing "
                    "was overwritten: use the same settings, or move the file away to start a new table."
                )
    return [r for r, config in configs.items() if r not in stored or stored[r][1]["config"]["steps"] < config["steps"]]


def add(
    name: str, record: str, config: dict, *, seconds: float | int, folder: Path = FOLDER, **arrays: np.ndarray
) -> Path:
    """Add a record to the table ``name.npz``, the others staying as they are; one process at a time.

    Args:
        name: of the file and of the script that makes it.
        record: name of the record, without ``:``.
        config: settings of the run, ``"steps"`` among them.
        seconds: wall time of the run.
        folder: where to.
        arrays: what to store of it.

    Raises:
        ValueError: as `missing` and `save`; a ``:`` in the name of the record; one of at least as many
            steps is stored already.
    """
    if ":" in record:
        raise ValueError(f"The name of a record is stored before a `:`, so it cannot have one itself; got {record!r}.")
    if not missing(name, {record: config}, folder=folder):
        raise ValueError(
            f"{record!r} is stored in {folder / name}.npz with at least {config['steps']} steps; it stays."
        )
    table = _stored(name, folder)
    table[record] = ({key: np.asarray(value) for key, value in arrays.items()}, _provenance(config, seconds))
    how = [provenance for _, provenance in table.values()]
    summary = how[-1] | {
        "format": FORMAT,
        "config": {},
        "records": {name: provenance for name, (_, provenance) in table.items()},
        "seconds": sum(provenance["seconds"] for provenance in how),
        "device": " and ".join(sorted({provenance["device"] for provenance in how})),
    }
    flat = {f"{name}:{key}": value for name, (values, _) in table.items() for key, value in values.items()}
    return _write(folder / f"{name}.npz", summary, flat)


def records(name: str, *, folder: Path = FOLDER) -> dict[str, tuple[dict[str, np.ndarray], dict]]:
    """Arrays and provenance of each record of a table.

    Raises:
        FileNotFoundError, ValueError: as `load`; the file is no table.
    """
    arrays, provenance = load(name, folder)
    if "records" not in provenance:
        raise ValueError(f"{folder / name}.npz holds one result, not a table of records; `load` reads it.")
    table = {record: ({}, how) for record, how in provenance["records"].items()}
    for key, value in arrays.items():
        record, _, array = key.partition(":")
        table[record][0][array] = value
    return table


def _stored(name: str, folder: Path) -> dict[str, tuple[dict[str, np.ndarray], dict]]:
    """The records of a table that may not be there yet."""
    return records(name, folder=folder) if (folder / f"{name}.npz").exists() else {}


def describe(provenance: dict) -> str:
    """One line for the reader: device, wall time, version of JAX, commit."""
    commit, _, dirty = provenance["commit"].partition("-")
    changed = " with changes" if dirty else ""
    return (
        f"{provenance['device']}, {provenance['seconds'] / 60:.1f} min, jax {provenance['versions']['jax']}, "
        f"commit {commit[:9]}{changed}"
    )


def _provenance(config: dict, seconds: float | int) -> dict:
    return {
        "config": config,
        "seconds": round(seconds, 1),
        "device": device(),
        "commit": _commit(),
        "python": platform.python_version(),
        "versions": {
            module: sys.modules[module].__version__ for module in ("jax", "numpy", "optax") if module in sys.modules
        },
    }


def _write(path: Path, provenance: dict, arrays: dict[str, np.ndarray]) -> Path:
    """Write a file, whole or not at all."""
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    for key, value in arrays.items():
        if key in _TAKEN or value.dtype.hasobject:
            raise ValueError(
                f"`{key}` cannot be stored: " + ("the name is taken." if key in _TAKEN else f"dtype is {value.dtype}.")
            )
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            np.savez_compressed(file, provenance=np.array(json.dumps(provenance)), **arrays)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def device() -> str:
    """The device that JAX computes on, as a reader would name it."""
    first = jax.devices()[0]
    if first.platform == "cpu":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return f"{cores} CPU core{'s' if cores != 1 else ''}"
    return first.device_kind


def _commit() -> str:
    """Commit of the checkout, with ``-dirty`` where the library or an experiment has been changed since."""
    command = ["git", "diff", "--quiet", "HEAD", "--", "pinn_analysis", "book/experiments"]
    top = FOLDER.parent.parent
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=top, capture_output=True, text=True, check=False)
        changed = subprocess.run(command, cwd=top, capture_output=True, check=False).returncode
    except OSError:
        return "unknown"
    return head.stdout.strip() + ("-dirty" if changed else "") if head.returncode == 0 else "unknown"
