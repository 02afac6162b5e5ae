"""Kernels of architectures with equally many parameters, and the order in which they learn.

    python book/experiments/architecture_kernels.py [--seeds 3] [--steps 4096]

For plain, modified and Fourier-feature networks: the empirical kernel at the start, for
regression and for a Poisson problem; how fast it says each frequency will be learned; and
gradient descent, which has the last word.  Networks are centred, minus what they are at the
start, so that every frequency starts with the same amplitude.
"""

import argparse
import functools
import time

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from pinn_analysis import convergence, networks, ntk, operators, problems, results, spectra

POINTS = 64
FREQUENCIES = (1, 2, 3, 4, 6, 8, 12, 16)
FRACTION = 0.2  # Of the largest stable step.
UNIT = 1 / (2 * np.pi)  # The scales 1 and 10 of the authors' code, which has no 2π.
ARCHITECTURES = {  # Hidden widths, for equally many parameters, and scales of the features.
    "plain": ("mlp", 63, ()),
    "modified": ("modified_mlp", 62, ()),
    "Fourier 1": ("fourier_mlp", 52, (UNIT,)),
    "Fourier 10": ("fourier_mlp", 52, (10 * UNIT,)),
    "Fourier 1, 10": ("fourier_mlp", 52, (UNIT, 10 * UNIT)),
}
DEPTH = 3
X = (np.arange(POINTS) + 0.5)[:, None] / POINTS  # Cosines, cos(πkx), are orthogonal on these.


@functools.cache
def network(name: str, seed: int) -> networks.Network:
    """The network; ``seed`` is that of its features, where it has some."""
    kind, width, scales = ARCHITECTURES[name]
    sizes = (1, *(width,) * DEPTH, 1)
    options = {"scales": scales, "key": jax.random.key(100 + seed)} if scales else {}
    return networks.standardized(getattr(networks, kind)(sizes, **options), np.zeros(1), np.ones(1))


def cosines(x: jax.Array) -> jax.Array:
    return sum(jnp.cos(2 * jnp.pi * f * x[0]) for f in FREQUENCIES)


def settings() -> dict[str, tuple[problems.Problem, dict[str, jax.Array], str]]:
    """Problem, points, and the term with the cosines; its residual starts as their sum."""
    low, high = jnp.zeros(1), jnp.ones(1)
    inside, ends = problems.box(low, high), problems.faces(low, high)
    data = problems.Condition(operators.identity, cosines, inside)
    equation = problems.Condition(operators.laplacian, cosines, inside)
    solution = lambda x: sum((1 - jnp.cos(2 * jnp.pi * f * x[0])) / (2 * jnp.pi * f) ** 2 for f in FREQUENCIES)
    boundary = problems.Condition(operators.identity, lambda x: jnp.zeros((), x.dtype), ends)
    return {
        "regression": (problems.Problem("regression", {"data": data}, (low, high), cosines), {"data": X}, "data"),
        "poisson": (
            problems.Problem("poisson", {"boundary": boundary, "residual": equation}, (low, high), solution),
            {"boundary": np.array([[0.0], [1.0]]), "residual": X},
            "residual",
        ),
    }


def amplitudes(residual: np.ndarray) -> np.ndarray:
    """Size of the component of each of `FREQUENCIES`, sine and cosine together, ``(..., f)``."""
    waves = np.exp(-2j * np.pi * X * np.array(FREQUENCIES))
    return np.abs(2 / POINTS * np.asarray(residual, float) @ waves)


def profile(block: np.ndarray) -> np.ndarray:
    """``vᵀ K v / n`` for unit vectors ``v`` along ``cos(πkx)``, of frequencies ``k / 2``, ``k = 0 ... n - 1``."""
    waves = np.cos(np.pi * X * np.arange(POINTS))
    waves /= np.linalg.norm(waves, axis=0)
    return np.einsum("nk,nm,mk->k", waves, block, waves) / POINTS


