"""Predicted against measured gradient descent, by width.

    python book/experiments/prediction.py [--seeds 10]

From the infinite kernel and the initial residuals alone, the residuals over a whole run;
against runs of finite networks of growing width.
"""

import argparse
import functools
import time

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from pinn_analysis import convergence, networks, ntk, problems, results

WIDTHS = (64, 256, 1024, 4096, 16384)
POINTS = 32
STEPS = 512
FRACTION = 0.4  # Of the largest stable step.


def descend(problem, apply, params, points, learning_rate: float) -> dict[str, jax.Array]:
    """Residuals of each term after 0 to STEPS steps of full-batch gradient descent."""

    def loss(params) -> jax.Array:
        return sum(problem.losses(functools.partial(apply, params), points).values())

    def step(params, _):
        now = problem.residuals(functools.partial(apply, params), points)
        gradient = jax.grad(loss)(params)
        return jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient), now

    return jax.jit(lambda params: jax.lax.scan(step, params, length=STEPS + 1)[1])(params)


def main(seeds: int) -> None:
    start = time.perf_counter()
    problem = problems.poisson_1d(a=1)
    points = {"boundary": jnp.array([[0.0], [1.0]]), "residual": jnp.linspace(0, 1, POINTS)[:, None]}
    limit = networks.mlp((1, 1, 1), parameterization="ntk", bias_std=1.0).kernel_fn
    kernel = ntk.infinite(problem, limit, points)
    learning_rate = FRACTION * convergence.max_learning_rate(kernel)
    descent = convergence.gradient_descent(kernel, learning_rate)
    root = np.sqrt(1 / np.repeat(kernel.sizes, kernel.sizes))  # The norm of the loss.

    measured, predicted, error = [], [], []
    for width in WIDTHS:
        network = networks.mlp((1, width, 1), parameterization="ntk", bias_std=1.0)
        for seed in range(seeds):
            run = descend(problem, network.apply, network.init(jax.random.key(seed)), points, learning_rate)
            told = descent.residuals({name: r[0] for name, r in run.items()}, np.arange(STEPS + 1))
            a, b = (np.concatenate([r[name] for name in kernel.names], -1) * root for r in (told, run))
            error.append(np.linalg.norm(a - b, axis=-1).max() / np.linalg.norm(b[0]))
            for into, r in ((measured, run), (predicted, told)):
                into.append(np.stack([np.mean(r[name] ** 2, -1) for name in kernel.names]))

    def shape(rows: list) -> np.ndarray:
        return np.stack(rows).reshape(len(WIDTHS), seeds, *np.shape(rows[0]))

    config = {
        "problem": "poisson_1d", "a": 1, "hidden_layers": 1, "activation": "tanh", "parameterization": "ntk",
        "bias_std": 1.0, "points": POINTS, "steps": STEPS, "fraction_of_stable_step": FRACTION,
        "learning_rate": learning_rate, "terms": kernel.names, "seeds": list(range(seeds)), "precision": "float64",
    }  # fmt: skip
    results.save(
        "prediction", config, seconds=time.perf_counter() - start, widths=np.array(WIDTHS), error=shape(error),
        measured=shape(measured).astype(np.float32), predicted=shape(predicted).astype(np.float32),
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10)
    main(**vars(parser.parse_args()))
