"""What the experiments of the first paper have in common: its four methods, and tables of runs."""

import time
from collections.abc import Callable

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from pinn_analysis import networks, results, training, weighting

MODELS = {  # Architecture, and whether the weights are annealed.
    "M1": (networks.mlp, False),
    "M2": (networks.mlp, True),
    "M3": (networks.modified_mlp, False),
    "M4": (networks.modified_mlp, True),
}
RECORD_EVERY = 200


def settings(problem, model: str, width: int, depth: int, seed: int, steps: int, batch_size: dict, weights: dict):
    """Configuration of one run, as it is stored with it."""
    return {
        "problem": problem.name, "model": model, "width": width, "depth": depth, "seed": seed, "steps": steps,
        "batch_size": batch_size, "optimizer": "adam 1e-3, 0.9 per 1,000", "precision": "float32",
        "weights": "lr_annealing siam 0.9, every 10" if MODELS[model][1] else weights, "inputs": "standardized",
    }  # fmt: skip


def of_model(problem, config: dict):
    """Network and rule for the weights of one of MODELS."""
    architecture, annealed = MODELS[config["model"]]
    network = architecture((len(problem.domain[0]), *[config["width"]] * config["depth"], 1))
    return network, weighting.lr_annealing() if annealed else weighting.fixed(**config["weights"])


def fill(name: str, problem_of: Callable, configs: dict[str, dict], build: Callable = of_model) -> None:
    """Train what ``book/results/name.npz`` does not have yet, one record a configuration.

    ``problem_of(config)`` and ``build(problem, config) -> network, weighting`` say what.
    """
    for record in results.missing(name, configs):
        config = configs[record]
        problem = problem_of(config)
        network, rule = build(problem, config)
        start = time.perf_counter()
        run = training.train(
            problem, networks.standardized(network, *problem.domain), key=jax.random.key(config["seed"]),
            steps=config["steps"], batch_size=config["batch_size"], record_every=RECORD_EVERY, weighting=rule,
        )  # fmt: skip
        kept = ("error", *(f"{kind}/{term}" for kind in ("loss", "weight") for term in problem.conditions))
        history = {key.replace("/", "_"): run.history[key].astype(np.float32) for key in kept}
        results.add(
            name, record, config, seconds=time.perf_counter() - start, step=run.history["step"],
            parameters=ravel_pytree(run.params)[0].size, **history,
        )  # fmt: skip
