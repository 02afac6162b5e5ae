"""Kernels of a PINN: ours against what a user would write or call instead, or a training step.

    python benchmarks/kernels.py [--width 512] [--points 256]

All in one process, interleaved, best of three after a warm-up; read the ratios.
"""

import argparse
import functools
import time

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import optax

from pinn_analysis import _neural_tangents, mlp, ntk, problems, training


def main(width: int, points: int) -> None:
    problem = problems.helmholtz_2d()
    problem = problem.only("residual")
    network = mlp((2, width, width, width, 1))
    params = network.init(jax.random.key(0))
    x = problem.sample(jax.random.key(1), points)
    operator = problem.conditions["residual"].operator

    def residual(params, x):
        return operator(functools.partial(network.apply, params))(x)

    @jax.jit
    def by_hand(params):
        jacobian = jax.vmap(jax.grad(residual), (None, 0))(params, x["residual"])
        rows = jnp.concatenate([leaf.reshape(points, -1) for leaf in jax.tree.leaves(jacobian)], 1)
        return rows @ rows.T

    nt = _neural_tangents.load()
    batch = lambda params, x: jax.vmap(residual, (None, 0))(params, x)[:, None]
    default = jax.jit(nt.empirical_ntk_fn(batch, trace_axes=(), vmap_axes=0))

    ways = {
        "vmap(grad), J Jᵀ": lambda: by_hand(params),
        "neural-tangents, default": lambda: default(x["residual"], None, params),
        'ours, method="jacobian"': lambda: ntk.empirical(problem, network.apply, params, x, method="jacobian").matrix,
        'ours, method="structured"': lambda: (
            ntk.empirical(problem, network.apply, params, x, method="structured").matrix
        ),
    }
    first = {name: way().block_until_ready() for name, way in ways.items()}
    reference = next(iter(first.values()))
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(3):
        for name, way in ways.items():
            start = time.perf_counter()
            way().block_until_ready()
            best[name] = min(best[name], time.perf_counter() - start)
    ours = best['ours, method="structured"']
    print(f"Helmholtz residual, 3 x {width}, {points} points, float64, {jax.devices()[0].device_kind}")
    for name, seconds in best.items():
        error = jnp.abs(first[name].reshape(points, points) - reference).max() / jnp.abs(reference).max()
        print(f"{name:30} {seconds:8.3f} s   {seconds / ours:6.1f} x ours   differs by {error:.0e}")


def traces(width: int, points: int) -> None:
    """`ntk.traces` of the NTK paper's wave network against a training step on the same points."""
    wave = problems.wave_1d()
    network = mlp((2, *[width] * 5, 1))
    params, x = network.init(jax.random.key(0)), wave.sample(jax.random.key(1), points)
    params, x = jax.tree.map(lambda a: a.astype(jnp.float32), (params, x))
    optimizer = training.adam()

    @jax.jit
    def step(params, state):
        loss = lambda params: sum(wave.losses(functools.partial(network.apply, params), x).values())
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    ways = {
        "a training step": lambda: step(params, state),
        "traces": jax.jit(lambda: ntk.traces(wave, network.apply, params, x)),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(4):
        for name, way in ways.items():
            start = time.perf_counter()
            jax.block_until_ready(way())
            best[name] = min(best[name], time.perf_counter() - start)
    print(f"Wave, 5 x {width}, {points} points a term, float32")
    for name, seconds in best.items():
        print(f"{name:30} {seconds:8.3f} s   {seconds / best['a training step']:6.2f} training steps")


def limit(points: int) -> None:
    """The infinite kernel of a second-order equation, tanh, depth 3; it grows like the square of the points."""
    problem = problems.helmholtz_2d()
    problem = problem.only("residual")
    network = mlp((2, 1, 1, 1, 1), parameterization="ntk", bias_std=1.0)
    x = problem.sample(jax.random.key(1), points)
    for run in ("with compilation", "after it"):
        start = time.perf_counter()
        ntk.infinite(problem, network.kernel_fn, x).matrix.block_until_ready()
        print(f"Infinite kernel, Helmholtz, tanh, depth 3, {points} points: {time.perf_counter() - start:.1f} s {run}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--points", type=int, default=256)
    arguments = parser.parse_args()
    main(arguments.width, arguments.points)
    traces(500, 300)
    limit(1000)
