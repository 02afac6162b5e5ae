"""Kernels of architectures with equally many parameters, and the order in which they learn.

    python book/experiments/architecture_kernels.py [--seeds 3] [--steps 4096] [--names plain modified ...]

For chapter 19.  For plain, modified and Fourier-feature networks: the empirical kernel at the start, for
regression and for a Poisson problem; how fast each frequency will be learned, by it; and
gradient descent, which has the last word.  Networks are centred, minus what they are at the
start, so that every frequency starts with the same amplitude.
"""

import functools

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from pinn_analysis import convergence, networks, ntk, operators, problems, results, spectra, training

import runs

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


GRID = np.append(0, np.unique(np.geomspace(1, 1e10, 440).astype(int)))  # Steps of the prediction.


@functools.cache
def descending(setting: str, name: str, seed: int, steps: int):
    """``(params, start, points, learning rate) -> (last, residuals at steps of GRID)``, of the centred network."""
    problem, _, term = SETTINGS[setting]
    apply = network(name, seed).apply

    @jax.jit
    def run(start, points, learning_rate):
        def centred(params, x):
            return apply(params, x) - apply(start, x)

        return training.follow(
            runs.descent(problem, centred, points, learning_rate),
            lambda params: problem.residuals(functools.partial(centred, params), points)[term],
            GRID[GRID <= steps],
        )(start)

    return run


def make(config: dict) -> dict[str, np.ndarray]:
    problem, points, term = SETTINGS[config["setting"]]
    name, seed, steps = config["architecture"], config["seed"], config["steps"]
    of_features = seed if ARCHITECTURES[name][2] else 0
    net = network(name, of_features)
    params = net.init(jax.random.key(seed))
    kernel = ntk.empirical(problem, net.apply, params, points)
    learning_rate = FRACTION * convergence.max_learning_rate(kernel)
    start = problem.residuals(lambda x: jnp.zeros((), x.dtype), points)
    predicted = np.asarray(convergence.gradient_descent(kernel, learning_rate).residuals(start, GRID)[term])

    single = jax.tree.map(lambda leaf: leaf.astype(np.float32), (params, points))
    last, measured = descending(config["setting"], name, of_features, steps)(*single, np.float32(learning_rate))
    after = ntk.empirical(problem, net.apply, jax.tree.map(lambda leaf: leaf.astype(float), last), points)

    block, at = np.asarray(kernel[term, term]), GRID[GRID <= steps]
    predicted, measured = amplitudes(predicted), amplitudes(measured)
    arrays = {
        "eigenvalues": spectra.eigenvalues(kernel).terms[term],
        "profile": profile(block),
        "profile_after": profile(np.asarray(after[term, term])),
        "traces": np.array([np.trace(kernel[name, name]) for name in kernel.names]),
        "moved": np.linalg.norm(after.matrix - kernel.matrix) / np.linalg.norm(kernel.matrix),
        "learning_rate": learning_rate,
        "predicted_steps": first_below(GRID, predicted),
        "measured_steps": first_below(at, measured),
    }
    if seed == 0:
        curves = {"predicted": (predicted / predicted[0])[: len(at)], "measured": measured / measured[0]}
        arrays |= {"block": block, **curves}
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    return {"step": at, "parameters": count} | {key: np.float32(value) for key, value in arrays.items()}


SETTINGS = settings()


def configs(seeds: int, steps: int, names: tuple[str, ...]) -> dict[str, dict]:
    return {
        f"{setting} {name} {seed}": {
            "setting": setting, "architecture": name, "seed": seed, "network": ARCHITECTURES[name],
            "hidden_layers": DEPTH, "activation": "tanh", "parameterization": "standard", "inputs": "standardized",
            "centred": True, "points": POINTS, "frequencies": FREQUENCIES, "steps": steps,
            "fraction_of_stable_step": FRACTION, "training_precision": "float32",
            "terms": list(SETTINGS[setting][0].conditions),
        }
        for setting in SETTINGS
        for name in names
        for seed in range(seeds)
    }  # fmt: skip


def main(seeds: int = 3, steps: int = 4096, names: tuple[str, ...] = tuple(ARCHITECTURES)) -> None:
    results.fill("architecture_kernels", configs(seeds, steps, names), make)


if __name__ == "__main__":
    runs.command_line(main, names=ARCHITECTURES)
