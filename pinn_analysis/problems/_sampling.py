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