def first_below(steps: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """First of ``steps`` where an amplitude is a tenth of that at step 0, ``inf`` where none is."""
    below = sizes <= 0.1 * sizes[0]
    return np.where(below.any(0), steps[np.argmax(below, axis=0)], np.inf)


def advance(problem, apply, params, start, points, learning_rate, steps):
    """Parameters and residuals after some more steps of gradient descent on the centred network."""

    def field(params):
        return lambda x: apply(params, x) - apply(start, x)

    def step(_, params):
        gradient = jax.grad(lambda params: sum(problem.losses(field(params), points).values()))(params)
        return jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient)

    params = jax.lax.fori_loop(0, steps, step, params)
    return params, problem.residuals(field(params), points)


def run(problem, points, term, net, go, seed: int, steps: int) -> dict[str, np.ndarray]:
    params = net.init(jax.random.key(seed))
    kernel = ntk.empirical(problem, net.apply, params, points)
    learning_rate = FRACTION * convergence.max_learning_rate(kernel)
    start = problem.residuals(lambda x: jnp.zeros((), x.dtype), points)

    grid = np.append(0, np.unique(np.geomspace(1, 1e10, 440).astype(int)))
    told = np.asarray(convergence.gradient_descent(kernel, learning_rate).residuals(start, grid)[term])

    single = jax.tree.map(lambda leaf: leaf.astype(np.float32), (params, points))
    now, measured = single[0], []
    run_to = grid[grid <= steps]
    for more in np.diff(run_to, prepend=0):
        now, residuals = go(now, *single, np.float32(learning_rate), int(more))
        measured.append(np.asarray(residuals[term]))
    after = ntk.empirical(problem, net.apply, jax.tree.map(lambda leaf: leaf.astype(float), now), points)

    block = np.asarray(kernel[term, term])
    told, measured = amplitudes(told), amplitudes(np.stack(measured))
    return {
        "block": block,
        "eigenvalues": spectra.eigenvalues(kernel).terms[term],
        "profile": profile(block),
        "profile_after": profile(np.asarray(after[term, term])),
        "traces": np.array([np.trace(kernel[name, name]) for name in kernel.names]),
        "moved": np.linalg.norm(after.matrix - kernel.matrix) / np.linalg.norm(kernel.matrix),
        "learning_rate": learning_rate,
        "told_steps": first_below(grid, told),
        "measured_steps": first_below(run_to, measured),
        "told": (told / told[0])[: len(run_to)],
        "measured": measured / measured[0],
    }


def main(seeds: int, steps: int) -> None:
    began = time.perf_counter()
    arrays = {}
    for setting, (problem, points, term) in settings().items():
        compiled = functools.cache(lambda apply, problem=problem: jax.jit(functools.partial(advance, problem, apply)))
        rows = []
        for name, (_, _, scales) in ARCHITECTURES.items():
            for seed in range(seeds):
                net = network(name, seed if scales else 0)
                rows.append(run(problem, points, term, net, compiled(net.apply), seed, steps))
        for key in rows[0]:
            values = np.stack([row[key] for row in rows]).astype(np.float32)
            values = values.reshape(len(ARCHITECTURES), seeds, *values.shape[1:])
            arrays[f"{setting}_{key}"] = values[:, 0] if key in ("block", "told", "measured") else values  # Of seed 0.
    counts = [
        sum(leaf.size for leaf in jax.tree.leaves(network(name, 0).init(jax.random.key(0)))) for name in ARCHITECTURES
    ]
    grid = np.append(0, np.unique(np.geomspace(1, 1e10, 440).astype(int)))
    config = {
        "architectures": ARCHITECTURES, "hidden_layers": DEPTH, "parameters": counts, "activation": "tanh",
        "parameterization": "standard", "inputs": "standardized", "centred": True, "points": POINTS,
        "frequencies": FREQUENCIES, "steps": steps, "fraction_of_stable_step": FRACTION, "seeds": list(range(seeds)),
        "kernel_precision": "float64", "training_precision": "float32", "terms": {"regression": ["data"],
        "poisson": ["boundary", "residual"]},
    }  # fmt: skip
    results.save(
        "architecture_kernels", config, seconds=time.perf_counter() - began, steps=grid[grid <= steps], **arrays
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4096)
    main(**vars(parser.parse_args()))
