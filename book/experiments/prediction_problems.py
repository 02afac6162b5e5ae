"""Predicted against measured: residuals and the solution itself, three equations, two depths.

    python book/experiments/prediction_problems.py [--cases poisson-1 wave-3 ...] [--seeds 3] [--widest 1024]

For chapter 14.  From the infinite kernel and the initial residuals alone; `--widest` is for three
hidden layers.
"""

import functools
from typing import NamedTuple

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from pinn_analysis import convergence, networks, ntk, problems, results, training

import runs

POINTS = 32  # Of each term, but for the two ends of the interval, and where the output is looked at.
FRACTION = 0.4  # Of the largest stable step.
WIDTHS = {1: (64, 256, 1024, 4096, 16384), 3: (64, 128, 256, 512, 1024, 2048, 4096)}
PROBLEMS = {
    "poisson": (problems.poisson_1d(a=1), False, ["boundary"]),
    "wave": (problems.wave_1d(), False, ["boundary", "initial"]),
    "helmholtz": (problems.helmholtz_2d(a1=1, a2=1), True, ["boundary"]),
}  # With inputs standardized; and the terms that a case "-heavy" has with a weight of 100.
CASES = ("poisson-1", "wave-1", "helmholtz-1", "poisson-1-heavy", "wave-1-heavy", "poisson-3", "wave-3", "helmholtz-3")


def dots(steps: int) -> np.ndarray:
    """What is stored of the curves."""
    return np.unique(np.r_[0, np.geomspace(1, steps, 32).round()]).astype(int)


class Case(NamedTuple):
    """One equation, depth and set of weights; ``problem`` has the output as a term of weight 0."""

    problem: problems.Problem
    points: dict
    weights: dict[str, float]
    kernel: ntk.KernelBlocks
    learning_rate: float

    def descent(self):
        return convergence.gradient_descent(self.kernel, self.learning_rate, self.weights)


def network(kind: str, depth: int, width: int) -> networks.Network:
    plain, scaled, _ = PROBLEMS[kind]
    sizes = (len(plain.domain[0]), *(width,) * depth, 1)
    net = networks.mlp(sizes, parameterization="ntk", bias_std=1.0)
    return networks.standardized(net, *plain.domain) if scaled else net


@functools.cache
def prepared(kind: str, depth: int, heavy: float) -> Case:
    plain, _, ends = PROBLEMS[kind]
    problem = convergence.with_output(plain)
    points = problem.sample(jax.random.key(1), POINTS)
    if kind == "poisson":
        middles = (jnp.arange(POINTS)[:, None] + 0.5) / POINTS
        points = {"boundary": jnp.array([[0.0], [1.0]]), "residual": middles, "output": middles}
    weights = {name: heavy if name in ends else 1.0 for name in plain.conditions}
    kernel = ntk.infinite(problem, network(kind, depth, 1).kernel_fn, points)
    return Case(problem, points, weights, kernel, FRACTION * convergence.max_learning_rate(kernel, weights))


def before_the_draw(config: dict, draws: int = 200) -> dict[str, np.ndarray]:
    """Band of the losses by term over `draws` Gaussian initial residuals, ``(terms, 3, dots)``: no network is drawn."""
    case = prepared(config["equation"], config["depth"], config["boundary_weight"])
    kernel_fn = network(config["equation"], config["depth"], 1).kernel_fn
    mean = case.problem.residuals(lambda x: jnp.zeros((), x.dtype), case.points)
    covariance = ntk.infinite(case.problem, lambda x1, x2, get: kernel_fn(x1, x2, "nngp"), case.points)
    values, vectors = jnp.linalg.eigh(covariance.matrix)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0))
    noise = jax.random.normal(jax.random.key(0), (draws, len(values))) @ root.T
    descent, at = case.descent(), dots(config["steps"])
    losses = [descent.losses(covariance.split(covariance.join(mean) + row), at) for row in noise]
    drawn = [np.stack([one[name] for one in losses]) for name in case.kernel.names]
    return {"step": at, "band": np.float32([np.quantile(loss, (0.05, 0.5, 0.95), 0) for loss in drawn])}


def trained(config: dict) -> dict[str, np.ndarray]:
    """One network, and what was predicted for it."""
    case = prepared(config["equation"], config["depth"], config["boundary_weight"])
    net = network(config["equation"], config["depth"], config["width"])
    at = np.arange(config["steps"] + 1)
    run = training.follow(
        runs.descent(case.problem, net.apply, case.points, case.learning_rate, case.weights),
        lambda params: case.problem.residuals(functools.partial(net.apply, params), case.points),
        at,
    )
    _, measured = run(net.init(jax.random.key(config["seed"])))
    predicted = case.descent().residuals({name: r[0] for name, r in measured.items()}, at)
    gap = jnp.sqrt(sum(jnp.mean((predicted[name] - measured[name]) ** 2, -1) for name in case.weights))
    start = jnp.sqrt(sum(jnp.mean(measured[name][0] ** 2) for name in case.weights))
    size = jnp.sqrt(jnp.mean(jax.vmap(case.problem.solution)(case.points["output"]) ** 2))
    output = jnp.max(jnp.mean((predicted["output"] - measured["output"]) ** 2, -1))
    names, kept = case.kernel.names, dots(config["steps"])
    arrays = {
        "residual_gap": jnp.max(gap) / start,
        "output_gap": jnp.sqrt(output) / size,
        "measured": jnp.stack([jnp.mean(measured[name][kept] ** 2, -1) for name in names]),
        "predicted": jnp.stack([jnp.mean(predicted[name][kept] ** 2, -1) for name in names]),
        "learning_rate": case.learning_rate,
        "solution": size,
    }
    return {"step": kept} | {key: np.float32(value) for key, value in arrays.items()}


def make(config: dict) -> dict[str, np.ndarray]:
    return trained(config) if "width" in config else before_the_draw(config)


def configs(cases: tuple[str, ...], seeds: int, widest: int, steps: int) -> dict[str, dict]:
    """The runs of each case, and what is predicted of one hidden layer before a network is drawn."""
    found = {}
    for case in cases:
        kind, depth, *heavy = case.split("-")
        common = {
            "case": case, "equation": kind, "depth": int(depth), "boundary_weight": 100.0 if heavy else 1.0,
            "points": POINTS, "steps": steps, "fraction_of_stable_step": FRACTION, "activation": "tanh",
            "parameterization": "ntk", "bias_std": 1.0, "terms": [*PROBLEMS[kind][0].conditions, "output"],
            "inputs": "standardized" if PROBLEMS[kind][1] else "as they are",
        }  # fmt: skip
        if depth == "1" and not heavy:
            found[f"{case} before the draw"] = common
        for width in WIDTHS[int(depth)]:
            if depth == "1" or width <= widest:
                found |= {f"{case} {width} {seed}": common | {"width": width, "seed": seed} for seed in range(seeds)}
    return found


def main(cases: tuple[str, ...] = CASES, seeds: int = 3, widest: int = 1024, steps: int = 256) -> None:
    results.fill("prediction_problems", configs(cases, seeds, widest, steps), make)


if __name__ == "__main__":
    runs.command_line(main, cases=CASES)
