"""Where the prediction is put to the test: frequency by frequency, at large steps, and under Adam.

    python book/experiments/prediction_limits.py [--seeds 3] [--widths 256 1024 4096] [--parts adam]

One hidden layer and 1-D Poisson throughout.
"""

import argparse
import functools
import json
import time

import jax
import jax.flatten_util

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
import optax
from pinn_analysis import convergence, networks, ntk, partial, problems, results
from pinn_analysis.problems import Condition, Problem

FREQUENCIES = np.arange(1, 9)
FREQUENCY_STEPS = {"as they are": 1024, "scaled": 512}
FRACTIONS = (0.1, 0.4, 0.8, 0.95, 1.05, 1.5, 2.0, 3.0)  # Of the largest stable step.
RATE_STEPS = 256
STARTS, HORIZON = (1, 30, 100, 300, 1000), 300  # Windows of Adam.
ADAM_WIDTHS = (256, 1024)
ADAM_RATE = 1e-3  # At width 256; falls like one over the root of the width.
B1, B2, EPS = 0.9, 0.999, 1e-8
ENDS = jnp.array([[0.0], [1.0]])


def several_sines() -> Problem:
    """``u'' = f`` with all frequencies equally strong in ``f``."""

    def solution(x):
        return sum(jnp.sin(k * jnp.pi * x[0]) / k**2 for k in FREQUENCIES)

    def source(x):
        return -(jnp.pi**2) * sum(jnp.sin(k * jnp.pi * x[0]) for k in FREQUENCIES)

    plain = problems.poisson_1d()
    conditions = {
        "boundary": plain.conditions["boundary"]._replace(target=solution),
        "residual": Condition(partial(0, 0), source, plain.conditions["residual"].sample),
    }
    return Problem("several_sines", conditions, plain.domain, solution)


def midpoints(n: int) -> dict[str, jax.Array]:
    return {"boundary": ENDS, "residual": (jnp.arange(n)[:, None] + 0.5) / n}


def network(width: int) -> networks.Network:
    return networks.mlp((1, width, 1), parameterization="ntk", bias_std=1.0)


def training(problem, apply, points, optimizer, length):
    """``(params, state) -> (params, state), residuals`` before each of ``length`` steps, stacked rows."""

    def residuals(params):
        parts = problem.residuals(functools.partial(apply, params), points)
        return jnp.concatenate([parts[name] for name in problem.conditions])

    d = jnp.concatenate([jnp.full(len(points[name]), 1 / len(points[name])) for name in problem.conditions])

    def step(carry, _):
        params, state = carry
        updates, state = optimizer.update(jax.grad(lambda p: jnp.sum(d * residuals(p) ** 2))(params), state)
        return (optax.apply_updates(params, updates), state), residuals(params)

    return jax.jit(lambda params, state: jax.lax.scan(step, (params, state), length=length)), residuals, d


def frequencies(widths, seeds) -> dict[str, np.ndarray]:
    """Steps until each sine in the residual has fallen to a tenth, predicted and measured; inf if later."""
    problem, points = several_sines(), midpoints(48)
    basis = np.sin(np.pi * FREQUENCIES * np.asarray(points["residual"]))

    def first(rows):
        part = np.abs(np.asarray(rows)[:, 2:] @ basis)
        reached = part <= 0.1 * part[0]
        return np.where(reached.any(0), reached.argmax(0), np.inf)

    out = {}
    for inputs, steps in FREQUENCY_STEPS.items():
        wrap = (lambda net: networks.standardized(net, *problem.domain)) if inputs == "scaled" else (lambda net: net)
        kernel = ntk.infinite(problem, wrap(network(1)).kernel_fn, points)
        rate = 0.4 * convergence.max_learning_rate(kernel)
        descent, optimizer = convergence.gradient_descent(kernel, rate), optax.sgd(rate)
        predicted, measured = [], []
        for width in widths:
            net = wrap(network(width))
            run, _, _ = training(problem, net.apply, points, optimizer, steps + 1)
            for seed in range(seeds):
                params = net.init(jax.random.key(seed))
                _, rows = run(params, optimizer.init(params))
                told = descent.residuals(kernel.split(rows[0]), np.arange(steps + 1))
                measured.append(first(rows))
                predicted.append(first(np.concatenate([told[name] for name in kernel.names], -1)))
        for key, value in {"predicted": predicted, "measured": measured}.items():
            out[f"frequency/{inputs}/{key}"] = np.reshape(value, (len(widths), seeds, -1))
    return out


