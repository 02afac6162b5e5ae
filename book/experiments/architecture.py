"""The improved architecture on Helmholtz against plain networks of equal size and of equal cost.

    python book/experiments/architecture.py [--steps 40000] [--seeds 3]

Saved after every run; a second call does what is missing.
"""

import argparse
import time

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from pinn_analysis import networks, problems, results, training, weighting

BATCH_SIZE = 128
RECORD_EVERY = 400
RECORDED = ("error", "loss/boundary", "loss/residual")
MLP, MODIFIED = networks.mlp, networks.modified_mlp
# Name: architecture, width, whether weights are annealed.  Three hidden layers each.
NETWORKS = {
    "modified 50": (MODIFIED, 50, False),
    "plain 50": (MLP, 50, False),
    "plain 52": (MLP, 52, False),  # As many parameters as the first, and a few more.
    "plain 100": (MLP, 100, False),  # At least as costly a step.
    "modified 50, annealed": (MODIFIED, 50, True),
    "plain 100, annealed": (MLP, 100, True),
}


def main(steps: int, seeds: int) -> None:
    config = {
        "problem": "helmholtz_2d", "hidden_layers": 3, "steps": steps, "batch_size": BATCH_SIZE,
        "optimizer": "adam 1e-3, 0.9 per 1,000", "annealing": "siam", "precision": "float32",
        "inputs": "standardized", "record_every": RECORD_EVERY,
    }  # fmt: skip
    problem = problems.helmholtz_2d()
    done, seconds = stored(config)
    for seed in range(seeds):
        for name, (make, width, annealed) in NETWORKS.items():
            if (name, seed) in done:
                continue
            start = time.perf_counter()
            run = training.train(
                problem, networks.standardized(make((2, width, width, width, 1)), *problem.domain),
                key=jax.random.key(seed), steps=steps, batch_size=BATCH_SIZE,
                weighting=weighting.lr_annealing() if annealed else None, record_every=RECORD_EVERY,
            )  # fmt: skip
            done[name, seed] = {recorded: run.history[recorded] for recorded in RECORDED}
            seconds += time.perf_counter() - start
            save(done, config, seconds)


def parameters(make, width: int) -> int:
    return ravel_pytree(make((2, width, width, width, 1)).init(jax.random.key(0)))[0].size


def save(done: dict, config: dict, seconds: float) -> None:
    """Arrays ``(network, seed, t)``, NaN where there is no run yet."""
    names, seeds = list(NETWORKS), sorted({seed for _, seed in done})
    length = len(next(iter(done.values()))["error"])
    empty = dict.fromkeys(RECORDED, np.full(length, np.nan))
    arrays = {
        recorded.replace("/", "_"): np.array(
            [[done.get((name, seed), empty)[recorded] for seed in seeds] for name in names], np.float32
        )
        for recorded in RECORDED
    }
    arrays["parameters"] = np.array([parameters(make, width) for make, width, _ in NETWORKS.values()])
    arrays["step"] = np.append(np.arange(0, config["steps"], RECORD_EVERY), config["steps"])
    results.save("architecture", config | {"networks": names, "seeds": seeds}, seconds=seconds, **arrays)


def stored(config: dict) -> tuple[dict, float]:
    """Runs of an earlier call with the same settings, and the time they took."""
    try:
        arrays, how = results.load("architecture")
    except FileNotFoundError:
        return {}, 0.0
    names, seeds = how["config"].pop("networks"), how["config"].pop("seeds")
    if how["config"] != config:
        raise SystemExit(f"The stored runs have other settings, {how['config']}; move that file away first.")
    done = {
        (name, seed): {recorded: arrays[recorded.replace("/", "_")][i, j] for recorded in RECORDED}
        for i, name in enumerate(names)
        for j, seed in enumerate(seeds)
    }
    return {cell: history for cell, history in done.items() if np.isfinite(history["error"]).all()}, how["seconds"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--seeds", type=int, default=3)
    main(**vars(parser.parse_args()))
