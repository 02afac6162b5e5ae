"""The papers' problems and three of others, solved by one call that chooses everything.

    python book/experiments/solved.py [--cases poisson_4 wave ...] [--seeds 10]

For chapters 22 and 23.  In the cases `given_...` the solution itself is given at the points instead of an equation:
what the features can follow at best.  Errors are measured after the fact: the solver never sees a solution.
"""

import itertools
import time

import jax

jax.config.update("jax_enable_x64", True)

import numpy as np
from pinn_analysis import Condition, identity, problems, results, solving
from pinn_analysis.problems import box

import runs


def given(problem: problems.Problem) -> problems.Problem:
    return problem._replace(conditions={"u": Condition(identity, problem.solution, box(*problem.domain))})


CASES = {
    "poisson_4": lambda: problems.poisson_1d(4),
    "poisson_C16": lambda: problems.poisson_1d(16 / np.pi),
    "poisson_C100": lambda: problems.poisson_1d(100 / np.pi),
    **{f"helmholtz_1_4_k{k}": (lambda k=k: problems.helmholtz_2d(1, 4, k)) for k in (1, 2, 3, 4)},
    "helmholtz_6_6": lambda: problems.helmholtz_2d(6, 6),
    "klein_gordon": problems.klein_gordon,
    "wave": problems.wave_1d,
    "convection_30": lambda: problems.convection(30),
    "burgers": problems.burgers,
    "allen_cahn": problems.allen_cahn,
    "cavity": problems.lid_driven_cavity,
    "given_klein_gordon": lambda: given(problems.klein_gordon()),
    "given_burgers": lambda: given(problems.burgers()),
}
MEMORY = None  # Bytes for `solve`.


def make(config: dict) -> dict:
    problem = CASES[config["case"]]()
    start, cpu = time.perf_counter(), time.process_time()
    solution = solving.solve(problem, key=jax.random.key(config["seed"]), memory=MEMORY)
    took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    residuals = {f"residual/{n}": np.sqrt(np.mean(np.square(r))) for n, r in solution.residuals.items()}
    found = {name: np.asarray(value) for name, value in solution.settings.items()}
    if problem.solution is not None:
        points = problems.test_points(problem)
        found["error"] = problems.relative_l2_error(solution.field, problem.solution, points)
    return found | took | residuals | {
        "error_estimate": solution.error_estimate, "history": np.asarray(solution.history), "rank": solution.rank,
        "condition": solution.condition, "reason": solution.reason,
    }  # fmt: skip


def main(cases: tuple[str, ...] = tuple(CASES), seeds: int = 10) -> None:
    configs = {
        f"{case} {seed}": {"case": case, "seed": seed, "solver": "solve, defaults"}
        for seed, case in itertools.product(range(seeds), cases)
    }
    results.fill("solved", configs, make)


if __name__ == "__main__":
    runs.command_line(main, cases=CASES)