def learning_rates(widths, seeds) -> dict[str, np.ndarray]:
    """Error of the prediction, last loss, and last sharpness over the predicted one, by learning rate."""
    problem, points = problems.poisson_1d(a=1), midpoints(32)
    kernel = ntk.infinite(problem, network(1).kernel_fn, points)
    stable = convergence.max_learning_rate(kernel)
    optimizer = optax.inject_hyperparams(optax.sgd)(learning_rate=0.0)
    gap, loss, sharpness = (np.full((len(widths), len(FRACTIONS), seeds), np.nan) for _ in range(3))
    for i, width in enumerate(widths):
        net = network(width)
        run, _, d = training(problem, net.apply, points, optimizer, RATE_STEPS + 1)
        for j, fraction in enumerate(FRACTIONS):
            for seed in range(seeds):
                params = net.init(jax.random.key(seed))
                state = optimizer.init(params)
                state.hyperparams["learning_rate"] = jnp.array(fraction * stable)
                (params, _), rows = run(params, state)
                norm = lambda r: jnp.sqrt(jnp.sum(d * r**2, -1))  # noqa: B023
                loss[i, j, seed] = norm(rows[-1]) ** 2 / norm(rows[0]) ** 2
                if fraction <= 1:
                    descent = convergence.gradient_descent(kernel, fraction * stable)
                    told = descent.residuals(kernel.split(rows[0]), np.arange(RATE_STEPS + 1))
                    told = jnp.concatenate([told[name] for name in kernel.names], -1)
                    gap[i, j, seed] = jnp.max(norm(told - rows)) / norm(rows[0])
                if np.isfinite(loss[i, j, seed]):
                    last = ntk.empirical(problem, net.apply, params, points)
                    sharpness[i, j, seed] = stable / convergence.max_learning_rate(last)
    return {"rate/gap": gap, "rate/loss": loss, "rate/sharpness": sharpness}


def preconditioned(jacobian, r, d, state, rate) -> tuple[np.ndarray, float]:
    """Residuals of HORIZON steps from the kernel ``J P⁻¹ Jᵀ`` of now, with Adam's momentum; and ``η Λ_max``."""
    k = int(state.count)
    p = np.sqrt(np.asarray(state.nu) / (1 - B2**k)) + EPS
    kernel, momentum = (jacobian / p) @ jacobian.T, jacobian @ (np.asarray(state.mu) / p)
    rows = [r]
    for step in range(1, HORIZON + 1):
        momentum = B1 * momentum + (1 - B1) * 2 * kernel @ (d * r)
        r = r - rate * momentum / (1 - B1 ** (k + step))
        rows.append(r)
    return np.stack(rows), rate * np.linalg.eigvalsh(np.sqrt(d)[:, None] * kernel * np.sqrt(d))[-1]


