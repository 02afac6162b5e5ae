"""Kernels of a PINN: ours against what a user would write or call instead, or a training step.

    python benchmarks/kernels.py [--width 512] [--points 256]
    python benchmarks/kernels.py --sweep
    python benchmarks/kernels.py --store

All in one process, interleaved, least processor time of three calls after a warm-up; read the ratios.  Memory is what
the compiled program has beside its arguments.
"""

import argparse
import functools
import itertools
import time
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import optax

from pinn_analysis import _neural_tangents, mlp, ntk, problems, results, training
from pinn_analysis.ntk import _grams, _rows

HERE = Path(__file__).parent
WAYS = (
    "vmap(grad), J Jᵀ",
    "neural-tangents, default",
    "neural-tangents, structured",
    'ours, method="jacobian"',
    'ours, method="structured"',
    "ours",
)
METHODS = ("jacobian", "structured", "auto")
RATE = 3e10  # Operations per second of one core, to guess what a sweep should leave out:
LONGEST = 30  # seconds of a Jacobian multiplied out, and
LARGEST = 4e9  # bytes of one.


def compared(config: dict) -> dict:
    """Seconds, mebibytes and distance from the first of each way to the same matrix."""
    problem, network, params, x = helmholtz(config["width"], config["points"])
    kernel = ntk.operator(problem, network.apply, params, x)

    @jax.jit
    def by_hand(params):
        jacobian = jax.vmap(jax.grad(residual(problem, network)), (None, 0))(params, x["residual"])
        rows = jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(jacobian)], 1)
        return rows @ rows.T

    nt = _neural_tangents.load()
    batch = lambda params, x: jax.vmap(residual(problem, network), (None, 0))(params, x)[:, None]
    default, structured = (
        jax.jit(nt.empirical_ntk_fn(batch, trace_axes=(), vmap_axes=0, implementation=how))
        for how in (nt.NtkImplementation.JACOBIAN_CONTRACTION, nt.NtkImplementation.STRUCTURED_DERIVATIVES)
    )
    ways = [
        (by_hand, params),
        (default, x["residual"], None, params),
        (structured, x["residual"], None, params),
        (_rows.jacobian_gram, kernel, None),
        (_grams.structured_gram, kernel, None),
        (_grams.gram, kernel, None),
    ]
    compiled = {name: way.lower(*args).compile() for name, (way, *args) in zip(WAYS, ways, strict=True)}
    calls = {name: functools.partial(compiled[name], *args) for name, (_, *args) in zip(WAYS, ways, strict=True)}
    first, best = measured(calls, 3)
    reference = first[WAYS[0]]
    memory = [program.memory_analysis() for program in compiled.values()]
    return {
        "seconds": list(best.values()),
        "mebibytes": [(of.temp_size_in_bytes + of.output_size_in_bytes) / 2**20 for of in memory],
        "apart": [jnp.abs(k.reshape(reference.shape) - reference).max() / reference.max() for k in first.values()],
    }


def show_compared(config: dict, arrays: dict) -> None:
    print(f"Helmholtz residual, 3 x {config['width']}, {config['points']} points, float64")
    for name, seconds, mebibytes, apart in zip(
        WAYS, arrays["seconds"], arrays["mebibytes"], arrays["apart"], strict=True
    ):
        times, sizes = seconds / arrays["seconds"][-1], mebibytes / arrays["mebibytes"][-1]
        print(
            f"{name:30} {seconds:8.3f} s {times:6.1f} x ours   {mebibytes:7.0f} MiB {sizes:6.1f} x ours"
            f"   differs by {apart:.0e}"
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


def swept(config: dict) -> dict:
    """Seconds of both methods and of the choice between them; and how many layers that multiplies by factors."""
    problem, network, params, x = helmholtz(config["width"], config["points"])
    kernel = ntk.operator(problem, network.apply, params, x)
    calls = {method: lambda method=method: kernel.dense(method=method).matrix for method in METHODS}
    _, best = measured(calls, 2 if jacobian_seconds(config) > 5 else 5)
    return {"seconds": list(best.values()), "by_factors": len(_grams.worthwhile(kernel, None))}


def show_swept(config: dict, arrays: dict) -> None:
    jacobian, structured, auto = arrays["seconds"]
    loss = 100 * (auto / min(jacobian, structured) - 1)
    print(
        f"3 x {config['width']:4}, {config['points']:4} points: Jacobian {jacobian:8.4f} s, "
        f"structured {structured:8.4f}, auto {auto:8.4f} with {arrays['by_factors']} of 4 layers by factors, "
        f"loses {loss:3.0f} %",
        flush=True,
    )


def sweep() -> dict[str, dict]:
    """The cases, but for those that are left out, which are named."""
    configs = {}
    for width, points in itertools.product((50, 100, 256, 512, 1024), (64, 256, 1024, 4096)):
        config = {"width": width, "points": points}
        if jacobian_seconds(config) <= LONGEST and 8 * points * numbers(width) <= LARGEST:
            configs[f"sweep {width} {points}"] = config
        else:
            size = 8e-9 * points * numbers(width)
            print(f"Left out: 3 x {width}, {points} points; {size:.1f} GB, some {jacobian_seconds(config):.0f} s")
    return configs


def numbers(width: int) -> int:
    """Parameters of the network."""
    return 2 * width**2 + 6 * width + 1


def jacobian_seconds(config: dict) -> float:
    return 2 * config["points"] ** 2 * numbers(config["width"]) / RATE


def store() -> None:
    """The table beside this script that chapter 28 shows; what is there is not measured again."""
    configs = {"compared": {"width": 512, "points": 256}} | sweep()
    make = lambda config: (swept if config["sweep"] else compared)(config)
    configs = {name: config | {"sweep": name != "compared"} for name, config in configs.items()}
    results.fill("kernels", configs, make, folder=HERE)
    for name, (arrays, how) in results.records("kernels", folder=HERE).items():
        (show_compared if name == "compared" else show_swept)(how["config"], arrays)


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
    parser.add_argument("--store", action="store_true", help="the default and the sweep, as chapter 28 shows them")
    arguments = parser.parse_args()
    if arguments.store:
        store()
    elif arguments.sweep:
        for each in sweep().values():
            show_swept(each, swept(each))
    else:
        config = {"width": arguments.width, "points": arguments.points}
        show_compared(config, compared(config))
        traces(500, 300)
        limit(1000)
