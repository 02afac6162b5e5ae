"""Hessian spectra along training: Figs. 4, 5 and 11 of the first paper (arXiv numbering).

    python book/experiments/hessian.py [--width 30] [--steps 3000] [--seeds 3] [--cases NAME ...]

Full-batch Adam, its rate falling by 0.9 every 1,000 steps, as in the paper, which has width 50
and 40,000 steps.  Ends of the spectrum are found without matrices, along the way; all
eigenvalues at the end, for the first seed of the two Helmholtz problems.  The file is written
after every case, and a second call goes on where the first one ended.
"""

import argparse
import functools
import time

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
import optax
from pinn_analysis import curvature, networks, problems, results, spectra, training

HIDDEN_LAYERS = 3
BATCH_SIZE = 128  # Of all the first paper's experiments; here the same points in all steps.
PRODUCTS = 32  # For each pair of eigenvalues.
# What is measured: a part of the Hessian, of a term.
MEASURED = (("hessian", "boundary"), ("hessian", "residual"), ("gauss_newton", "residual"), ("rest", "residual"))
CASES = {
    "helmholtz_1_M1": (problems.helmholtz_2d(1, 1), networks.mlp),
    "helmholtz_4_M1": (problems.helmholtz_2d(1, 4), networks.mlp),
    "helmholtz_4_M3": (problems.helmholtz_2d(1, 4), networks.modified_mlp),
    **{f"poisson_{c}": (problems.poisson_1d(c / np.pi), networks.mlp) for c in (1, 2, 4, 8, 16)},
}
DENSE = ("helmholtz_1_M1", "helmholtz_4_M1")


def preconditioned(product, root, v):
    """``P^-½ H P^-½ v``: the Hessian as Adam sees it, ``root`` being ``P^-½``."""
    return jax.tree.map(jnp.multiply, root, product(jax.tree.map(jnp.multiply, root, v)))


def follow(problem, network, at: np.ndarray, seeds: int):
    """Train, and look at the curvature after each number of steps in ``at``; for each seed."""
    # Its own loop: `training.train` does not hand out the state of Adam.
    optimizer = training.adam(1e-3)
    test = problems.test_points(problem)
    sizes = dict.fromkeys(problem.conditions, BATCH_SIZE) | ({"boundary": 2} if len(problem.domain[0]) == 1 else {})

    def losses(params, points) -> dict:
        return problem.losses(functools.partial(network.apply, params), points)

    @jax.jit
    def advance(state, points, count):
        def step(_, state):
            params, adam = state
            updates, adam = optimizer.update(jax.grad(lambda p: sum(losses(p, points).values()))(params), adam)
            return optax.apply_updates(params, updates), adam

        return jax.lax.fori_loop(0, count, step, state)

    @jax.jit
    def record(params, points):
        field = functools.partial(network.apply, params)
        return losses(params, points) | {"error": problems.relative_l2_error(field, problem.solution, test)}

    def look(params, adam, points, key) -> dict:
        def ends(product) -> spectra.Extremes:
            return spectra.extreme_eigenvalues(product, params, key=key, num_matvecs=PRODUCTS)

        products = {
            part: curvature.matvecs(problem, network.apply, params, points, part=part) for part in curvature.PARTS
        }
        found = [ends(products[part].terms[term]) for part, term in MEASURED]
        count, nu = adam[0].count, adam[0].nu
        root = jax.tree.map(lambda nu: 1 / jnp.sqrt(jnp.sqrt(nu / (1 - 0.999**count)) + 1e-8), nu)
        seen = jax.tree_util.Partial(preconditioned, products["hessian"].whole, root)
        now = record(params, points)
        return {
            "ends": [[e.smallest, e.largest] for e in found],
            "adam": ends(seen).largest if count else np.nan,
            "losses": [now["boundary"], now["residual"]],
            "error": now["error"],
        }

    for seed in range(seeds):
        init_key, points_key, key = jax.random.split(jax.random.key(seed), 3)
        params, points = network.init(init_key), problem.sample(points_key, sizes)
        state, rows = (params, optimizer.init(params)), []
        for before, now in zip([0, *at[:-1]], at, strict=True):
            state = advance(state, points, now - before)
            rows.append(look(*state, points, key))
        yield {name: np.array([row[name] for row in rows], np.float32) for name in rows[0]}, state[0], points


def main(width: int, steps: int, seeds: int, cases: list[str]) -> None:
    at = np.concatenate([[0], np.geomspace(100, steps, 6).round().astype(int)])
    config = {
        "width": width, "hidden_layers": HIDDEN_LAYERS, "steps": steps, "seeds": list(range(seeds)),
        "batch_size": BATCH_SIZE, "boundary_points_1d": 2, "batches": "the same points in every step",
        "optimizer": "adam 1e-3, 0.9 per 1,000", "inputs": "standardized", "precision": "float64",
        "num_matvecs": PRODUCTS, "measured": [list(pair) for pair in MEASURED],
    }  # fmt: skip
    arrays, before = {"step": at}, 0.0
    try:
        stored, how = results.load("hessian")
        if how["config"] == config:
            arrays, before = stored, how["seconds"]
    except FileNotFoundError:
        pass
    start = time.perf_counter()
    for name in cases:
        if f"{name}_ends" in arrays:
            continue
        problem, architecture = CASES[name]
        layers = (len(problem.domain[0]), *(width,) * HIDDEN_LAYERS, 1)
        network = networks.standardized(architecture(layers), *problem.domain)
        runs = list(follow(problem, network, at, seeds))
        arrays |= {f"{name}_{what}": np.stack([run[what] for run, _, _ in runs]) for what in runs[0][0]}
        if name in DENSE:
            _, params, points = runs[0]
            values = curvature.eigenvalues(curvature.hessian(problem, network.apply, params, points))
            arrays |= {f"{name}_spectrum_{term}": v.astype(np.float32) for term, v in values.items()}
        spent = before + time.perf_counter() - start
        results.save("hessian", config, seconds=spent, **arrays)
        print(f"{name}: {spent:.0f} s, CPU {time.process_time():.0f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=30)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    main(**vars(parser.parse_args()))
