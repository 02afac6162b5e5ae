"""Predicted against measured: residuals and the solution itself, three equations, two depths.

    python book/experiments/prediction_problems.py [--cases poisson-1 wave-3 ...] [--seeds 3] [--widest 1024]

From the infinite kernel and the initial residuals alone.  A case is stored when it is done, and
not run again by a later call with the same settings; `--widest` is for three hidden layers.
"""

import argparse
import functools
import time
from collections.abc import Callable

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from pinn_analysis import convergence, networks, ntk, problems, results

NAME = "prediction_problems"
POINTS = 32  # Of each term, but for the two ends of the interval, and where the output is looked at.
STEPS = 256
FRACTION = 0.4  # Of the largest stable step.
WIDTHS = {1: (64, 256, 1024, 4096, 16384), 3: (64, 128, 256, 512, 1024, 2048, 4096)}
DOTS = np.unique(np.r_[0, np.geomspace(1, STEPS, 32).round()]).astype(int)  # What is stored of the curves.
PROBLEMS = {
    "poisson": (problems.poisson_1d(a=1), False, ["boundary"]),
    "wave": (problems.wave_1d(), False, ["boundary", "initial"]),
    "helmholtz": (problems.helmholtz_2d(a1=1, a2=1), True, ["boundary"]),
}  # With inputs standardized; and the terms that a case "-heavy" has with a weight of 100.
CASES = ("poisson-1", "wave-1", "helmholtz-1", "poisson-1-heavy", "wave-1-heavy", "poisson-3", "wave-3", "helmholtz-3")


def descending(problem, apply, points, learning_rate, weights) -> Callable:
    """From parameters to the residuals of each term, the output among them, after 0 to STEPS steps."""

    def residuals(params) -> dict[str, jax.Array]:
        return problem.residuals(functools.partial(apply, params), points)

    def loss(params) -> jax.Array:
        return sum(weights[name] * jnp.mean(r**2) for name, r in residuals(params).items() if name in weights)

    def step(params, _):
        gradient = jax.grad(loss)(params)
        return jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient), residuals(params)

    return jax.jit(lambda params: jax.lax.scan(step, params, length=STEPS + 1)[1])


def before_the_draw(problem, limit, points, descent, draws=200) -> dict[str, jax.Array]:
    """Losses by term over `draws` Gaussian initial residuals, ``(draws, dots)``: no network is drawn."""
    mean = problem.residuals(lambda x: jnp.zeros((), x.dtype), points)
    covariance = ntk.infinite(problem, lambda x1, x2, get: limit(x1, x2, "nngp"), points)
    values, vectors = jnp.linalg.eigh(covariance.matrix)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0))
    noise = jax.random.normal(jax.random.key(0), (draws, len(values))) @ root.T
    losses = [descent.losses(covariance.split(covariance.join(mean) + row), DOTS) for row in noise]
    return {name: np.stack([one[name] for one in losses]) for name in losses[0]}


def run(case: str, seeds: int, widest: int) -> dict[str, np.ndarray]:
    """One equation, depth and set of weights over all widths and seeds."""
    kind, depth, *heavy = case.split("-")
    plain, scaled, ends = PROBLEMS[kind]
    problem, d, depth = convergence.with_output(plain), len(plain.domain[0]), int(depth)
    points = problem.sample(jax.random.key(1), POINTS)
    if kind == "poisson":
        middles = (jnp.arange(POINTS)[:, None] + 0.5) / POINTS
        points = {"boundary": jnp.array([[0.0], [1.0]]), "residual": middles, "output": middles}
    weights = {name: 100.0 if heavy and name in ends else 1.0 for name in plain.conditions}

    def network(width: int) -> networks.Network:
        net = networks.mlp((d, *(width,) * depth, 1), parameterization="ntk", bias_std=1.0)
        return networks.standardized(net, *plain.domain) if scaled else net

    limit = network(1).kernel_fn
    kernel = ntk.infinite(problem, limit, points)
    learning_rate = FRACTION * convergence.max_learning_rate(kernel, weights)
    descent = convergence.gradient_descent(kernel, learning_rate, weights)
    size = jnp.sqrt(jnp.mean(jax.vmap(plain.solution)(points["output"]) ** 2))

    widths = [width for width in WIDTHS[depth] if depth == 1 or width <= widest]
    rows = []
    for width in widths:
        net = network(width)
        descend = descending(problem, net.apply, points, learning_rate, weights)
        for seed in range(seeds):
            measured = descend(net.init(jax.random.key(seed)))
            told = descent.residuals({name: r[0] for name, r in measured.items()}, np.arange(STEPS + 1))
            gap = jnp.sqrt(sum(jnp.mean((told[name] - measured[name]) ** 2, -1) for name in weights))
            start = jnp.sqrt(sum(jnp.mean(measured[name][0] ** 2) for name in weights))
            rows.append({
                "residual_gap": jnp.max(gap) / start,
                "output_gap": jnp.sqrt(jnp.max(jnp.mean((told["output"] - measured["output"]) ** 2, -1))) / size,
                "measured": jnp.stack([jnp.mean(measured[name][DOTS] ** 2, -1) for name in kernel.names]),
                "predicted": jnp.stack([jnp.mean(told[name][DOTS] ** 2, -1) for name in kernel.names]),
            })  # fmt: skip
    stacked = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    stacked = {key: value.reshape(len(widths), seeds, *value.shape[1:]) for key, value in stacked.items()}
    if depth == 1 and not heavy:
        drawn = before_the_draw(problem, limit, points, descent)
        stacked["band"] = np.stack([np.quantile(drawn[name], (0.05, 0.5, 0.95), 0) for name in kernel.names])
    stacked |= {"widths": np.array(widths), "learning_rate": learning_rate, "solution": size}
    return {f"{case}/{key}": np.asarray(value, np.float32) for key, value in stacked.items()}


def main(cases: list[str], seeds: int, widest: int) -> None:
    config = {
        "points": POINTS, "steps": STEPS, "fraction_of_stable_step": FRACTION, "seeds": list(range(seeds)),
        "activation": "tanh", "parameterization": "ntk", "bias_std": 1.0, "heavy_weight": 100, "precision": "float64",
        "terms": {kind: [*problem.conditions, "output"] for kind, (problem, _, _) in PROBLEMS.items()},
        "standardized": [kind for kind, (_, scaled, _) in PROBLEMS.items() if scaled],
    }  # fmt: skip
    for case in cases:
        kept = stored(config)[0].get(f"{case}/widths", np.zeros(0))
        if kept.size and (case.split("-")[1] == "1" or kept[-1] >= widest):
            continue
        start, new = time.perf_counter(), run(case, seeds, widest)
        done, seconds = stored(config)
        done |= new | {"dots": DOTS}
        finished = [name for name in CASES if f"{name}/widths" in done]
        results.save(NAME, config | {"cases": finished}, seconds=seconds + time.perf_counter() - start, **done)


def stored(config: dict) -> tuple[dict[str, np.ndarray], float]:
    """What earlier calls with the same settings left, and how long they took."""
    if not (results.FOLDER / f"{NAME}.npz").exists():
        return {}, 0.0
    arrays, how = results.load(NAME)
    same = {key: how["config"].get(key) for key in config} == config
    return (arrays, how["seconds"]) if same else ({}, 0.0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--widest", type=int, default=1024)
    main(**vars(parser.parse_args()))