def adam(widths, seeds) -> dict[str, np.ndarray]:
    """Frozen preconditioner over windows of a run; and the whole run, as the network linearised at its start has it."""
    problem, points = problems.poisson_1d(a=1), midpoints(32)
    length = STARTS[-1] + HORIZON + 1
    shape = (len(widths), seeds, len(STARTS))
    gap, change = np.zeros((*shape, HORIZON + 1)), np.zeros((*shape, HORIZON + 1))
    speed, linear = np.zeros(shape), np.zeros((len(widths), seeds, length))
    d = np.repeat([1 / 2, 1 / 32], [2, 32])

    def norm(r) -> np.ndarray:
        return np.sqrt(np.sum(d * np.asarray(r) ** 2, -1))

    for i, width in enumerate(widths):
        net = network(width)
        unravel = jax.flatten_util.ravel_pytree(net.init(jax.random.key(0)))[1]
        rate = ADAM_RATE * (256 / width) ** 0.5
        optimizer = optax.adam(rate, B1, B2, EPS)
        run, advance, residuals = descending(problem, net, unravel, points, optimizer, d, length)
        jacobian = jax.jit(jax.jacrev(residuals))
        linearised = jax.jit(lambda start, j: descending_line(start, j, optimizer, d, length))  # noqa: B023
        for seed in range(seeds):
            flat = jax.flatten_util.ravel_pytree(net.init(jax.random.key(seed)))[0]
            state = optimizer.init(flat)
            rows = np.asarray(run(flat, state))
            linear[i, seed] = norm(linearised(rows[0], jacobian(flat)) - rows) / norm(rows[0])
            for j, start in enumerate(STARTS):
                flat, state = advance(flat, state, start - (STARTS[j - 1] if j else 0))
                window = rows[start : start + HORIZON + 1]
                told, speed[i, seed, j] = preconditioned(np.asarray(jacobian(flat)), window[0], d, state[0], rate)
                gap[i, seed, j] = norm(told - window) / norm(window[0])
                change[i, seed, j] = norm(window - window[0]) / norm(window[0])
    return {"adam/gap": gap, "adam/change": change, "adam/speed": speed, "adam/linear": linear}


def descending(problem, net, unravel, points, optimizer, d, length):
    """Residuals of ``length`` steps, from flat parameters; and where any number of steps leads."""

    def residuals(flat):
        parts = problem.residuals(functools.partial(net.apply, unravel(flat)), points)
        return jnp.concatenate([parts[name] for name in problem.conditions])

    def step(flat, state):
        updates, state = optimizer.update(jax.grad(lambda p: jnp.sum(d * residuals(p) ** 2))(flat), state)
        return flat + updates, state

    def run(flat, state):
        return jax.lax.scan(lambda c, _: (step(*c), residuals(c[0])), (flat, state), length=length)[1]

    def advance(flat, state, n):
        return jax.lax.fori_loop(0, n, lambda _, c: step(*c), (flat, state))

    return jax.jit(run), jax.jit(advance), residuals


def descending_line(start, jacobian, optimizer, d, length):
    """Residuals of ``length`` steps on a network that is linear in its parameters."""

    def step(carry, _):
        moved, state = carry
        r = start + jacobian @ moved
        updates, state = optimizer.update(2 * jacobian.T @ (d * r), state)
        return (moved + updates, state), r

    zero = jnp.zeros(jacobian.shape[1])
    return jax.lax.scan(step, (zero, optimizer.init(zero)), length=length)[1]


def main(widths: list[int], seeds: int, parts: list[str]) -> None:
    config = {
        "widths": widths, "adam_widths": ADAM_WIDTHS, "seeds": list(range(seeds)),
        "frequencies": FREQUENCIES.tolist(), "frequency_steps": FREQUENCY_STEPS, "frequency_points": 48, "points": 32,
        "fractions": FRACTIONS, "rate_steps": RATE_STEPS, "adam_starts": STARTS, "adam_horizon": HORIZON,
        "adam_rate": ADAM_RATE, "hidden_layers": 1, "activation": "tanh", "parameterization": "ntk", "bias_std": 1.0,
        "precision": "float64",
    }  # fmt: skip
    for part in parts:
        start = time.perf_counter()
        new = PARTS[part](ADAM_WIDTHS if part == "adam" else widths, seeds)
        done, seconds = stored(config)
        with np.errstate(over="ignore"):  # Losses that diverged become infinite.
            done |= {key: np.asarray(value, np.float32) for key, value in new.items()}
        results.save(NAME, config, seconds=seconds + time.perf_counter() - start, **done)


def stored(config: dict) -> tuple[dict[str, np.ndarray], float]:
    """The parts that earlier calls with the same settings left, and how long they took."""
    if not (results.FOLDER / f"{NAME}.npz").exists():
        return {}, 0.0
    arrays, how = results.load(NAME)
    same = how["config"] == json.loads(json.dumps(config))
    return (arrays, how["seconds"]) if same else ({}, 0.0)


NAME = "prediction_limits"
PARTS = {"frequencies": frequencies, "learning_rates": learning_rates, "adam": adam}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 1024, 4096])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    main(**vars(parser.parse_args()))
