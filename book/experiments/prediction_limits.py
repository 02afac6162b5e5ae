"""Where the prediction is put to the test: frequency by frequency, at large steps, and under Adam.

    python book/experiments/prediction_limits.py [--seeds 3] [--widths 256 1024 4096] [--parts adam]

For chapter 14.  One hidden layer and 1-D Poisson throughout.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.flatten_util

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
import optax
from pinn_analysis import convergence, networks, ntk, partial, problems, results, training
from pinn_analysis.problems import Condition, Problem

import runs

FREQUENCIES = np.arange(1, 9)
FREQUENCY_STEPS = {"as they are": 1024, "scaled": 512}
FRACTIONS = (0.1, 0.4, 0.8, 0.95, 1.05, 1.5, 2.0, 3.0)  # Of the largest stable step.
RATE_STEPS = 256
STARTS, HORIZON = (1, 30, 100, 300, 1000), 300  # Windows of Adam.
ADAM_WIDTHS = (256, 1024)
ADAM_RATE = 1e-3  # At width 256; falls like one over the root of the width.
B1, B2, EPS = 0.9, 0.999, 1e-8
ENDS = jnp.array([[0.0], [1.0]])
POISSON = problems.poisson_1d(a=1)


def several_sines() -> Problem:
    """``u'' = f`` with all frequencies equally strong in ``f``."""

    def solution(x):
        return sum(jnp.sin(k * jnp.pi * x[0]) / k**2 for k in FREQUENCIES)

    def source(x):
        return -(jnp.pi**2) * sum(jnp.sin(k * jnp.pi * x[0]) for k in FREQUENCIES)

    conditions = {
        "boundary": POISSON.conditions["boundary"]._replace(target=solution),
        "residual": Condition(partial(0, 0), source, POISSON.conditions["residual"].sample),
    }
    return Problem("several_sines", conditions, POISSON.domain, solution)


SINES = several_sines()


def midpoints(n: int) -> dict[str, jax.Array]:
    return {"boundary": ENDS, "residual": (jnp.arange(n)[:, None] + 0.5) / n}


def shares(points: dict) -> jax.Array:
    """``1 / n_i`` of each row: ``sum(shares * r**2)`` is the loss."""
    return jnp.concatenate([jnp.full(len(x), 1 / len(x)) for x in points.values()])


def norm(d: jax.Array, r: jax.Array) -> np.ndarray:
    """Root of the loss of rows ``r``."""
    return np.sqrt(np.sum(np.asarray(d) * np.asarray(r) ** 2, -1))


@functools.cache
def network(width: int, inputs: str = "as they are") -> networks.Network:
    net = networks.mlp((1, width, 1), parameterization="ntk", bias_std=1.0)
    return networks.standardized(net, *POISSON.domain) if inputs == "scaled" else net


EQUATIONS = {"sines": SINES, "poisson": POISSON}


@functools.cache
def kernel(equation: str, points: int, inputs: str = "as they are") -> ntk.KernelBlocks:
    return ntk.infinite(EQUATIONS[equation], network(1, inputs).kernel_fn, midpoints(points))


@functools.cache
def descending(equation: str, points: int, steps: int, width: int, inputs: str = "as they are") -> Callable:
    """``(params, learning rate) -> (last, residuals)`` of gradient descent, a row a step; compiled once."""
    problem, apply, where = EQUATIONS[equation], network(width, inputs).apply, midpoints(points)

    @jax.jit
    def run(params, learning_rate):
        step = runs.descent(problem, apply, where, learning_rate)
        return training.follow(step, problem.rows(apply, where), np.arange(steps + 1))(params)

    return run


def rows(residuals: dict, names) -> np.ndarray:
    return np.concatenate([residuals[name] for name in names], -1)


def frequencies(config: dict) -> dict[str, np.ndarray]:
    """Steps until each sine in the residual has fallen to a tenth, predicted and measured; inf if later."""
    points, at = midpoints(config["points"]), np.arange(config["steps"] + 1)
    basis = np.sin(np.pi * FREQUENCIES * np.asarray(points["residual"]))

    def first(rows):
        part = np.abs(np.asarray(rows)[:, 2:] @ basis)
        reached = part <= 0.1 * part[0]
        return np.where(reached.any(0), reached.argmax(0), np.inf)

    limit = kernel("sines", config["points"], config["inputs"])
    rate = 0.4 * convergence.max_learning_rate(limit)
    params = network(config["width"], config["inputs"]).init(jax.random.key(config["seed"]))
    _, measured = descending("sines", config["points"], config["steps"], config["width"], config["inputs"])(
        params, rate
    )
    predicted = convergence.gradient_descent(limit, rate).residuals(limit.split(measured[0]), at)
    return {"predicted": first(rows(predicted, limit.names)), "measured": first(measured)}


def learning_rates(config: dict) -> dict[str, np.ndarray]:
    """Error of the prediction, last loss, and last sharpness over the predicted one, by learning rate."""
    points, at, net = midpoints(config["points"]), np.arange(config["steps"] + 1), network(config["width"])
    limit, d = kernel("poisson", config["points"]), shares(points)
    stable = convergence.max_learning_rate(limit)
    # The last kernel is that after one step more.
    run = descending("poisson", config["points"], config["steps"] + 1, config["width"])
    start = net.init(jax.random.key(config["seed"]))
    gap, loss, sharpness = np.full((3, len(config["fractions"])), np.nan)
    for j, fraction in enumerate(config["fractions"]):
        params, measured = run(start, fraction * stable)
        measured = measured[:-1]
        size = norm(d, measured[0])
        loss[j] = (norm(d, measured[-1]) / size) ** 2
        if fraction <= 1:
            descent = convergence.gradient_descent(limit, fraction * stable)
            predicted = rows(descent.residuals(limit.split(measured[0]), at), limit.names)
            gap[j] = np.max(norm(d, predicted - measured)) / size
        if np.isfinite(loss[j]):
            last = ntk.empirical(POISSON, net.apply, params, points)
            sharpness[j] = stable / convergence.max_learning_rate(last)
    return {"gap": gap, "loss": loss, "sharpness": sharpness}


def preconditioned(jacobian, r, d, state, rate, horizon: int) -> tuple[np.ndarray, float]:
    """Residuals of some steps from the kernel ``J P⁻¹ Jᵀ`` of now, with Adam's momentum; and ``η Λ_max``."""
    k = int(state.count)
    p = np.sqrt(np.asarray(state.nu) / (1 - B2**k)) + EPS
    kernel, momentum = (jacobian / p) @ jacobian.T, jacobian @ (np.asarray(state.mu) / p)
    rows = [r]
    for step in range(1, horizon + 1):
        momentum = B1 * momentum + (1 - B1) * 2 * kernel @ (d * r)
        r = r - rate * momentum / (1 - B1 ** (k + step))
        rows.append(r)
    return np.stack(rows), rate * np.linalg.eigvalsh(np.sqrt(d)[:, None] * kernel * np.sqrt(d))[-1]


