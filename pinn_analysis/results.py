"""Stored results: tables of runs, one ``.npz`` file each, every run with how it was obtained.

A run is a *record* of the table: a name, its settings, arrays.  `fill` makes and stores the
records that a table lacks, so a script that was cut off goes on where it was; `records` reads
them, `stack` lays an array of all of them along the settings by which they differ:

    >>> import tempfile
    >>> from pinn_analysis import results
    >>> folder = tempfile.mkdtemp()
    >>> make = lambda config: {"error": config["width"] ** -0.5 + 0.001 * config["seed"]}
    >>> configs = {f"{w} {s}": {"width": w, "seed": s} for w in (64, 256) for s in range(3)}
    >>> made = results.fill("decay", configs, make, folder=folder)
    >>> results.stack(results.records("decay", folder=folder), "error", width=(64, 256), seed=range(3)).shape
    (2, 3)
"""

import contextlib
import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike
from tqdm import tqdm

from pinn_analysis import _cluster, _provenance
from pinn_analysis._provenance import describe, device

__all__ = ["Record", "describe", "device", "fill", "missing", "records", "stack", "values", "write_whole"]

FOLDER = _provenance.ROOT / "book" / "results"  # Where tables are, unless a folder is given.
FORMAT = 2  # Raised when files of before can no longer be read.


class Record(NamedTuple):
    """One run.

    Attributes:
        arrays: what was stored, by name.
        provenance: ``"config"`` (its settings), ``"precision"``, ``"seconds"`` of wall time, ``"device"``,
            ``"commit"`` (ending in ``-dirty`` if library or experiments had changes), ``"versions"``.
    """

    arrays: dict[str, np.ndarray]
    provenance: dict


def fill(
    name: str,
    configs: Mapping[str, dict],
    make: Callable[[dict], Mapping[str, ArrayLike]],
    *,
    folder: str | Path | None = None,
) -> list[str]:
    """Make the records that the table ``name.npz`` lacks, and store each as soon as it is there.

    A run that is cut off loses the record in progress, no other; several processes may fill the same table.
    A config may have ``"steps"``: then a longer run takes the place of a shorter one.

    Where a ``distributed.Client`` is open, each record is a task of its cluster: made by a worker in this process's
    precision, with the device, versions and commit of the worker, and stored by this process as soon as it is
    there.  A worker that dies repeats its record on another; what a record raises is raised after all others.

    Args:
        name: of the file, and of the script ``book/experiments/name.py`` that makes it.
        configs: the settings of each record, seed included, by its name; anything JSON takes.
        make: from the settings, as they are stored, to the arrays; keep a file under a megabyte.
        folder: where the file is, or will be; ``book/results`` of the checkout if not given.

    Returns:
        Names of the records that were made.

    Raises:
        ValueError: as `missing`; an array holds Python objects.
        TypeError: settings that JSON does not take.
    """
    lacking = {record: _plain(configs[record]) for record in missing(name, configs, folder=folder)}
    if client := _cluster.client():
        new = _cluster.as_made(client, name, functools.partial(_made, make), lacking)
    else:  # Unless another process is faster.
        absent = lambda record: missing(name, {record: configs[record]}, folder=folder)
        new = ((record, _made(make, config)) for record, config in lacking.items() if absent(record))
    stored = []
    for record, one in (bar := tqdm(new, desc=name, total=len(lacking), unit="record")):
        _add(name, record, one, _folder(folder))
        bar.set_postfix_str(record)
        stored.append(record)
    return stored


def missing(name: str, configs: Mapping[str, dict], *, folder: str | Path | None = None) -> list[str]:
    """Records of a table that have yet to be made: absent, or stored with fewer ``steps``.

    Args:
        name: of the file.
        configs: the settings of each record by its name.
        folder: where the file is, or will be; ``book/results`` of the checkout if not given.

    Raises:
        ValueError: a stored record has other settings or another precision; a ``:`` in the name of a record;
            the file is not a table; there is no folder.
        TypeError: settings that JSON does not take.
    """
    folder = _folder(folder)
    table = _stored(name, folder)
    for record, config in configs.items():
        if ":" in record:
            raise ValueError(
                f"The name of a record is stored before a `:`, so it cannot have one itself; got {record!r}."
            )
        want = _plain(config) | {"precision": _provenance.precision()}
        if record in table:
            how = table[record].provenance
            have = how["config"] | {"precision": how["precision"]}
            differing = {key for key in have | want if have.get(key) != want.get(key)} - {"steps"}
            if differing:
                raise ValueError(
                    f"{record!r} is stored in {folder / name}.npz with another {', '.join(sorted(differing))}.  "
                    "Nothing was overwritten: use the same settings, or move the file away to start a new table."
                )
    return [record for record, config in configs.items() if not _has(table, record, config)]


def records(name: str, *, folder: str | Path | None = None) -> dict[str, Record]:
    """The records of a table by their names, as arrays and provenance.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is truncated, not one of ours, or of another format; there is no folder.
    """
    folder = _folder(folder)
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
        raise ValueError(f"{path} is truncated, or not written by `results.fill` ({error}); {make}") from error
    if provenance.get("format") != FORMAT:
        raise ValueError(f"{path} has format {provenance.get('format')}, this version reads {FORMAT}; {make}")
    table = {record: Record({}, how) for record, how in provenance["records"].items()}
    for key, value in arrays.items():
        record, _, array = key.partition(":")
        table[record].arrays[array] = value
    return table


