"""Partial differential equations as dictionaries of conditions, one per loss term.

A **condition** says ``operator(u)(x) = target(x)`` for the points that ``sample`` draws;
the residual of a network is the difference of the two sides, and the loss of the term
the mean square of its residuals.  A **problem** is a dictionary of conditions.

Shapes: ``n`` points, ``d`` inputs.  Points are ``(n, d)``, one array per condition.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from pinn_analysis.operators import Field, Operator, identity, laplacian, partial


class Condition(NamedTuple):
    """One loss term: ``operator(u)(x) = target(x)`` at the points of ``sample``.

    Attributes:
        operator: from the field to what is compared with ``target``.
        target: the right-hand side, a field.
        sample: ``(key, n) -> points (n, d)``.
    """

    operator: Operator
    target: Field
    sample: Callable[[Array, int], Array]


class Problem(NamedTuple):
    """A PDE with its boundary and initial data, one `Condition` per loss term.

    Attributes:
        name: for messages and results.
        conditions: the loss terms by name, in the order of the rows of a kernel.
        domain: lower and upper corner, each ``(d,)``.
        solution: the exact solution, if known.
    """

    name: str
    conditions: dict[str, Condition]
    domain: tuple[Array, Array]
    solution: Field | None = None

    def sample(self, key: Array, sizes: int | Mapping[str, int]) -> dict[str, Array]:
        """Random points for each condition, ``(n, d)`` each.

        Args:
            key: a JAX random key; each condition gets its own.
            sizes: number of points, one for all conditions or a dict by name.

        Raises:
            ValueError: ``sizes`` misses a condition, names an unknown one, or is below 1.
        """
        if not isinstance(sizes, Mapping):
            sizes = dict.fromkeys(self.conditions, sizes)
        check_names(self, sizes, "sizes")
        for name, n in sizes.items():
            if n < 1:
                raise ValueError(
                    f"`sizes` must be at least 1, got {n} for {name!r}; to drop a term, drop its condition."
                )
        keys = jax.random.split(key, len(self.conditions))
        return {
            name: condition.sample(k, sizes[name])
            for k, (name, condition) in zip(keys, self.conditions.items(), strict=True)
        }

    def residuals(self, field: Field, points: Mapping[str, ArrayLike]) -> dict[str, Array]:
        """``operator(field) - target`` at the points of each condition, ``(n,)`` each.

        A condition with ``m`` components gives ``n * m`` values, point by point.
        """
        check_points(self, points)

        def residual(condition: Condition) -> Field:
            left = condition.operator(field)
            return lambda x: left(x) - condition.target(x)

        return {
            name: jax.vmap(residual(condition))(points[name]).ravel() for name, condition in self.conditions.items()
        }

    def losses(self, field: Field, points: Mapping[str, ArrayLike]) -> dict[str, Array]:
        """Mean square of the residuals of each condition, without weights."""
        return {name: jnp.mean(r**2) for name, r in self.residuals(field, points).items()}


def check_names(problem: Problem, given: Mapping, what: str) -> None:
    """Raise `ValueError` unless ``given`` names exactly the conditions of ``problem``."""
    unknown, missing = set(given) - set(problem.conditions), set(problem.conditions) - set(given)
    if unknown or missing:
        raise ValueError(
            f"`{what}` must name the conditions of {problem.name!r}, {list(problem.conditions)}"
            + (f"; unknown: {sorted(unknown)}" if unknown else "")
            + (f"; missing: {sorted(missing)}" if missing else "")
            + "."
        )


def check_points(problem: Problem, points: Mapping[str, ArrayLike]) -> None:
    """Raise `ValueError` for points of a wrong shape, an empty set or, if known yet, NaN."""
    check_names(problem, points, "points")
    d = len(problem.domain[0])
    for name, x in points.items():
        if jnp.ndim(x) != 2 or jnp.shape(x)[1] != d:
            raise ValueError(
                f"Points of {name!r} must have shape (n, {d}), got {jnp.shape(x)}; a single point is `x[None]`."
            )
        if len(x) == 0:
            raise ValueError(f"Points of {name!r} are empty; give at least one, or drop the condition.")
        if not isinstance(x, jax.core.Tracer) and not np.isfinite(x).all():
            raise ValueError(f"Points of {name!r} contain NaN or infinity; draw them again or mask them out.")


def relative_l2_error(field: Field, exact: Field, points: Float[Array, "n d"]) -> Float[Array, ""]:
    """``‖u - u*‖₂ / ‖u*‖₂`` over ``points``, the error norm of both papers."""
    u, v = jax.vmap(field)(points), jax.vmap(exact)(points)
    return jnp.linalg.norm((u - v).ravel()) / jnp.linalg.norm(v.ravel())


def grid(problem: Problem, n: int) -> Float[Array, "points d"]:
    """Uniform test grid with ``n`` points an axis, edges included, ``(n**d, d)``."""
    low, high = problem.domain
    axes = [jnp.linspace(a, b, n) for a, b in zip(low, high, strict=True)]
    return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(low))


def box(low: ArrayLike, high: ArrayLike) -> Callable[[Array, int], Array]:
    """Sampler, uniform in a box: ``(key, n) -> (n, d)``."""
    low, high = jnp.asarray(low, float), jnp.asarray(high, float)
    return lambda key, n: jax.random.uniform(key, (n, low.size), minval=low, maxval=high)


def faces(low: ArrayLike, high: ArrayLike, *which: tuple[int, int]) -> Callable[[Array, int], Array]:
    """Sampler on faces of a box, uniform on each, with equally many points on all.

    Args:
        low: lower corner, ``(d,)``.
        high: upper corner, ``(d,)``.
        which: faces as ``(axis, side)`` with side 0 (low) or 1 (high); all of them if
            none is given.  ``n`` points are dealt out to the faces in turn, so that
            their numbers differ by one at most: the ends of an interval get half each.
    """
    low, high = jnp.asarray(low, float), jnp.asarray(high, float)
    which = which or tuple((axis, side) for axis in range(low.size) for side in (0, 1))
    axes, sides = np.array(which).T

    def sample(key: Array, n: int) -> Array:
        turn = np.arange(n) % len(which)
        on_face = jnp.where(sides[turn] == 1, high[axes[turn]], low[axes[turn]])
        return box(low, high)(key, n).at[np.arange(n), axes[turn]].set(on_face)

    return sample


def poisson_1d(a: float | int = 4) -> Problem:
    """``u'' = f`` on ``[0, 1]`` with solution ``sin(a π x)``: the NTK paper, Sec. 7.1.

    The first paper writes ``sin(C x)`` (Sec. 2): that is ``a = C / π``.
    Conditions: ``"boundary"`` (both ends) and ``"residual"``.
    """
    omega = a * jnp.pi

    def solution(x: Float[Array, "1"]) -> Float[Array, ""]:
        return jnp.sin(omega * x[0])

    low, high = jnp.zeros(1), jnp.ones(1)
    conditions = {
        "boundary": Condition(identity, solution, faces(low, high)),
        "residual": Condition(partial(0, 0), lambda x: -(omega**2) * solution(x), box(low, high)),
    }
    return Problem("poisson_1d", conditions, (low, high), solution)


def helmholtz_2d(a1: float | int = 1, a2: float | int = 4, k: float | int = 1) -> Problem:
    """``Δu + k² u = q`` on ``[-1, 1]²``, ``u = sin(a₁πx) sin(a₂πy)``: the first paper, Sec. 3.

    Conditions: ``"boundary"`` (four edges, one mean over all of them; the authors' code
    adds four means, which is a weight of 4 here) and ``"residual"``.
    """
    frequencies = jnp.array([a1, a2]) * jnp.pi

    def solution(x: Float[Array, "2"]) -> Float[Array, ""]:
        return jnp.prod(jnp.sin(frequencies * x))

    def operator(u: Field) -> Field:
        lap = laplacian(u)
        return lambda x: lap(x) + k**2 * u(x)

    def source(x: Float[Array, "2"]) -> Float[Array, ""]:
        return (k**2 - jnp.sum(frequencies**2)) * solution(x)

    low, high = -jnp.ones(2), jnp.ones(2)
    conditions = {
        "boundary": Condition(identity, lambda x: jnp.zeros((), x.dtype), faces(low, high)),
        "residual": Condition(operator, source, box(low, high)),
    }
    return Problem("helmholtz_2d", conditions, (low, high), solution)


def wave_1d(a: float | int = 0.5, c: float | int = 2) -> Problem:
    """``u_tt = c² u_xx`` on ``(x, t) ∈ [0, 1]²``: the NTK paper, Sec. 7.3.

    Solution ``sin πx cos cπt + a sin 4πx cos 4cπt``.  Conditions: ``"boundary"`` (both
    ends), ``"initial"`` (``u`` at ``t = 0``), ``"initial_velocity"`` and ``"residual"``.
    The paper's ``L_u`` is one mean over boundary and initial points together.
    """

    def solution(x: Float[Array, "2"]) -> Float[Array, ""]:
        pi_x, pi_t = jnp.pi * x[0], c * jnp.pi * x[1]
        return jnp.sin(pi_x) * jnp.cos(pi_t) + a * jnp.sin(4 * pi_x) * jnp.cos(4 * pi_t)

    def operator(u: Field) -> Field:
        u_xx, u_tt = partial(0, 0)(u), partial(1, 1)(u)
        return lambda x: u_tt(x) - c**2 * u_xx(x)

    def zero(x: Float[Array, "2"]) -> Float[Array, ""]:
        return jnp.zeros((), x.dtype)

    low, high = jnp.zeros(2), jnp.ones(2)
    start = faces(low, high, (1, 0))
    conditions = {
        "boundary": Condition(identity, zero, faces(low, high, (0, 0), (0, 1))),
        "initial": Condition(identity, solution, start),
        "initial_velocity": Condition(partial(1), zero, start),
        "residual": Condition(operator, zero, box(low, high)),
    }
    return Problem("wave_1d", conditions, (low, high), solution)


def klein_gordon() -> Problem:
    """``u_tt - u_xx + u³ = f`` on ``(x, t) ∈ [0, 1]²``, ``u = x cos 5πt + (xt)³``: the first paper.

    The initial value is that of the solution, ``x``; the paper prints 0, which contradicts it.
    Conditions: ``"boundary"`` (both ends), ``"initial"``, ``"initial_velocity"``, ``"residual"``,
    which is nonlinear.
    """

    def solution(x: Float[Array, "2"]) -> Float[Array, ""]:
        return x[0] * jnp.cos(5 * jnp.pi * x[1]) + (x[0] * x[1]) ** 3

    def operator(u: Field) -> Field:
        u_xx, u_tt = partial(0, 0)(u), partial(1, 1)(u)
        return lambda x: u_tt(x) - u_xx(x) + u(x) ** 3

    def source(x: Float[Array, "2"]) -> Float[Array, ""]:
        u_tt = -25 * jnp.pi**2 * x[0] * jnp.cos(5 * jnp.pi * x[1]) + 6 * x[0] ** 3 * x[1]
        u_xx = 6 * x[0] * x[1] ** 3
        return u_tt - u_xx + solution(x) ** 3

    low, high = jnp.zeros(2), jnp.ones(2)
    start = faces(low, high, (1, 0))
    conditions = {
        "boundary": Condition(identity, solution, faces(low, high, (0, 0), (0, 1))),
        "initial": Condition(identity, solution, start),
        "initial_velocity": Condition(partial(1), lambda x: jnp.zeros((), x.dtype), start),
        "residual": Condition(operator, source, box(low, high)),
    }
    return Problem("klein_gordon", conditions, (low, high), solution)
