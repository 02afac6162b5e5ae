"""Gauss-Newton as an optimiser, where batches are drawn.  Shapes: ``n`` residual rows, ``p`` parameters."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Float, PyTree

from pinn_analysis.solving._steps import BAD, FIRST_DAMPING, GOOD

TRIALS = 12  # Dampings tried in one step; then no step is taken.


class GaussNewtonState(NamedTuple):
    """What `gauss_newton` keeps.

    Attributes:
        damping: relative to the squared Frobenius norm of the scaled Jacobian.
        norms: the largest norm that the column of each parameter has had, ``(p,)``.
    """

    damping: Array
    norms: Float[Array, " p"]


def gauss_newton(damping: float = FIRST_DAMPING) -> optax.GradientTransformationExtraArgs:
    """Levenberg-Marquardt steps on each batch, as an optimiser of `train`: ``train(..., optimizer=gauss_newton())``.

    A step minimises ``‖r + J v‖² + λ ‖J D⁻¹‖² ‖D v‖²`` over ``v``, with ``D`` the largest norms that the columns of
    ``J`` have had (More, 1978), by QR of the Jacobian and never of its square: ``O(n p min(n, p))``, and the memory of
    ``J``.  A trial that does not lower the loss of its own batch, or is not finite, is not taken: λ is doubled and
    it is tried again, up to 12 times, after which the step is zero.  One that is taken divides λ by 3.

    Where all points can be used at once, `least_squares` has a better step.

    Args:
        damping: λ of the first step.

    Raises:
        ValueError: ``damping`` is not positive; on update, without ``residuals_fn``.
    """
    if not damping > 0:
        raise ValueError(f"`damping` must be positive, got {damping}.")

    def init(params: PyTree) -> GaussNewtonState:
        flat = ravel_pytree(params)[0]
        return GaussNewtonState(jnp.asarray(damping, flat.dtype), jnp.zeros_like(flat))

    def update(
        updates: PyTree,
        state: GaussNewtonState,
        params: PyTree = None,
        *,
        residuals_fn: Callable | None = None,
        jacobian_fn: Callable | None = None,
        **_,
    ) -> tuple[PyTree, GaussNewtonState]:
        del updates
        if residuals_fn is None or params is None:
            raise ValueError("`gauss_newton` needs `params` and `residuals_fn`, the rows of the loss, as of `train`.")
        theta, unravel = ravel_pytree(params)
        residuals = lambda theta: residuals_fn(unravel(theta))
        r, jacobian = residuals(theta), jax.jacrev(residuals)(theta) if jacobian_fn is None else jacobian_fn(params)
        norms = jnp.maximum(state.norms, jnp.linalg.norm(jacobian, axis=0))
        units = 1 / jnp.maximum(norms, jnp.finfo(theta.dtype).eps * norms.max())
        scaled = jacobian * units[None]
        size, before = jnp.sum(scaled**2), jnp.sum(r**2)

        def attempt(state: tuple) -> tuple:
            tried, damping, _, _ = state
            step = -units * damped(scaled, r, damping * size)
            better = jnp.sum(residuals(theta + step) ** 2) < before  # Not so if it is NaN.
            factor = jnp.where(better, GOOD, BAD)
            return tried + 1, jnp.maximum(factor * damping, jnp.finfo(theta.dtype).eps ** 2), better, step

        start = (0, state.damping, jnp.array(False), jnp.zeros_like(theta))
        _, reached, better, step = jax.lax.while_loop(lambda s: (s[0] < TRIALS) & ~s[2], attempt, start)
        return unravel(jnp.where(better, step, 0.0)), GaussNewtonState(reached, norms)

    return optax.GradientTransformationExtraArgs(init, update)


def damped(a: Float[Array, "n p"], b: Float[Array, " n"], damping: ArrayLike) -> Float[Array, " p"]:
    """``argmin ‖a x - b‖² + damping ‖x‖²``, by QR of the tall one of ``a`` and its transpose, the root below it."""
    n, p = a.shape
    tall = a if n >= p else a.T
    few = min(n, p)
    with jax.default_matmul_precision("highest"):
        q, r = jnp.linalg.qr(jnp.concatenate([tall, jnp.sqrt(damping) * jnp.eye(few, dtype=a.dtype)]))
        q = q[: len(tall)]
        if n >= p:
            return jax.scipy.linalg.solve_triangular(r, q.T @ b)
        return q @ jax.scipy.linalg.solve_triangular(r, b, trans="T")
