"""The error of u on the way, for architectures with equally many parameters, by gradient descent and by Adam.

    python book/experiments/architecture_errors.py [--seeds 3] [--steps 4096] [--names plain modified ...]

For chapter 19.  The Poisson problem, networks and points of `architecture_kernels.py`, centred as there; with weights 1
and with those of the traces at the start.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pinn_analysis import convergence, ntk, problems, results, training

import architecture_kernels
import runs

RECORDS = 40
ADAM = 1e-3  # Constant, so that the end of a run is not the end of its learning rate.


def make(config: dict) -> dict[str, np.ndarray]:
    problem, points, _ = architecture_kernels.SETTINGS["poisson"]
    name, seed = config["architecture"], config["seed"]
    net = architecture_kernels.network(name, seed if architecture_kernels.ARCHITECTURES[name][2] else 0)
    start = net.init(jax.random.key(seed))
    kernel = ntk.empirical(problem, net.apply, start, points)
    rates = convergence.rates(kernel)
    weights = {term: float(sum(rates.values()) / c) for term, c in rates.items()}
    if config["weights"] == "none":
        weights = dict.fromkeys(weights, 1.0)
    fraction = architecture_kernels.FRACTION
    optimizer = {
        "gradient descent": optax.sgd(fraction * convergence.max_learning_rate(kernel, weights)),
        "adam": optax.adam(ADAM),
    }[config["optimizer"]]

    def centred(params, x):
        return net.apply(params, x) - net.apply(start, x)

    step = training.stepper(problem, centred, points, optimizer, weights)
    grid = problems.grid(problem, 512)
    exact = jax.vmap(problem.solution)(grid)

    @jax.jit
    def descend(state, count):
        return jax.lax.fori_loop(0, count, lambda _, s: step(s), state)

    @jax.jit
    def measure(params):
        field = functools.partial(centred, params)
        error = jnp.linalg.norm(jax.vmap(field)(grid) - exact) / jnp.linalg.norm(exact)
        return jnp.stack([error, *problem.losses(field, points).values()])

    at = np.append(0, np.unique(np.geomspace(1, config["steps"], RECORDS).astype(int)))
    state, found = (start, optimizer.init(start)), []
    for more in np.diff(at, prepend=0):
        state = descend(state, more)
        found.append(measure(state[0]))
    error, *losses = np.float32(found).T
    return {"step": at, "error": error, "losses": np.stack(losses), "boundary_weight": np.float32(weights["boundary"])}


def configs(seeds: int, steps: int, names: tuple[str, ...]) -> dict[str, dict]:
    return {
        f"{name}, {optimizer}, {weights} {seed}": {
            "architecture": name, "optimizer": optimizer, "weights": weights, "seed": seed, "steps": steps,
            "network": architecture_kernels.ARCHITECTURES[name], "hidden_layers": architecture_kernels.DEPTH,
            "centred": True, "points": architecture_kernels.POINTS, "adam": ADAM,
            "fraction_of_stable_step": architecture_kernels.FRACTION,
            "terms": list(architecture_kernels.SETTINGS["poisson"][0].conditions),
        }
        for seed in range(seeds)
        for optimizer in ("gradient descent", "adam")
        for weights in ("none", "traces")
        for name in names
    }  # fmt: skip


def main(seeds: int = 3, steps: int = 4096, names: tuple[str, ...] = tuple(architecture_kernels.ARCHITECTURES)) -> None:
    results.fill("architecture_errors", configs(seeds, steps, names), make)


if __name__ == "__main__":
    runs.command_line(main, names=architecture_kernels.ARCHITECTURES)
