"""Healthy runs of other equations than the battery's: what `diagnosis.diagnose` says of networks that solve them.

    python book/experiments/diagnosis_healthy.py [--seeds 2]

For chapter 24.  Problems of the library, and equations that are not in the book: of first to fourth order, in one to
three dimensions, with one component and with two, nonlinear ones, and one with noisy readings.  Each network is fitted
by Levenberg-Marquardt, which leaves it well in seconds.  The diagnosis gets no solution.  A run counts where its
relative error is below 0.03, and is an alarm if anything is found.
"""

import itertools
from collections.abc import Callable

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
import optax
from pinn_analysis import Condition, Problem, diagnosis, laplacian, mlp, problems, results, solving, standardized
from pinn_analysis.operators import identity, partial
from pinn_analysis.problems import box, faces

import runs
from diagnosis_battery import LEAVE_OUT, packed

HIDDEN, UPDATES = (24, 24), 150


def manufactured(
    name: str, domain: tuple, solution: Callable, operator: Callable, given: dict[str, tuple] | None = None
) -> Problem:
    """An equation whose right-hand side is what the operator makes of a solution; values on all faces, or ``given``."""
    low, high = (jnp.asarray(corner, float) for corner in domain)
    given = {"boundary": (identity,)} if given is None else given
    conditions = {term: Condition(f, f(solution), faces(low, high, *where)) for term, (f, *where) in given.items()}
    conditions["residual"] = Condition(operator, operator(solution), box(low, high))
    return Problem(name, conditions, (low, high), solution)


def second(u):
    """``u''``."""
    return partial(0, 0)(u)


def oscillator() -> Problem:
    """A damped one, from both initial conditions."""
    start = {"initial": (identity, (0, 0)), "velocity": (partial(0), (0, 0))}
    operator = lambda u: lambda x: second(u)(x) + 0.4 * partial(0)(u)(x) + 9 * u(x)
    return manufactured(
        "oscillator", ([0.0], [3.0]), lambda x: jnp.exp(-0.2 * x[0]) * jnp.cos(3 * x[0]), operator, start
    )


def beam() -> Problem:
    """Of fourth order, simply supported."""
    ends = {"boundary": (identity,), "moment": (partial(0, 0),)}
    return manufactured("beam", ([0.0], [1.0]), lambda x: jnp.sin(jnp.pi * x[0]), partial(0, 0, 0, 0), ends)


def bratu() -> Problem:
    """``u'' + e^u = f``."""
    operator = lambda u: lambda x: second(u)(x) + jnp.exp(u(x))
    return manufactured("bratu", ([0.0], [1.0]), lambda x: jnp.sin(2 * x[0]), operator)


def transport() -> Problem:
    """Advection and diffusion, steady, in two dimensions."""
    operator = lambda u: lambda x: partial(0)(u)(x) + 0.5 * partial(1)(u)(x) - 0.1 * laplacian(u)(x)
    return manufactured("transport", ([0.0, 0.0], [1.0, 1.0]), lambda x: jnp.exp(x[0]) * jnp.cos(2 * x[1]), operator)


def cube() -> Problem:
    """Poisson's equation in three dimensions."""
    return manufactured(
        "cube", ([0.0] * 3, [1.0] * 3), lambda x: jnp.sin(2 * x[0]) * jnp.cos(x[1]) + x[2] ** 2, laplacian
    )


def layers() -> Problem:
    """``div(a grad u)``, ``a = 1 + x²``."""
    operator = lambda u: lambda x: (1 + x[0] ** 2) * laplacian(u)(x) + 2 * x[0] * partial(0)(u)(x)
    return manufactured("layers", ([0.0, 0.0], [1.0, 1.0]), lambda x: jnp.cos(3 * x[0]) * x[1], operator)


