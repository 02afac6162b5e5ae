"""Kernels of a PINN: ours against what a user would write or call instead, or a training step.

    python benchmarks/kernels.py [--width 512] [--points 256]
    python benchmarks/kernels.py --sweep [--longest 60]

All in one process, interleaved, least processor time of three calls after a warm-up; read the ratios.  Memory is what
the compiled program has beside its arguments.
"""

import argparse
import functools
import itertools
import time

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import optax

from pinn_analysis import _neural_tangents, mlp, ntk, problems, training
from pinn_analysis.ntk import _layers, _rows

RATE = 3e10  # Operations per second of one core, to guess what a sweep should leave out.
LARGEST = 4  # Gigabytes of a Jacobian in a sweep.


def main(width: int, points: int) -> None:
    problem, network, params, x = helmholtz(width, points)
    kernel = ntk.operator(problem, network.apply, params, x)

    @jax.jit
    def by_hand(params):
        jacobian = jax.vmap(jax.grad(residual(problem, network)), (None, 0))(params, x["residual"])
        rows = jnp.concatenate([leaf.reshape(points, -1) for leaf in jax.tree.leaves(jacobian)], 1)
        return rows @ rows.T

    nt = _neural_tangents.load()
    batch = lambda params, x: jax.vmap(residual(problem, network), (None, 0))(params, x)[:, None]
    theirs = {
        name: jax.jit(nt.empirical_ntk_fn(batch, trace_axes=(), vmap_axes=0, implementation=how))
        for name, how in (
            ("default", nt.NtkImplementation.JACOBIAN_CONTRACTION),
            ("structured", nt.NtkImplementation.STRUCTURED_DERIVATIVES),
        )
    }
    ways = {
        "vmap(grad), J Jᵀ": (by_hand, params),
        "neural-tangents, default": (theirs["default"], x["residual"], None, params),
        "neural-tangents, structured": (theirs["structured"], x["residual"], None, params),
        'ours, method="jacobian"': (_rows.jacobian_gram, kernel, None),
        'ours, method="structured"': (_layers.structured_gram, kernel, None),
        "ours": (_layers.gram, kernel, None),
    }
    compiled = {name: way.lower(*args).compile() for name, (way, *args) in ways.items()}
    calls = {name: lambda name=name, args=args: compiled[name](*args) for name, (_, *args) in ways.items()}
    first, best = measured(calls, 3)
    reference = next(iter(first.values()))
    print(f"Helmholtz residual, 3 x {width}, {points} points, float64, {jax.devices()[0].device_kind}")
    for name, seconds in best.items():
        error = jnp.abs(first[name].reshape(points, points) - reference).max() / jnp.abs(reference).max()
        memory = [compiled[of].memory_analysis() for of in (name, "ours")]
        mebibytes, ours = ((of.temp_size_in_bytes + of.output_size_in_bytes) / 2**20 for of in memory)
        print(
            f"{name:30} {seconds:8.3f} s {seconds / best['ours']:6.1f} x ours   {mebibytes:7.0f} MiB "
            f"{mebibytes / ours:6.1f} x ours   differs by {error:.0e}"
        )


def helmholtz(width: int, points: int) -> tuple:
    problem = problems.helmholtz_2d().only("residual")
    network = mlp((2, width, width, width, 1))
    return problem, network, network.init(jax.random.key(0)), problem.sample(jax.random.key(1), points)


def residual(problem, network):
    operator = problem.conditions["residual"].operator
    return lambda params, x: operator(functools.partial(network.apply, params))(x)


def measured(calls: dict, repeats: int) -> tuple[dict, dict]:
    """First results, and the least processor time of each call after it, interleaved."""
    first = {name: jax.block_until_ready(call()) for name, call in calls.items()}
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.process_time()
            jax.block_until_ready(call())
            best[name] = min(best[name], time.process_time() - start)
    return first, best


def sweep(longest: float) -> None:
    """Both methods and the choice between them, layer by layer, where the Jacobian takes less than so many seconds."""
    print("width  points  jacobian  structured   auto, seconds   layers by factors   loss against the better")
    for width, points in itertools.product((50, 100, 256, 512, 1024), (64, 256, 1024, 4096)):
        problem, network, params, x = helmholtz(width, points)
        kernel = ntk.operator(problem, network.apply, params, x)
        seconds, size = 2 * points**2 * kernel.parameters() / RATE, 8 * points * kernel.parameters() / 1e9
        if seconds > longest or size > LARGEST:
            print(f"{width:5} {points:7}  left out: the Jacobian has {size:.1f} GB, and takes some {seconds:.0f} s")
            continue
        methods = ("jacobian", "structured", "auto")
        calls = {method: lambda method=method, kernel=kernel: kernel.dense(method=method).matrix for method in methods}
        _, best = measured(calls, 2 if seconds > 5 else 5)
        loss = best["auto"] / min(best["jacobian"], best["structured"]) - 1
        chosen = len(_layers.worthwhile(kernel, None))
        times = "  ".join(f"{best[method]:9.4f}" for method in methods)
        print(f"{width:5} {points:7} {times} {chosen:16} of 4 {100 * loss:20.0f} %", flush=True)


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
    parser.add_argument("--sweep", action="store_true", help="widths and points, both methods and the choice")
    parser.add_argument("--longest", type=float, default=60.0, help="seconds of a Jacobian in the sweep")
    arguments = parser.parse_args()
    if arguments.sweep:
        sweep(arguments.longest)
    else:
        main(arguments.width, arguments.points)
        traces(500, 300)
        limit(1000)
