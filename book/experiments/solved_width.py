"""How many parameters a digit costs: the error of solved networks against their width, and the limit of width.

    python book/experiments/solved_width.py [--cases poisson_4 helmholtz_1_4] [--ways sines ...] [--seeds 3]

For chapter 21.  Four ways, on the same fixed points: one layer of sines at the scales that `solving.solve` chooses,
linearised; the papers' deep tanh, linearised at the papers' start; that tanh itself, by Gauss-Newton; and the infinite
limit of the sines.
"""

import itertools
import time

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np
from jax.flatten_util import ravel_pytree
from pinn_analysis import networks, problems, results, solving

import runs
from solver_control import CASES, choice

ROWS = {"poisson_4": {"boundary": 2, "residual": 498}, "helmholtz_1_4": {"boundary": 200, "residual": 800}}
LIMIT_ROWS = {"poisson_4": {"boundary": 2, "residual": 298}, "helmholtz_1_4": {"boundary": 100, "residual": 500}}
WIDTHS = {
    "sines": {"poisson_4": (4, 8, 16, 32, 64, 128), "helmholtz_1_4": (12, 25, 50, 100, 200)},
    "tanh": {"poisson_4": (4, 6, 8, 12, 16, 20), "helmholtz_1_4": (4, 6, 8, 12, 16, 20, 30, 50)},
    "itself": dict.fromkeys(CASES, (4, 6, 8, 12, 16)),
    "limit": dict.fromkeys(CASES, (0,)),  # Has none.
}
DEPTH = 3  # Hidden layers of the tanh: the first paper's M1.


def network(config: dict, problem: problems.Problem) -> networks.Network:
    d, width = len(problem.domain[0]), config["width"]
    if config["way"] in ("tanh", "itself"):
        return networks.standardized(networks.mlp((d, *[width] * DEPTH, 1), "tanh"), *problem.domain)
    layers = networks.mlp((d, max(width, 1), 1), "sin", parameterization="ntk", bias_std=1.0)
    # Inputs stretched about the middle of the box: the scales are frequencies per axis.
    low, high = map(np.asarray, problem.domain)
    middle, half = (low + high) / 2, (high - low) / 2 / np.asarray(config["scales"])
    return networks.standardized(layers, middle - half, middle + half)


def make(config: dict) -> dict:
    problem, key = CASES[config["case"]](), jax.random.key(config["seed"])
    start = time.perf_counter()
    solved = network(config, problem)
    points = problem.sample(key, (LIMIT_ROWS if config["way"] == "limit" else ROWS)[config["case"]])
    unsolved = problem._replace(solution=None)
    if config["way"] == "limit":
        solution = solving.limit(unsolved, solved.kernel_fn, points, key=key)
    else:
        if config["way"] != "itself":
            solved = networks.linearized(solved, solved.init(key), centered=config["way"] == "sines")
        solution = solving.least_squares(unsolved, solved, points, key=key)
    error = problems.relative_l2_error(solution.field, problem.solution, problems.test_points(problem))
    parameters = 0 if solution.params is None else ravel_pytree(solution.params)[0].size
    return {
        "error": error, "error_estimate": solution.error_estimate, "rank": solution.rank, "parameters": parameters,
        "reason": solution.reason, "seconds": time.perf_counter() - start,
    }  # fmt: skip


def configs(cases: tuple[str, ...], ways: tuple[str, ...], seeds: int) -> dict[str, dict]:
    found = {}
    for seed, case, way in itertools.product(range(seeds), cases, ways):
        config = {"case": case, "way": way, "seed": seed}
        if way in ("sines", "limit"):
            config["scales"] = choice(case, seed)["scales"]
        found |= {f"{case} {way} {width} {seed}": config | {"width": width} for width in WIDTHS[way][case]}
    return found


def main(cases: tuple[str, ...] = tuple(CASES), ways: tuple[str, ...] = tuple(WIDTHS), seeds: int = 3) -> None:
    results.fill("solved_width", configs(cases, ways, seeds), make)


if __name__ == "__main__":
    runs.command_line(main, cases=CASES, ways=WIDTHS)
