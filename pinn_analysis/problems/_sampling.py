"""Where points come from: samplers of boxes and their faces, grids, and the error norm on them."""

import functools
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from pinn_analysis._functions import fails
from pinn_analysis.operators import Field
from pinn_analysis.problems._condition import Sampler, squeezed, value_of
from pinn_analysis.problems._core import Problem, as_floats, at_least_single, is_finite

Corner = ArrayLike | Sequence[float | int]


def relative_l2_error(field: Field, exact: Field, points: ArrayLike | Sequence) -> Float[Array, ""]:
    """``‖u - u*‖₂ / ‖u*‖₂`` over ``points``, ``(n, d)``, the error norm of both papers.

    A field with one component, ``(1,)``, is a scalar.

    Raises:
        ValueError: points that are not ``(n, d)`` or not finite; a field or a solution that cannot be
            evaluated at one point; values of different shapes; if known yet, an exact solution that is not
            finite at one of the points, or zero at all, where no error is relative to it.
    """
    try:
        x = as_floats(points)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`points` must be numbers, in an array of shape (n, d): {error}") from error
    if x.ndim != 2 or not len(x):
        raise ValueError(
            f"`points` must have shape (n, d), n at least 1; got {x.shape}.  On a line it is `x[:, None]`."
        )
    if not is_finite(x):
        raise ValueError("`points` contain NaN or infinity; leave such points out.")
    one = jax.ShapeDtypeStruct(x.shape[1:], x.dtype)
    value_of("The field", field, one), value_of("The exact solution", exact, one)
    u, v = jax.vmap(field)(x), jax.vmap(exact)(x)
    if squeezed(u.shape[1:]) != squeezed(v.shape[1:]):
        raise ValueError(
            f"Field and exact solution must have values of one shape, got {u.shape[1:]} and {v.shape[1:]}; "
            "`lambda x: u(x)[0]` takes one of several components."
        )
    u, v = at_least_single((u.ravel(), v.ravel()))
    if not is_finite(v):
        bad = int(jnp.argmin(jnp.isfinite(v).reshape(len(x), -1).all(1)))
        raise ValueError(
            f"The exact solution is not finite at point {bad}, x = {x[bad].tolist()}; leave such points out of the "
            "test (`Problem.test`), or give the solution its limit there."
        )
    scale = jnp.abs(v).max()  # Squares of large or small values overflow or vanish.
    if fails(scale > 0):
        raise ValueError(
            "The exact solution is zero at all points, so that no error is relative to it; "
            "take the absolute one, `jnp.sqrt(jnp.mean(jax.vmap(u)(points) ** 2))`."
        )
    return jnp.linalg.norm((u - v) / scale) / jnp.linalg.norm(v / scale)


def grid(problem: Problem, n: int) -> Float[Array, "points d"]:
    """Uniform test grid with ``n`` points per axis, edges included, ``(n**d, d)``."""
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
    try:
        points = as_floats(test(jax.random.key(0), 10_000) if callable(test) else test).astype(float)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`test` of {problem.name!r} must be numbers, in an array of shape (n, {d}): {error}"
        ) from error
    if points.ndim != 2 or points.shape[1] != d or not len(points):
        raise ValueError(f"`test` of {problem.name!r} must give points of shape (n, {d}), got {points.shape}.")
    if not is_finite(points):
        raise ValueError(f"`test` of {problem.name!r} gives points that contain NaN or infinity.")
    return points


test_points.__test__ = False  # Not a test of pytest's.


def box(low: Corner, high: Corner) -> Sampler:
    """Sampler, uniform in a box: ``(key, n) -> (n, d)``."""
    low, high = jnp.asarray(low, float), jnp.asarray(high, float)
    return lambda key, n: jax.random.uniform(key, (n, low.size), minval=low, maxval=high)


def faces(low: Corner, high: Corner, *which: tuple[int, int]) -> Sampler:
    """Sampler on faces of a box, uniform on each, with equally many points on all.

    Args:
        low: lower corner, ``(d,)``.
        high: upper corner, ``(d,)``.
        which: faces as ``(axis, side)`` with side 0 (low) or 1 (high); all of them if
            none is given.  ``n`` points are dealt out to the faces in turn, so that their
            numbers differ by one at most: the ends of an interval get half each.  Which faces
            get one more, or the only ones, is random, with equal chances.
    """
    low, high = jnp.asarray(low, float), jnp.asarray(high, float)
    which = which or tuple((axis, side) for axis in range(low.size) for side in (0, 1))
    axes, sides = np.array(which).T
    return lambda key, n: _on_faces(key, low, high, axes, sides, n=operator.index(n))


@functools.partial(jax.jit, static_argnames="n")
def _on_faces(key: Array, low: Array, high: Array, axes: Array, sides: Array, *, n: int) -> Array:
    turn = jnp.arange(n) % len(axes)
    if n % len(axes):  # In random order, so that no face is always the one that gets fewer.
        turn = jax.random.permutation(jax.random.fold_in(key, 1), len(axes))[turn]
    on_face = jnp.where(sides[turn] == 1, high[axes[turn]], low[axes[turn]])
    return box(low, high)(key, n).at[jnp.arange(n), axes[turn]].set(on_face)
