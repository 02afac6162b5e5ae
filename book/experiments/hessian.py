"""Hessian spectra along training: Figs. 4, 5 and 11 of the first paper (arXiv numbering).

    python book/experiments/hessian.py [--width 30] [--steps 3000] [--seeds 3] [--cases NAME ...]

For chapters 6 and 8.  Full-batch Adam, its rate falling by 0.9 every 1,000 steps, as in the paper,
which has width 50 and 40,000 steps.  Ends of the spectrum are found without matrices, along the
way; all eigenvalues at the end, for the first seed of the two Helmholtz problems.
"""

import functools

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from pinn_analysis import curvature, networks, problems, results, spectra, training

import runs

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


@functools.cache
def stages(case: str, width: int) -> tuple:
    """The network, ``(params, adam), points, steps -> (params, adam)``, and what is measured; compiled per case."""
    problem, architecture = CASES[case]
    network = networks.standardized(
        architecture((len(problem.domain[0]), *(width,) * HIDDEN_LAYERS, 1)), *problem.domain
    )
    optimizer = training.adam(1e-3)
    test = problems.test_points(problem)

    @jax.jit
    def advance(state, points, count):
        step = training.stepper(problem, network.apply, points, optimizer)
        return jax.lax.fori_loop(0, count, lambda _, state: step(state), state)

    @jax.jit
    def fit(params, points) -> dict:
        field = functools.partial(network.apply, params)
        now = problem.losses(field, points)
        error = problems.relative_l2_error(field, problem.solution, test)
        return {"losses": [now["boundary"], now["residual"]], "error": error}

    def measure(params, adam, points, key) -> dict:
        def ends(product) -> spectra.Extremes:
            return spectra.extreme_eigenvalues(product, params, key=key, num_matvecs=PRODUCTS)

        products = {
            part: curvature.matvecs(problem, network.apply, params, points, part=part) for part in curvature.PARTS
        }
        found = [ends(products[part].terms[term]) for part, term in MEASURED]
        count, nu = adam[0].count, adam[0].nu
        root = jax.tree.map(lambda nu: 1 / jnp.sqrt(jnp.sqrt(nu / (1 - 0.999**count)) + 1e-8), nu)
        by_adam = jax.tree_util.Partial(preconditioned, products["hessian"].whole, root)
        return {
            "ends": [[e.smallest, e.largest] for e in found],
            "adam": ends(by_adam).largest if count else np.nan,
            **fit(params, points),
        }

    return network, optimizer, advance, measure


def make(config: dict) -> dict[str, np.ndarray]:
    """Train, and measure the curvature on the way."""
    problem, _ = CASES[config["case"]]
    network, optimizer, advance, measure = stages(config["case"], config["width"])
    init_key, points_key, key = jax.random.split(jax.random.key(config["seed"]), 3)
    sizes = dict.fromkeys(problem.conditions, BATCH_SIZE) | ({"boundary": 2} if len(problem.domain[0]) == 1 else {})
    params, points = network.init(init_key), problem.sample(points_key, sizes)
    at = np.concatenate([[0], np.geomspace(min(100, config["steps"]), config["steps"], 6).round().astype(int)])
    state, rows = (params, optimizer.init(params)), []
    for more in np.diff(at, prepend=0):
        state = advance(state, points, more)
        rows.append(measure(*state, points, key))
    arrays = {"step": at} | {name: np.float32([row[name] for row in rows]) for name in rows[0]}
    if config["case"] in DENSE and config["seed"] == 0:
        values = curvature.eigenvalues(curvature.hessian(problem, network.apply, state[0], points))
        arrays |= {f"spectrum/{term}": np.float32(v) for term, v in values.items()}
    return arrays


def configs(width: int, steps: int, seeds: int, cases: tuple[str, ...]) -> dict[str, dict]:
    return {
        f"{case} {seed}": {
            "case": case, "width": width, "hidden_layers": HIDDEN_LAYERS, "steps": steps, "seed": seed,
            "batch_size": BATCH_SIZE, "boundary_points_1d": 2, "batches": "the same points in every step",
            "optimizer": runs.ADAM, "inputs": "standardized", "num_matvecs": PRODUCTS,
            "measured": [list(pair) for pair in MEASURED],
        }
        for case in cases
        for seed in range(seeds)
    }  # fmt: skip


def main(width: int = 30, steps: int = 3000, seeds: int = 3, cases: tuple[str, ...] = tuple(CASES)) -> None:
    results.fill("hessian", configs(width, steps, seeds, cases), make)


if __name__ == "__main__":
    runs.command_line(main, cases=CASES)
