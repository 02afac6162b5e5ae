"""Conditions, problems, samplers and the error norm.  Shapes: ``n`` points, ``d`` inputs."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from pinn_analysis.operators import Field, Operator


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


def check_weights(weights: Mapping[str, ArrayLike]) -> None:
    """Raise `ValueError` for a weight that is, if known yet, negative or not finite."""
    for name, weight in weights.items():
        if not isinstance(weight, jax.core.Tracer) and not (np.isfinite(weight) and weight >= 0):
            raise ValueError(f"Weights must be finite and not negative, got {weight} for {name!r}.")


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