class Adam(NamedTuple):
    """Adam on one width, from flat parameters, compiled once for all seeds."""

    rate: float
    start: Callable  # seed -> (params, state)
    residuals: Callable  # params -> rows
    run: Callable  # (params, state) -> residuals of a whole run
    advance: Callable  # ((params, state), steps) -> (params, state)
    linearised: Callable  # (residuals, Jacobian) -> residuals of a run of a network linear in its parameters


@functools.cache
def adam_on(width: int, points: int, length: int) -> Adam:
    net, points = network(width), midpoints(points)
    unravel = jax.flatten_util.ravel_pytree(net.init(jax.random.key(0)))[1]
    rate, d = ADAM_RATE * (256 / width) ** 0.5, shares(points)
    optimizer = optax.adam(rate, B1, B2, EPS)
    apply = lambda flat, x: net.apply(unravel(flat), x)
    step, residuals = training.stepper(POISSON, apply, points, optimizer), POISSON.rows(apply, points)

    def start(seed: int):
        flat = jax.flatten_util.ravel_pytree(net.init(jax.random.key(seed)))[0]
        return flat, optimizer.init(flat)

    def linearised(r0, jacobian):
        def step(carry):
            moved, state = carry
            updates, state = optimizer.update(2 * jacobian.T @ (d * (r0 + jacobian @ moved)), state)
            return moved + updates, state

        zero = jnp.zeros(jacobian.shape[1])
        return training.follow(step, lambda carry: r0 + jacobian @ carry[0], at)((zero, optimizer.init(zero)))[1]

    at = np.arange(length)
    run = training.follow(step, lambda carry: residuals(carry[0]), at)
    advance = jax.jit(lambda carry, n: jax.lax.fori_loop(0, n, lambda _, c: step(c), carry))
    return Adam(rate, start, residuals, lambda carry: run(carry)[1], advance, jax.jit(linearised))


