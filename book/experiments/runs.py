"""What the experiments have in common: a command line, training, gradient descent."""

import argparse
import contextlib
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from pinn_analysis import networks, problems, training, weighting

MODELS = {  # The four methods of the first paper: architecture, and whether the weights are annealed.
    "M1": (networks.mlp, False),
    "M2": (networks.mlp, True),
    "M3": (networks.modified_mlp, False),
    "M4": (networks.modified_mlp, True),
}
ADAM = "adam 1e-3, 0.9 per 1,000"  # `training.adam()`, which `train` takes if nothing is said.
ANNEALED = "lr_annealing siam 0.9, every 10"  # `weighting.lr_annealing()`.
RECORD_EVERY = 200


def command_line(main: Callable, **choices: Iterable[str]) -> None:
    """Call ``main`` with an option for each of its arguments; the default says its type, and whether it is a list.

    ``--dask`` or ``--scheduler ADDRESS`` lets workers make the records, several at a time.
    """
    parser = argparse.ArgumentParser(
        description=sys.modules["__main__"].__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, parameter in inspect.signature(main).parameters.items():
        default = parameter.default
        several = isinstance(default, tuple)
        parser.add_argument(
            f"--{name}", default=default, type=type(default[0] if several else default),
            nargs="+" if several else None, choices=choices.get(name),
        )  # fmt: skip
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--dask", action="store_true", help="make records side by side, one per core of this machine")
    where.add_argument("--scheduler", metavar="ADDRESS", help="make records on the workers of this Dask scheduler")
    options = vars(parser.parse_args())
    dask, address = options.pop("dask"), options.pop("scheduler")
    if not (dask or address):
        main(**options)
        return
    try:
        import distributed  # noqa: F401
    except ModuleNotFoundError:
        parser.error("`--dask` and `--scheduler` need Dask: pip install 'pinn-analysis[dask]'")
    with workers(address):
        _importable(main)(**options)


@contextlib.contextmanager
def workers(address: str | None) -> Iterator[None]:
    """A Dask client of the scheduler at an address; without one, of a cluster with a worker for each core."""
    from distributed import Client, LocalCluster, WorkerPlugin

    class OneCore(WorkerPlugin):
        """Without it, each worker computes on all cores, and they wait for each other."""

        def setup(self, worker) -> None:
            if hasattr(os, "sched_setaffinity"):
                cores = sorted(os.sched_getaffinity(0))
                os.sched_setaffinity(0, {cores[int(worker.name) % len(cores)]})

    if address:
        with Client(address):
            yield
    else:
        with LocalCluster(threads_per_worker=1, env={"JAX_PLATFORMS": "cpu"}) as cluster, Client(cluster) as client:
            client.register_plugin(OneCore())
            yield


def _importable(main: Callable) -> Callable:
    """``main`` of a script that is run, from the module of the same name: workers import what they are to make."""
    if main.__module__ != "__main__":
        return main
    return getattr(importlib.import_module(Path(inspect.getfile(main)).stem), main.__name__)


def settings(**own) -> dict:
    """The configuration of a run that `train` makes, from what is its own."""
    return own | {"optimizer": ADAM, "inputs": "standardized"}


def by_seed(seeds: int, width: int, depth: int, **own) -> dict[str, dict]:
    """`settings` of the same run of a network of two inputs from several seeds."""
    sizes = (2, *[width] * depth, 1)
    return {f"{width} {seed}": settings(width=width, sizes=sizes, seed=seed, **own) for seed in range(seeds)}


def of_model(problem: problems.Problem, model: str, fixed: dict, **own) -> dict:
    """The configuration of a run of one of MODELS, ``fixed`` being the weights of those that do not anneal them."""
    return settings(problem=problem.name, model=model, weights=ANNEALED if MODELS[model][1] else fixed, **own)


def train(config: dict, problem, network, weights: weighting.Weighting | None = None, **options) -> training.Run:
    """A run of some `settings`, its inputs standardized."""
    return training.train(
        problem, networks.standardized(network, *problem.domain), key=jax.random.key(config["seed"]), **{
            "steps": config["steps"], "batch_size": config["batch_size"], "record_every": RECORD_EVERY,
            "weighting": weights, **options,
        },
    )  # fmt: skip


def train_model(config: dict, problem: problems.Problem) -> dict[str, np.ndarray]:
    """A run `of_model`, as it is stored."""
    architecture, annealed = MODELS[config["model"]]
    network = architecture((len(problem.domain[0]), *[config["width"]] * config["depth"], 1))
    rule = weighting.lr_annealing() if annealed else weighting.fixed(**config["weights"])
    return stored(train(config, problem, network, rule))


def stored(run: training.Run, kinds: tuple[str, ...] = ("error", "loss", "weight")) -> dict[str, np.ndarray]:
    """Step numbers, and the kinds of histories wanted, in single precision."""
    kept = {name: np.float32(y) for name, y in run.history.items() if name.partition("/")[0] in kinds}
    return {"step": run.history["step"], "parameters": ravel_pytree(run.params)[0].size, **kept}


def descent(problem, apply: Callable, points: dict, learning_rate, weights: dict | None = None) -> Callable:
    """``params -> params``: one step of gradient descent on all points."""
    optimizer = optax.sgd(learning_rate)
    step = training.stepper(problem, apply, points, optimizer, weights)
    return lambda params: step((params, optimizer.init(params)))[0]
