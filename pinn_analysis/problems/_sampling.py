"""Where points come from: samplers of boxes and their faces, grids, and the error norm on them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from pinn_analysis.operators import Field
from pinn_analysis.problems._core import Problem


def relative_l2_error(field: Field, exact: Field, points: Float[Array, "n d"]) -> Float[Array, ""]:
    """``‖u - u*‖₂ / ‖u*‖₂`` over ``points``, the error norm of both papers."""
    u, v = jax.vmap(field)(points), jax.vmap(exact)(points)
    return jnp.linalg.norm((u - v).ravel()) / jnp.linalg.norm(v.ravel())


def grid(problem: Problem, n: int) -> Float[Array, "points d"]:
    """Uniform test grid with ``n`` points an axis, edges included, ``(n**d, d)``."""
    low, high = problem.domain
    axes = [jnp.linspace(a, b, n) for a, b in zip(low, high, strict=True)]
    return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(low))


def test_points(problem: Problem) -> Float[Array, "n d"]:
    """Where the error of a solution is measured: the same points at every call.

    ``problem.test``, of a sampler 10,000 points.  Without it those of the box: 1,000 evenly spaced
    in one dimension (the NTK paper's code), a grid of 100 x 100 in two (the first paper's code), and
    10,000 at random in more, where a grid has most of its points on the faces.

    Raises:
        ValueError: ``problem.test`` does not give points ``(n, d)`` that are finite.
    """
    low, high = problem.domain
    d = len(low)
    if problem.test is None and d <= 2:
        return grid(problem, {1: 1000, 2: 100}[d])
    test = box(low, high) if problem.test is None else problem.test
    points = jnp.asarray(test(jax.random.key(0), 10_000) if callable(test) else test, float)
    if points.ndim != 2 or points.shape[1] != d or not len(points):
        raise ValueError(f"`test` of {problem.name!r} must give points of shape (n, {d}), got {points.shape}.")
    if not isinstance(points, jax.core.Tracer) and not jnp.isfinite(points).all():
        raise ValueError(f"`test` of {problem.name!r} gives points that contain NaN or infinity.")
    return points


test_points.__test__ = False  # Not a test of pytest's.


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
