"""Records made by the workers of a Dask cluster."""

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax

from pinn_analysis import _provenance

if TYPE_CHECKING:
    from distributed import Client

EXPERIMENTS = _provenance.ROOT / "book" / "experiments"


def client() -> "Client | None":
    """The `distributed.Client` that is open, if one is, as Dask's own functions take it."""
    distributed = sys.modules.get("distributed")
    try:
        return distributed.Client.current() if distributed else None
    except ValueError:
        return None


def as_made(client: "Client", table: str, make: Callable[[dict], Any], configs: Mapping[str, dict]) -> Iterator:
    """``(record, make(config))`` of each config, one task each, in the order in which they are done.

    A task whose worker dies is run again by another.  One that raises does so here, after all others are done.
    """
    import cloudpickle
    from dask.base import tokenize
    from distributed import as_completed

    payload, precision = cloudpickle.dumps(make), _provenance.precision()
    futures, failed = {}, {}
    for record, config in configs.items():
        what = payload, config, precision
        # With the settings in its key, clients that ask for the same record share it.
        futures[client.submit(_task, *what, key=(table, record, tokenize(*what)))] = record
    for future in as_completed(futures):
        record = futures.pop(future)
        if future.status == "finished":
            yield record, future.result()
        else:
            failed[record] = future
        del future  # So that the cluster forgets what is stored.
    for future in failed.values():
        try:
            future.result()
        except Exception as error:
            error.add_note(f"Not made: {', '.join(map(repr, failed))}.  All other records are stored.")
            raise


def _task(payload: bytes, config: dict, precision: str) -> Any:
    """What a worker does, from its own checkout and in the precision of the client."""
    import cloudpickle

    loaded, now = _first_commit(), _head()
    if loaded != now:
        raise RuntimeError(
            f"This worker has loaded the code of commit {loaded}, and its checkout is at {now} by now: restart it."
        )
    if str(EXPERIMENTS) not in sys.path:
        sys.path.append(str(EXPERIMENTS))
    with jax.enable_x64(precision == "float64"):
        return cloudpickle.loads(payload)(config)


def _head() -> str:
    return _provenance.commit().partition("-")[0]


_first_commit = functools.cache(_head)  # At the first task of a worker.
