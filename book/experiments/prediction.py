"""Predicted against measured gradient descent, by width.

    python book/experiments/prediction.py [--seeds 10] [--widths 64 256 ...] [--steps 512]

For chapter 4.  From the infinite kernel and the initial residuals alone, the residuals over a
whole run; against runs of finite networks of growing width.
"""

import functools

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from pinn_analysis import convergence, networks, ntk, problems, results, training

import runs

WIDTHS = (64, 256, 1024, 4096, 16384)
POINTS = {"boundary": jnp.array([[0.0], [1.0]]), "residual": jnp.linspace(0, 1, 32)[:, None]}
FRACTION = 0.4  # Of the largest stable step.
PROBLEM = problems.poisson_1d(a=1)


def network(width: int) -> networks.Network:
    return networks.mlp((1, width, 1), parameterization="ntk", bias_std=1.0)


@functools.cache
def limit() -> ntk.KernelBlocks:
    return ntk.infinite(PROBLEM, network(1).kernel_fn, POINTS)


def make(config: dict) -> dict[str, np.ndarray]:
    """Losses over the run, predicted and measured; distance of the residuals, relative to the start."""
    kernel, net, at = limit(), network(config["width"]), np.arange(config["steps"] + 1)
    learning_rate = FRACTION * convergence.max_learning_rate(kernel)
    run = training.follow(
        runs.descent(PROBLEM, net.apply, POINTS, learning_rate),
        lambda params: PROBLEM.residuals(functools.partial(net.apply, params), POINTS),
        at,
    )
    _, measured = run(net.init(jax.random.key(config["seed"])))
    start = {name: r[0] for name, r in measured.items()}
    predicted = convergence.gradient_descent(kernel, learning_rate).residuals(start, at)
    root = np.sqrt(1 / np.repeat(kernel.sizes, kernel.sizes))  # The norm of the loss.
    a, b = (np.concatenate([r[name] for name in kernel.names], -1) * root for r in (predicted, measured))
    losses = (np.float32([np.mean(r[name] ** 2, -1) for name in kernel.names]) for r in (predicted, measured))
    error = np.linalg.norm(a - b, axis=-1).max() / np.linalg.norm(b[0])
    return dict(zip(("predicted", "measured"), losses, strict=True)) | {"error": error, "learning_rate": learning_rate}


def configs(seeds: int, widths: tuple[int, ...], steps: int) -> dict[str, dict]:
    return {
        f"{width} {seed}": {
            "problem": "poisson_1d", "a": 1, "hidden_layers": 1, "width": width, "seed": seed, "activation": "tanh",
            "parameterization": "ntk", "bias_std": 1.0, "points": 32, "steps": steps,
            "fraction_of_stable_step": FRACTION, "terms": list(PROBLEM.conditions),
        }
        for width in widths
        for seed in range(seeds)
    }  # fmt: skip


def main(seeds: int = 10, widths: tuple[int, ...] = WIDTHS, steps: int = 512) -> None:
    results.fill("prediction", configs(seeds, widths, steps), make)


if __name__ == "__main__":
    runs.command_line(main)