def adam(config: dict) -> dict[str, np.ndarray]:
    """Frozen preconditioner over windows of a run; and the whole run, as the network linearised at its start has it."""
    starts, horizon = config["starts"], config["horizon"]
    on = adam_on(config["width"], config["points"], starts[-1] + horizon + 1)
    d, jacobian = np.asarray(shares(midpoints(config["points"]))), jax.jit(jax.jacrev(on.residuals))
    carry = on.start(config["seed"])
    measured = np.asarray(on.run(carry))
    linear = norm(d, on.linearised(measured[0], jacobian(carry[0])) - measured) / norm(d, measured[0])
    gap, change, speed = [], [], []
    for before, start in zip((0, *starts), starts, strict=False):
        flat, state = carry = on.advance(carry, start - before)
        window = measured[start : start + horizon + 1]
        told, fastest = preconditioned(np.asarray(jacobian(flat)), window[0], d, state[0], on.rate, horizon)
        gap.append(norm(d, told - window) / norm(d, window[0]))
        change.append(norm(d, window - window[0]) / norm(d, window[0]))
        speed.append(fastest)
    return {"gap": gap, "change": change, "speed": speed, "linear": linear}


PARTS = {"frequencies": frequencies, "learning_rates": learning_rates, "adam": adam}


def make(config: dict) -> dict[str, np.ndarray]:
    with np.errstate(over="ignore"):  # Losses that diverged become infinite.
        return {name: np.float32(value) for name, value in PARTS[config["part"]](config).items()}


def configs(widths: tuple[int, ...], seeds: int, parts: tuple[str, ...]) -> dict[str, dict]:
    common = {"hidden_layers": 1, "activation": "tanh", "parameterization": "ntk", "bias_std": 1.0}
    found = {}
    for width in widths:
        for seed in range(seeds):
            cell = common | {"width": width, "seed": seed}
            for inputs, steps in FREQUENCY_STEPS.items():
                part = {"part": "frequencies", "inputs": inputs, "frequencies": FREQUENCIES.tolist(), "points": 48}
                found[f"frequencies {inputs} {width} {seed}"] = cell | part | {"steps": steps}
            part = {"part": "learning_rates", "fractions": FRACTIONS, "points": 32, "steps": RATE_STEPS}
            found[f"learning_rates {width} {seed}"] = cell | part
            if width in ADAM_WIDTHS:
                part = {"part": "adam", "starts": STARTS, "horizon": HORIZON, "rate_at_256": ADAM_RATE, "points": 32}
                found[f"adam {width} {seed}"] = cell | part
    return {name: config for name, config in found.items() if config["part"] in parts}


def main(widths: tuple[int, ...] = (256, 1024, 4096), seeds: int = 3, parts: tuple[str, ...] = tuple(PARTS)) -> None:
    results.fill("prediction_limits", configs(widths, seeds, parts), make)


if __name__ == "__main__":
    runs.command_line(main, parts=PARTS)
