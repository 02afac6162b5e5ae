"""Hessian spectra along training: Figs. 4, 5 and 11 of the first paper (arXiv numbering).

    python book/experiments/hessian.py [--steps 5000] [--seeds 2] [--dense]

Full-batch Adam, its rate falling by 0.9 every 1,000 steps.  Ends of the spectrum are found
without matrices, along the way; with `--dense`, all eigenvalues at the end for the first
seed of the two Helmholtz problems of the paper (some minutes and 1 GB each).  The file is
written after every case, and a second call goes on where the first one ended.
"""

import argparse
import functools
import time

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
import optax
from pinn_analysis import curvature, networks, problems, results, training

LEARNING_RATE = 1e-3
BATCH_SIZE = 128  # Of all the first paper's experiments, here the same points in all steps.
WIDTHS = (50, 50, 50)
LANCZOS = 48
# What is measured: a part of the Hessian, of a term.
MEASURED = [("hessian", "boundary"), ("hessian", "residual"), ("hessian", "all"), ("gauss_newton", "residual"),
            ("rest", "residual")]  # fmt: skip
CASES = {
    **{f"poisson {c}": (problems.poisson_1d(c / np.pi), networks.mlp((1, *WIDTHS, 1))) for c in (1, 2, 4, 8, 16)},
    "helmholtz 1 M1": (problems.helmholtz_2d(1, 1), networks.mlp((2, *WIDTHS, 1))),
    "helmholtz 4 M1": (problems.helmholtz_2d(1, 4), networks.mlp((2, *WIDTHS, 1))),
    "helmholtz 4 M3": (problems.helmholtz_2d(1, 4), networks.modified_mlp((2, *WIDTHS, 1))),
}
DENSE = ("helmholtz 1 M1", "helmholtz 4 M1")


def preconditioned(product, root, v):
    """``P^-½ H P^-½ v``: the Hessian that Adam sees, ``root`` being ``P^-½``."""
    return jax.tree.map(jnp.multiply, root, product(jax.tree.map(jnp.multiply, root, v)))


def follow(problem, network, at: np.ndarray, seed: int) -> tuple[dict[str, np.ndarray], object, dict]:
    """Train, and look at the curvature after each number of steps in ``at``."""
    # Its own loop: `training.train` does not hand out the state of Adam.
    init_key, points_key, lanczos_key = jax.random.split(jax.random.key(seed), 3)
    params = network.init(init_key)
    sizes = {name: 2 if problem.name == "poisson_1d" and name == "boundary" else BATCH_SIZE for name in
             problem.conditions}  # fmt: skip
    points = problem.sample(points_key, sizes)
    optimizer = training.adam(LEARNING_RATE)
    test = problems.grid(problem, training.TEST_POINTS[len(problem.domain[0])])

    def losses(params) -> dict:
        return problem.losses(functools.partial(network.apply, params), points)

    def step(_, state):
        params, adam = state
        updates, adam = optimizer.update(jax.grad(lambda p: sum(losses(p).values()))(params), adam)
        return optax.apply_updates(params, updates), adam

    advance = jax.jit(lambda state, count: jax.lax.fori_loop(0, count, step, state))
    record = jax.jit(lambda params: losses(params) | {
        "error": problems.relative_l2_error(functools.partial(network.apply, params), problem.solution, test)
    })  # fmt: skip

    def look(params, adam) -> dict[str, np.ndarray]:
        products = {
            part: curvature.matvecs(problem, network.apply, params, points, part=part)
            for part in curvature.PARTS
        }  # fmt: skip
        extremes = functools.partial(curvature.extreme_eigenvalues, key=lanczos_key, num_matvecs=LANCZOS)
        found = [extremes(products[part][term], params) for part, term in MEASURED]
        second = jax.tree.map(lambda nu: nu / (1 - 0.999 ** jnp.maximum(adam[0].count, 1)), adam[0].nu)
        root = jax.tree.map(lambda nu: 1 / jnp.sqrt(jnp.sqrt(nu) + 1e-8), second)
        seen = jax.tree_util.Partial(preconditioned, products["hessian"]["all"], root)
        now = record(params)
        return {
            "ends": np.array([[e.smallest, e.largest] for e in found]),
            "bounds": np.array([e.errors for e in found]),
            "adam": np.array(extremes(seen, params).largest if adam[0].count > 0 else np.nan),
            "losses": np.array([now["boundary"], now["residual"]]),
            "error": np.array(now["error"]),
        }

    state, rows = (params, optimizer.init(params)), []
    for before, now in zip([0, *at[:-1]], at, strict=True):
        state = advance(state, now - before)
        rows.append(look(*state))
    return {name: np.stack([row[name] for row in rows]) for name in rows[0]}, state[0], points


def main(steps: int, seeds: int, dense: bool) -> None:
    at = np.concatenate([[0], np.unique(np.geomspace(100, steps, 8).round().astype(int))])
    config = {
        "steps": steps, "seeds": list(range(seeds)), "widths": WIDTHS, "batch_size": BATCH_SIZE,
        "boundary_points_1d": 2,
        "optimizer": "adam 1e-3, 0.9 per 1,000", "batches": "the same points in every step", "inputs": "standardized",
        "precision": "float64", "num_matvecs": LANCZOS, "measured": [" ".join(pair) for pair in MEASURED],
        "cases": list(CASES), "dense": list(DENSE),
    }  # fmt: skip
    arrays, spent = {"step": at}, 0.0
    try:
        have, how = results.load("hessian")
        if {k: v for k, v in how["config"].items()} == as_stored(config):
            arrays, spent = have, how["seconds"]
    except FileNotFoundError:
        pass

    def store(**new: np.ndarray) -> None:
        nonlocal spent, start
        arrays.update(new)
        spent, start = spent + time.perf_counter() - start, time.perf_counter()
        results.save("hessian", config, seconds=spent, **arrays)

    start = time.perf_counter()
    for name, (problem, plain) in CASES.items():
        network = networks.standardized(plain, *problem.domain)
        key = name.replace(" ", "_")
        wanted = dense and name in DENSE and f"{key}_spectrum_residual" not in arrays
        if f"{key}_ends" not in arrays:
            runs = [follow(problem, network, at, seed) for seed in range(seeds)]
            stacked = {f"{key}_{what}": np.stack([run[0][what] for run in runs]) for what in runs[0][0]}
            store(**{what: value.astype(np.float32) for what, value in stacked.items()})
            print(name, f"{spent:.0f} s", flush=True)
        elif wanted:
            runs = [follow(problem, network, at, 0)]
        if wanted:
            _, params, points = runs[0]
            matrices = curvature.hessian(problem, network.apply, params, points)
            for term, values in curvature.eigenvalues(matrices).items():
                store(**{f"{key}_spectrum_{term}": np.asarray(values, np.float32)})
            print(name, "dense", f"{spent:.0f} s", flush=True)
        jax.clear_caches()


def as_stored(config: dict) -> dict:
    """As it comes back from the file: tuples are lists there."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in config.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=5_000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--dense", action="store_true")
    main(**vars(parser.parse_args()))
