"""Error against wall time, of one run each on one machine: solved, and trained by the papers' methods and by L-BFGS.

    python book/experiments/error_against_time.py [--cases poisson_4 helmholtz klein_gordon wave convection_30]
        [--methods "solve" "solve, float32" "network itself" "limit" "M1" "M4" "Algorithm 1" "L-BFGS"] [--seeds 1]

For chapter 22.  Training in the precision of the papers, L-BFGS in double, with a full batch.
"""

import itertools
import time

import jax
import numpy as np
import optax
from pinn_analysis import networks, problems, results, solving, weighting

import runs

CASES = {  # The problem, the papers' network, and the weights of M1: sums over sides become means over all of them.
    "poisson_4": (lambda: problems.poisson_1d(4), (100,), {}),
    "helmholtz": (problems.helmholtz_2d, (50, 50, 50), {"boundary": 4.0, "residual": 1.0}),
    "klein_gordon": (problems.klein_gordon, (50,) * 5, {"boundary": 2.0}),
    "wave": (problems.wave_1d, (100,) * 5, {}),
    "convection_30": (lambda: problems.convection(30), (50,) * 4, {}),
}
STEPS = {"M1": 40_000, "M4": 40_000, "Algorithm 1": 20_000, "L-BFGS": 5_000}
FULL_BATCH, BATCH = 1000, 128
PARTS = 50  # Of a run, at whose ends the error is recorded.
SOLVED = ("solve", "solve, float32", "network itself", "limit")
SMALL = (32, 32)  # Hidden layers of the network that is solved for itself.
SCALES, LIMIT_POINTS = (1.0, 2.0, 4.0, 8.0, 16.0), {"inside": 300, "edge": 60}


def single(method: str) -> bool:
    return method in ("solve, float32", "M1", "M4", "Algorithm 1")


def network(config: dict, problem: problems.Problem) -> networks.Network:
    layers = (len(problem.domain[0]), *config["hidden"], 1)
    architecture, _ = runs.MODELS.get(config["method"], runs.MODELS["M1"])
    return networks.standardized(architecture(layers), *problem.domain)


def solved(config: dict, problem: problems.Problem) -> solving.Solution:
    """By one of SOLVED; none of them sees the solution."""
    problem, key = problem._replace(solution=None), jax.random.key(config["seed"])
    if config["method"].startswith("solve"):
        return solving.solve(problem, key=key)
    if config["method"] == "network itself":
        return solving.least_squares(problem, network(config, problem), problem.sample(key, FULL_BATCH), key=key)
    layers = [
        networks.mlp((len(problem.domain[0]), 1, 1), "sin", parameterization="ntk", weight_std=scale, bias_std=1.0)
        for scale in SCALES
    ]
    number = {name: LIMIT_POINTS["inside" if name == "residual" else "edge"] for name in problem.conditions}
    points = problem.sample(key, number)
    each = [
        solving.limit(problem, networks.standardized(one, *problem.domain).kernel_fn, points, key=key)
        for one in layers
    ]  # fmt: skip
    return min(each, key=lambda solution: solution.error_estimate)


def make(config: dict) -> dict:
    problem = CASES[config["case"]][0]()
    start, cpu = time.perf_counter(), time.process_time()
    if config["method"] in SOLVED:
        solution = solved(config, problem)
        error = problems.relative_l2_error(solution.field, problem.solution, problems.test_points(problem))
        found = {"error": error, "error_estimate": solution.error_estimate}
    else:
        rules = {"M4": weighting.lr_annealing(), "Algorithm 1": weighting.ntk_trace(every=1000)}
        ones = dict.fromkeys(problem.conditions, 1.0) | CASES[config["case"]][2]
        options = {"record_every": max(1, config["steps"] // PARTS)}
        if config["method"] == "L-BFGS":
            options |= {"optimizer": optax.lbfgs(), "points": problem.sample(jax.random.key(1), FULL_BATCH)}
        run = runs.train(
            config, problem, network(config, problem), rules.get(config["method"], weighting.fixed(**ones)), **options
        )
        found = {"step": run.history["step"], "error": np.float32(run.history["error"])}
    return found | {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}


def configs(cases: tuple[str, ...], methods: tuple[str, ...], seeds: int) -> dict[str, dict]:
    found = {}
    for seed, case, method in itertools.product(range(seeds), cases, methods):
        config = {"case": case, "method": method, "seed": seed}
        if method in SOLVED:
            config |= {"hidden": SMALL} if method == "network itself" else {}
        else:
            config |= {"hidden": CASES[case][1], "steps": STEPS[method], "batch_size": BATCH}
        found[f"{case} {method} {seed}"] = config
    return found


def main(cases: tuple[str, ...] = tuple(CASES), methods: tuple[str, ...] = (*SOLVED, *STEPS), seeds: int = 1) -> None:
    for precision in (True, False):
        with jax.enable_x64(precision):
            of = tuple(method for method in methods if single(method) != precision)
            results.fill("error_against_time", configs(cases, of, seeds), make)


if __name__ == "__main__":
    runs.command_line(main, cases=CASES, methods=(*SOLVED, *STEPS))
