"""Learning-rate annealing on Helmholtz: the two published rules, the authors' code, constants.

    python book/experiments/annealing.py [--steps 40000] [--seeds 3]

The network of the first paper's code, three hidden layers of 50, once for each entry of
VARIANTS and each seed.  Saved after every run; a second call does what is missing.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from pinn_analysis import gradients, networks, problems, results, training, weighting

SIZES = (2, 50, 50, 50, 1)
BATCH_SIZE = 128
RECORD_EVERY = 400
RECORDED = ("error", "loss/boundary", "loss/residual", "weight/boundary")


def helmholtz(edges_added: bool) -> problems.Problem:
    """With one mean over the boundary, or the sum of four means of the authors' code: (2u)² = 4u²."""
    problem = problems.helmholtz_2d()
    if not edges_added:
        return problem
    boundary = problem.conditions["boundary"]._replace(operator=lambda u: lambda x: 2 * u(x))
    return problem._replace(conditions=problem.conditions | {"boundary": boundary})


def of_matrices(decay: float = 0.9, every: int = 10) -> weighting.Weighting:
    """The rule as the authors' code has it: no biases, and the mean of the means of the layers."""

    def init(problem):
        return {name: jnp.ones(()) for name in problem.conditions}, jnp.zeros((), int)

    def update(state, problem, apply, params, points):
        weights, count = state

        def move():
            grads = gradients.by_term(problem, apply, params, points)
            layers = {name: [abs(layer["weight"]) for layer in gradient] for name, gradient in grads.items()}
            largest = jnp.stack([layer.max() for layer in layers["residual"]]).max()
            mean = jnp.stack([layer.mean() for layer in layers["boundary"]]).mean()
            old = weights["boundary"]
            return weights | {"boundary": decay * old + (1 - decay) * largest / (old * mean)}

        weights = jax.lax.cond(count % every == 0, move, lambda: weights)
        return weights, (weights, count + 1)

    return weighting.Weighting(init, update)


def constant(weight: float) -> weighting.Weighting:
    return weighting.fixed(boundary=weight, residual=1.0)


FOUR_EDGES = {"boundary": 4 * BATCH_SIZE, "residual": BATCH_SIZE}
# Name: rule, whether the means of the four edges are added, batch size.
VARIANTS = {
    "constant 1": (constant(1.0), False, BATCH_SIZE),
    "siam": (weighting.lr_annealing("siam"), False, BATCH_SIZE),
    "arxiv": (weighting.lr_annealing("arxiv"), False, BATCH_SIZE),
    "code": (of_matrices(), True, FOUR_EDGES),
    "constant 100": (constant(100.0), False, BATCH_SIZE),
    "siam, edges added": (weighting.lr_annealing("siam"), True, BATCH_SIZE),
    "siam, matrices": (of_matrices(), False, BATCH_SIZE),
    "arxiv, decay 0.9": (weighting.lr_annealing("arxiv", decay=0.9), False, BATCH_SIZE),
    "constant 1000": (constant(1000.0), False, BATCH_SIZE),
    "constant 4": (constant(4.0), False, BATCH_SIZE),
    "siam, 512 points": (weighting.lr_annealing("siam"), False, FOUR_EDGES),
    "siam, decay 0.1": (weighting.lr_annealing("siam", decay=0.1), False, BATCH_SIZE),
    "constant 10": (constant(10.0), False, BATCH_SIZE),
}


def main(steps: int, seeds: int) -> None:
    config = {
        "problem": "helmholtz_2d", "sizes": SIZES, "steps": steps, "batch_size": BATCH_SIZE,
        "optimizer": "adam 1e-3, 0.9 per 1,000", "precision": "float32", "inputs": "standardized",
        "record_every": RECORD_EVERY,
    }  # fmt: skip
    done, seconds = stored(config)
    for seed in range(seeds):
        for name, (rule, edges_added, batch_size) in VARIANTS.items():
            if (name, seed) in done:
                continue
            start = time.perf_counter()
            problem = helmholtz(edges_added)
            network = networks.standardized(networks.mlp(SIZES), *problem.domain)
            run = training.train(
                problem, network, key=jax.random.key(seed), steps=steps, batch_size=batch_size, weighting=rule,
                record_every=RECORD_EVERY,
            )  # fmt: skip
            done[name, seed] = {recorded: run.history[recorded] for recorded in RECORDED}
            seconds += time.perf_counter() - start
            save(done, config, seconds)


def save(done: dict, config: dict, seconds: float) -> None:
    """Arrays ``(variant, seed, t)``, NaN where there is no run yet."""
    names, seeds = list(VARIANTS), sorted({seed for _, seed in done})
    length = len(next(iter(done.values()))["error"])
    empty = dict.fromkeys(RECORDED, np.full(length, np.nan))
    arrays = {
        recorded.replace("/", "_"): np.array(
            [[done.get((name, seed), empty)[recorded] for seed in seeds] for name in names], np.float32
        )
        for recorded in RECORDED
    }
    step = np.append(np.arange(0, config["steps"], RECORD_EVERY), config["steps"])
    results.save("annealing", config | {"variants": names, "seeds": seeds}, seconds=seconds, step=step, **arrays)


def stored(config: dict) -> tuple[dict, float]:
    """Runs of an earlier call with the same settings, and the time they took."""
    try:
        arrays, how = results.load("annealing")
    except FileNotFoundError:
        return {}, 0.0
    names, seeds = how["config"].pop("variants"), how["config"].pop("seeds")
    if how["config"] != config | {"sizes": list(SIZES)}:
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