def values(table: Mapping[str, Record], setting: str) -> list:
    """The values that a setting has in a table, each once, in the order of the records."""
    found = []
    for _, how in table.values():
        if setting in how["config"] and how["config"][setting] not in found:
            found.append(how["config"][setting])
    return found


def stack(table: Mapping[str, Record], array: str, **settings) -> np.ndarray:
    """One array of many records: ``stack(table, "error", width=(64, 256), seed=range(3))``.

    Args:
        table: as `records` returns it.
        array: the name of what to stack, of one shape in all records that have it.
        settings: several values of a setting make an axis, in this order; a number or a string selects.

    Returns:
        ``(*axes, *shape)``, NaN where the table has no record.

    Raises:
        ValueError: no record is selected, two for one place, or arrays of several shapes.
    """
    axes = {key: list(value) for key, value in settings.items() if np.ndim(value) or isinstance(value, range)}
    cells = {}
    for name, (arrays, how) in table.items():
        config = how["config"]
        chosen = all(
            key in config and (config[key] in axes[key] if key in axes else config[key] == value)
            for key, value in settings.items()
        )
        if chosen and array in arrays:
            at = tuple(axis.index(config[key]) for key, axis in axes.items())
            if at in cells:
                raise ValueError(f"{cells[at]!r} and {name!r} have the same {', '.join(settings)}: select one of them.")
            cells[at] = name
    if not cells:
        raise ValueError(
            f"No record has {array!r} and {settings}; settings are those of `records(...)[...].provenance`."
        )
    found = {at: table[name].arrays[array] for at, name in cells.items()}
    shapes = {value.shape for value in found.values()}
    if len(shapes) > 1:
        raise ValueError(f"{array!r} has several shapes, {sorted(shapes)}: select records that have one.")
    first = next(iter(found.values()))
    whole = len(found) == np.prod([len(axis) for axis in axes.values()], dtype=int)
    dtype = first.dtype if whole else np.result_type(first.dtype, np.float16)  # Where NaN has a place.
    stacked = np.full((*map(len, axes.values()), *first.shape), 0 if whole else np.nan, dtype)
    for at, value in found.items():
        stacked[at] = value
    return stacked


def write_whole(path: str | Path, text: str) -> Path:
    """Write a text file, whole or not at all, into a folder that there is."""
    path = Path(path)
    with _whole(path) as part:
        part.write_text(text, encoding="utf-8")
    return path


def _folder(folder: str | Path | None) -> Path:
    """Where tables are."""
    if folder is None and not FOLDER.is_dir():
        raise ValueError(
            f"There is no folder {FOLDER}: results are kept in a checkout of the repository, and pinn_analysis is "
            "installed outside one.  Install it with `pip install --editable .`, or give `folder=`."
        )
    return FOLDER if folder is None else Path(folder)


def _plain(config: dict) -> dict:
    """Settings as they are stored."""
    return json.loads(json.dumps(config, allow_nan=False))


def _stored(name: str, folder: Path) -> dict[str, Record]:
    """The records of a table that may not be there yet."""
    return records(name, folder=folder) if (folder / f"{name}.npz").exists() else {}


def _has(table: dict[str, Record], record: str, config: dict) -> bool:
    return record in table and table[record].provenance["config"].get("steps", 0) >= config.get("steps", 0)


def _made(make: Callable, config: dict) -> Record:
    """A record, with how it was obtained."""
    start = time.perf_counter()
    provenance = {"config": config, "precision": _provenance.precision(), "commit": _provenance.commit()}
    arrays = {key: np.asarray(value) for key, value in make(config).items()}
    provenance |= {"seconds": round(time.perf_counter() - start, 3), "device": device()}
    return Record(arrays, provenance | {"versions": _provenance.versions()})


def _add(name: str, record: str, new: Record, folder: Path) -> None:
    """Add a record to what the file has by now."""
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder / f".{name}.lock"):
        if not missing(name, {record: new.provenance["config"]}, folder=folder):
            return
        table = _stored(name, folder) | {record: new}
        provenance = {"format": FORMAT, "records": {name: how for name, (_, how) in table.items()}}
        flat = {f"{name}:{key}": value for name, (arrays, _) in table.items() for key, value in arrays.items()}
        _write(folder / f"{name}.npz", provenance, flat)


def _write(path: Path, provenance: dict, arrays: dict[str, np.ndarray]) -> None:
    """Write a file, whole or not at all."""
    for key, value in arrays.items():
        if value.dtype.hasobject:
            raise ValueError(f"`{key}` cannot be stored: dtype is {value.dtype}.")
    with _whole(path) as part, part.open("wb") as file:
        np.savez_compressed(file, provenance=np.array(json.dumps(provenance)), **arrays)


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that takes its place once it is written."""
    part = path.with_name(f".{path.stem}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """While this holds, no other process that asks for the same lock goes on; a killed one lets go of it."""
    import fcntl  # Not on Windows, where tables can be read all the same.

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
