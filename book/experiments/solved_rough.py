"""Why `solving.solve` stops at Allen-Cahn and the cavity: its features, or the way to the solution?

    python book/experiments/solved_rough.py [--cases allen_cahn cavity_parabolic ...] [--seeds 3]

For chapter 23.  Each case twice or more: the equation, solved with defaults; the known solution's values as the only
condition, which is what the features can follow at best; Allen-Cahn once more with the features that the values chose,
begun at the field that they gave; the cavity once more with the pressure given at one point.  Solutions are those of
other methods: Fourier in space and an explicit Runge-Kutta pair of order 8 in time; finite differences
(`cavity_reference`).
"""

import functools
import itertools
import time
from typing import NamedTuple

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from jax import Array
from pinn_analysis import networks, problems, results, solving
from pinn_analysis.operators import Field
from pinn_analysis.problems import Problem
from scipy.integrate import solve_ivp

import runs
from solved import given

MODES, TIMES = 4096, 401
WAYS = ("equation", "values", "equation from values", "pressure given")
MEMORY = None  # Bytes for `solve`.


class Known(NamedTuple):
    """A solution on a uniform grid: axes, and values ``(n, m, components)``."""

    x: Array
    y: Array
    values: Array

    @property
    def field(self) -> Field:
        return functools.partial(interpolated, *self)


def interpolated(x: Array, y: Array, values: Array, z: Array) -> Array:
    """Values at a point, by the cubic through four nodes of each axis."""
    nodes = jnp.arange(4)
    others = np.array([[m for m in range(4) if m != k] for k in range(4)])

    def stencil(axis: Array, s: Array) -> tuple[Array, Array]:
        place = (s - axis[0]) / (axis[1] - axis[0])
        first = jnp.clip(jnp.floor(place).astype(int) - 1, 0, len(axis) - 4)
        return first, jnp.prod((place - first - others) / (nodes[:, None] - others), 1)

    (i, along_x), (j, along_y) = stencil(x, z[0]), stencil(y, z[1])
    u = jnp.einsum("i,j,ijm", along_x, along_y, jax.lax.dynamic_slice(values, (i, j, 0), (4, 4, values.shape[-1])))
    return u[0] if u.size == 1 else u


@functools.cache
def allen_cahn(modes: int = MODES) -> Known:
    """``u_t = D u_xx + R (u - u³)``, periodic."""
    x = np.linspace(-1, 1, modes, endpoint=False)
    k = np.pi * np.arange(modes // 2 + 1)

    def slope(_, u: np.ndarray) -> np.ndarray:
        return np.fft.irfft(-1e-4 * k**2 * np.fft.rfft(u), modes) + 5 * (u - u**3)

    t = np.linspace(0, 1, TIMES)
    u = solve_ivp(slope, (0, 1), x**2 * np.cos(np.pi * x), "DOP853", t, rtol=1e-10, atol=1e-12, first_step=1e-5).y
    return Known(*map(jnp.asarray, (np.append(x, 1), t, np.concatenate([u, u[:1]])[..., None])))


def cavity(lid: str) -> Known:
    """Velocity."""
    fields = results.records("cavity_reference")[lid].arrays["fields"]
    x = jnp.linspace(0, 1, fields.shape[1])
    return Known(x, x, jnp.asarray(np.moveaxis(fields[1:], 0, -1), float))


def with_parabolic_lid(problem: Problem) -> Problem:
    lid = lambda x: jnp.stack([jnp.where(x[1] >= 1, 4 * x[0] * (1 - x[0]), 0), jnp.zeros((), x.dtype)])
    return problem._replace(
        conditions=problem.conditions | {"boundary": problem.conditions["boundary"]._replace(target=lid)}
    )


def with_a_pressure(problem: Problem) -> Problem:
    """Zero in a corner: the equation has only its gradient."""
    pressure = lambda u: lambda x: u(x)[2]
    known = problems.data(jnp.zeros((1, 2)), jnp.zeros(1), operator=pressure)
    return problem._replace(conditions=problem.conditions | {"pressure": known})


CASES = {
    "allen_cahn": (problems.allen_cahn, allen_cahn),
    "cavity_parabolic": (
        lambda: with_parabolic_lid(problems.lid_driven_cavity(formulation="velocity")),
        functools.partial(cavity, "parabolic"),
    ),
    "cavity_uniform": (
        lambda: problems.lid_driven_cavity(formulation="velocity"), functools.partial(cavity, "uniform"),
    ),
}  # fmt: skip


OF = {  # Values of a velocity leave the pressure out.
    "equation from values": ("allen_cahn",),
    "pressure given": ("cavity_parabolic", "cavity_uniform"),
}


def error(solution: solving.Solution, problem: Problem, known: Known) -> Array:
    m = known.values.shape[-1]
    field = solution.field if m == 1 else lambda x: solution.field(x)[:m]
    return problems.relative_l2_error(field, known.field, problems.test_points(problem))


def make(config: dict) -> dict:
    make_problem, make_known = CASES[config["case"]]
    problem, known, key = make_problem(), make_known(), jax.random.key(config["seed"])
    start, components = time.perf_counter(), known.values.shape[-1]
    if config["way"] in ("equation", "pressure given"):
        pressure = int("momentum" in problem.conditions)
        posed = with_a_pressure(problem) if config["way"] == "pressure given" else problem
        solution = solving.solve(posed, key=key, components=components + pressure, memory=MEMORY)
    else:
        values = given(problem._replace(solution=known.field))
        solution = solving.solve(values, key=key, components=components, memory=MEMORY)
    if config["way"] == "equation from values":
        network = networks.Network(lambda _: solution.params, solution.field.func, None)
        cover = solving._solve.cover(problem, key, 2 * int(solution.settings["points"]))
        points = cover.take(int(solution.settings["points"]))
        settings = solution.settings
        solution = solving.least_squares(problem, network, points, key=key, params=solution.params)
        solution.settings.update(settings)
    residuals = {f"residual/{n}": np.sqrt(np.mean(np.square(r))) for n, r in solution.residuals.items()}
    found = {name: np.asarray(value) for name, value in solution.settings.items()}
    return found | residuals | {
        "error": error(solution, problem, known), "error_estimate": solution.error_estimate, "rank": solution.rank,
        "history": np.asarray(solution.history), "reason": solution.reason, "seconds": time.perf_counter() - start,
    }  # fmt: skip


def main(cases: tuple[str, ...] = tuple(CASES), seeds: int = 3) -> None:
    configs = {
        f"{case} {way} {seed}": {"case": case, "way": way, "seed": seed, "solver": "defaults"}
        for seed, case, way in itertools.product(range(seeds), cases, WAYS)
        if case in OF.get(way, CASES)
    }
    results.fill("solved_rough", configs, make)


if __name__ == "__main__":
    runs.command_line(main, cases=CASES)
