"""What is due to the features and what to the solver: activation and scale, times least squares, Gauss-Newton and Adam.

    python book/experiments/solver_control.py [--cases poisson_4 helmholtz_1_4] [--seeds 3]

For chapter 21.  The sines have the width and the scales that `solving.solve` chooses with the same seed; the other
network is the deep tanh of the papers.  The first is solved linearised at
its start, on fixed points; the others train the network itself, on batches.
"""

import functools
import itertools
import time

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from pinn_analysis import networks, problems, results, solving, training
from scipy.linalg import svdvals

import runs

CASES = {"poisson_4": lambda: problems.poisson_1d(4), "helmholtz_1_4": lambda: problems.helmholtz_2d(1, 4)}
TANH = {"poisson_4": (100,), "helmholtz_1_4": (50, 50, 50)}  # The NTK paper, Sec. 7.1; the first paper's M1.
ROWS = {"poisson_4": {"boundary": 2, "residual": 498}, "helmholtz_1_4": {"boundary": 400, "residual": 1600}}
BATCH = 128
SOLVERS = {  # The optimiser, how many steps of it, and the points of each condition in a step.
    "least squares": None,
    "Gauss-Newton": (solving.gauss_newton, 100, BATCH),
    "Adam": (lambda: optax.adam(1e-3), 5000, BATCH),
}


@functools.cache
def choice(case: str, seed: int) -> dict:
    """What `solving.solve` chooses."""
    return solving.solve(CASES[case]()._replace(solution=None), key=jax.random.key(seed)).settings


def start(config: dict, problem: problems.Problem) -> tuple[networks.Network, list]:
    """The network, its inputs standardized, and its initial parameters."""
    d, key = len(problem.domain[0]), jax.random.key(config["seed"])
    if config["network"] == "tanh":
        network = networks.standardized(networks.mlp((d, *config["hidden"], 1), "tanh"), *problem.domain)
        return network, network.init(key)
    chosen = choice(config["case"], config["seed"])
    layers = networks.mlp((d, chosen["width"], 1), "sin", parameterization="ntk", bias_std=1.0)
    sines = networks.standardized(layers, *problem.domain)
    first, last = sines.init(key)
    return sines, [first | {"weight": first["weight"] * jnp.asarray(chosen["scales"])[:, None]}, last]


def singular_values(problem: problems.Problem, network: networks.Network, params: list, points: dict) -> np.ndarray:
    """Of the Jacobian of all rows, each of unit norm."""
    theta, unravel = ravel_pytree(params)

    def rows(operator, x):  # One point at a time: a pullback of all rows takes n times as long.
        return jax.jacrev(lambda theta: jnp.ravel(operator(lambda y: network.apply(unravel(theta), y))(x)))(theta)

    parts = [jax.jit(jax.vmap(functools.partial(rows, c.operator)))(points[n]) for n, c in problem.conditions.items()]
    jacobian = np.concatenate([np.asarray(part).reshape(-1, theta.size) for part in parts])
    return svdvals(jacobian / np.linalg.norm(jacobian, axis=1, keepdims=True))


def make(config: dict) -> dict:
    problem, key = CASES[config["case"]](), jax.random.key(config["seed"])
    network, params = start(config, problem)
    points = problem.sample(key, ROWS[config["case"]])
    begun, cpu = time.perf_counter(), time.process_time()
    if config["solver"] == "least squares":
        tangent = networks.linearized(network, params)
        solution = solving.least_squares(problem, tangent, points, key=key)
        error = problems.relative_l2_error(solution.field, problem.solution, problems.test_points(problem))
        found = {"error": error, "error_estimate": solution.error_estimate, "rank": solution.rank}
    else:
        optimizer, _, _ = SOLVERS[config["solver"]]
        run = training.train(
            problem, network, key=key, params=params, optimizer=optimizer(), steps=config["steps"],
            batch_size=config["batch_size"], record_every=max(1, config["steps"] // 50),
        )  # fmt: skip
        found = {"history/step": run.history["step"], "history/error": np.float32(run.history["error"])}
        found["error"] = run.history["error"][-1]
    took = {"seconds": time.perf_counter() - begun, "cpu_seconds": time.process_time() - cpu}
    values = np.float32(singular_values(problem, network, params, points))
    return found | took | {"singular_values": values, "parameters": ravel_pytree(params)[0].size}


def main(cases: tuple[str, ...] = tuple(CASES), seeds: int = 3) -> None:
    configs = {}
    for seed, case, network, solver in itertools.product(range(seeds), cases, ("sines", "tanh"), SOLVERS):
        config = {"case": case, "network": network, "solver": solver, "seed": seed}
        if network == "tanh":
            config["hidden"] = TANH[case]
        if solver != "least squares":
            _, config["steps"], config["batch_size"] = SOLVERS[solver]
        configs[f"{case} {network} {solver} {seed}"] = config
    results.fill("solver_control", configs, make)


if __name__ == "__main__":
    runs.command_line(main, cases=CASES)