def predators() -> Problem:
    """Two populations, which is nonlinear."""

    def operator(u):
        rate = partial(0)(u)

        def left(x):
            a, b = u(x)
            return rate(x) - jnp.stack([a * (1 - b), b * (a - 1)])

        return left

    solution = lambda x: jnp.stack([1 + 0.5 * jnp.cos(x[0]), 1 + 0.5 * jnp.sin(x[0])])
    return manufactured("predators", ([0.0], [4.0]), solution, operator, {"initial": (identity, (0, 0))})


def schroedinger() -> Problem:
    """``i u_t = -u_xx`` as a real and an imaginary part."""

    def operator(u):
        rate, bend = partial(1)(u), partial(0, 0)(u)
        return lambda x: rate(x) - jnp.stack([-bend(x)[1], bend(x)[0]])

    solution = lambda x: jnp.sin(2 * x[0]) * jnp.stack([jnp.cos(4 * x[1]), -jnp.sin(4 * x[1])])
    given = {"boundary": (identity, (0, 0), (0, 1)), "initial": (identity, (1, 0))}
    return manufactured("schroedinger", ([0.0, 0.0], [np.pi / 2, 0.5]), solution, operator, given)


def readings() -> Problem:
    """A bar with 40 readings that are off by 2 % of its size."""
    bar = manufactured("readings", ([0.0], [1.0]), lambda x: jnp.sin(4 * x[0]), second)
    x = jax.random.uniform(jax.random.key(1), (40, 1))
    noise = 0.02 * 0.7 * jax.random.normal(jax.random.key(2), (40,))
    measured = problems.data(x, jax.vmap(bar.solution)(x) + noise)
    return bar._replace(conditions=bar.conditions | {"readings": measured})


PROBLEMS: dict[str, Callable[[], Problem]] = {
    "poisson_1d a=1": lambda: problems.poisson_1d(1),
    "poisson_1d a=4": problems.poisson_1d,
    "helmholtz_2d 1 1": lambda: problems.helmholtz_2d(1, 1),
    "wave_1d a=0 c=1": lambda: problems.wave_1d(0, 1),
    "convection beta=1": lambda: problems.convection(1),
    "burgers nu=0.3": lambda: problems.burgers(0.3),
    "klein_gordon": problems.klein_gordon,
    **{make.__name__: make for make in (
        oscillator, beam, bratu, transport, cube, layers, predators, schroedinger, readings,
    )},
}  # fmt: skip


def make(config: dict) -> dict:
    """Fit, measure, diagnose."""
    problem = PROBLEMS[config["problem"]]()
    d = len(problem.domain[0])
    m = jax.eval_shape(problem.solution, problem.domain[0]).size if problem.solution else 1
    net = standardized(mlp((d, *config["hidden"], m), bias_std=1.0), *problem.domain)
    key = jax.random.key(config["seed"])
    points = problem.sample(key, {term: 30 for term in problem.conditions} | {"residual": 60 if d == 1 else 300})
    fitted = solving.least_squares(problem, net, points, key=key, steps=config["updates"])
    found = diagnosis.diagnose(
        problem._replace(solution=None), net.apply, fitted.params, points, optimizer=optax.adam(1e-3), budget=1e6,
        leave_out=LEAVE_OUT,
    )  # fmt: skip
    error = fitted.error_estimate
    if problem.solution is not None:
        x = problems.test_points(problem)
        error = float(problems.relative_l2_error(fitted.field, problem.solution, x))
    return {
        "error": error, "measured": packed(found.measured), "seconds": sum(found.seconds.values()),
        "found": np.array([f.cause for f in found.findings], dtype="U40"),
    }  # fmt: skip


def main(problem: tuple[str, ...] = tuple(PROBLEMS), seeds: int = 2) -> None:
    configs = {
        f"{name} {seed}": {
            "problem": name, "seed": seed, "hidden": HIDDEN, "updates": UPDATES, "optimizer": "Levenberg-Marquardt",
        }
        for seed, name in itertools.product(range(seeds), problem)
    }  # fmt: skip
    results.fill("diagnosis_healthy", configs, make)


if __name__ == "__main__":
    runs.command_line(main, problem=PROBLEMS)
