"""Steady incompressible flow in two dimensions: operators, and the lid-driven cavity.

Velocity ``(u, v)``, pressure ``p``, Reynolds number ``Re``:

    ``u·∇u + ∇p - Δu / Re = 0``   (`momentum`),     ``∇·u = 0``   (`divergence`).

A field in **velocity form** has the value ``(u, v, p)``; in **streamfunction form** it is
``(ψ, p)`` with ``u = ψ_y`` and ``v = -ψ_x`` (`velocity`), so that ``∇·u = 0`` by construction.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.jet import jet
from jax.typing import ArrayLike
from jaxtyping import Float

from pinn_analysis.operators import Field, Operator
from pinn_analysis.problems._core import Condition, Problem
from pinn_analysis.problems._sampling import box, faces

# Three directions 60° apart.  Their products of second and fourth order sum to isotropic
# tensors: Σ d_a d_b = 3/2 δ_ab and Σ d_a d_b d_c d_e = 3/8 (δ_ab δ_ce + δ_ac δ_be + δ_ae δ_bc).
_DIRECTIONS = np.stack([np.cos(np.arange(3) * np.pi / 3), np.sin(np.arange(3) * np.pi / 3)], -1)


def velocity(field: Field) -> Field:
    """``(u, v)`` of a field ``(ψ, p)`` or ``(u, v, p)`` of ``(x, y)`` or ``(x, y, t)``: the operator of a wall.

    Raises:
        ValueError: the field has another number of components.
    """

    def operator(x: Float[Array, " d"]) -> Float[Array, "2"]:
        if _components(field, x) == 3:
            return field(x)[:2]
        psi_x, psi_y = jax.jacfwd(field)(x)[0, :2]
        return jnp.stack([psi_y, -psi_x])

    return operator


def divergence(field: Field) -> Field:
    """``u_x + v_y`` of a field ``(u, v, p)`` of ``(x, y)`` or ``(x, y, t)``: the continuity equation."""

    def operator(x: Float[Array, " d"]) -> Float[Array, ""]:
        return jnp.trace(jax.jacfwd(field)(x)[:2])

    return operator


def momentum(reynolds: float | int) -> Operator:
    """``u·∇u + ∇p - Δu / Re``, two components, of a field ``(ψ, p)`` or ``(u, v, p)``.

    Of ``(ψ, p)`` all derivatives up to the third come from three Taylor series along
    directions 60° apart, ten coefficients per component, as many as there are derivatives.

    For unsteady flow, points ``(x, y, t)``, it takes the field at one time::

        def unsteady(w):
            steady = lambda x: momentum(reynolds)(lambda y: w(jnp.append(y, x[2])))(x[:2])
            return lambda x: partial(2)(velocity(w))(x) + steady(x)

    Raises:
        ValueError: ``reynolds`` is not positive; on application, a field with another number
            of components, or points that are not ``(x, y)``.
    """
    if reynolds <= 0:
        raise ValueError(f"`reynolds` must be positive, got {reynolds}.")

    return _Momentum(reynolds)


@functools.partial(jax.tree_util.register_dataclass, data_fields=["reynolds"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class _Momentum:
    reynolds: ArrayLike

    def __call__(self, field: Field) -> Field:
        def residual(x: Float[Array, " d"]) -> Float[Array, "2"]:
            if x.shape != (2,):
                raise ValueError(
                    f"`momentum` is that of steady flow in two dimensions, with points (x, y); got {x.size} variables. "
                    "For unsteady flow apply it to the field at one time, and add `partial(2)` of the `velocity`: "
                    "`lambda x: partial(2)(velocity(w))(x) + momentum(re)(lambda y: w(jnp.append(y, x[2])))(x[:2])`."
                )
            of = _from_velocity if _components(field, x) == 3 else _from_streamfunction
            w, grad_w, grad_p, lap_w = of(field, x)
            return w @ grad_w + grad_p - lap_w / self.reynolds

        return residual


def _components(field: Field, x: Array) -> int:
    shape = jax.eval_shape(field, x).shape
    if shape not in ((2,), (3,)):
        raise ValueError(f"A flow is a field (u, v, p) or (ψ, p), of shape (3,) or (2,); this one has {shape}.")
    return shape[0]


def _from_velocity(field: Field, x: Array) -> tuple[Array, Array, Array, Array]:
    """``w``, ``∇w`` (derivative first), ``∇p`` and ``Δw``; value and first derivatives are shared."""

    def along(direction: Array) -> tuple[Array, Array, Array]:
        def first(y: Array) -> tuple[Array, Array]:
            return jax.jvp(field, (y,), (direction,))

        (value, slope), (_, second) = jax.jvp(first, (x,), (direction,))
        return value, slope, second

    value, slopes, seconds = jax.vmap(along, out_axes=(None, 0, 0))(jnp.eye(2, dtype=x.dtype))
    return value[:2], slopes[:, :2], slopes[:, 2], seconds.sum(0)[:2]


def _from_streamfunction(field: Field, x: Array) -> tuple[Array, Array, Array, Array]:
    d = jnp.asarray(_DIRECTIONS, x.dtype)
    zero = jnp.zeros_like(x)
    # A loop: mapped over the directions it takes half as long again.
    taylor = jnp.stack([jnp.stack(jet(field, (x,), ((e, zero, zero),))[1]) for e in d])
    first, second, third = taylor[:, 0], taylor[:, 1, 0], taylor[:, 2, 0]
    gradient = 2 / 3 * d.T @ first  # Of ψ and p, derivative first.
    hessian = 4 / 3 * (d.T * second) @ d - second.sum() / 3 * jnp.eye(2, dtype=x.dtype)
    lap_x, lap_y = 8 / 9 * d.T @ third  # ∇Δψ.
    psi_x, psi_y = gradient[:, 0]
    return (
        jnp.stack([psi_y, -psi_x]),
        jnp.stack([hessian[:, 1], -hessian[:, 0]], 1),
        gradient[:, 1],
        jnp.stack([lap_y, -lap_x]),
    )


def lid_driven_cavity(reynolds: float | int = 100, formulation: str = "streamfunction") -> Problem:
    """Steady flow in ``[0, 1]²`` under a lid ``y = 1`` that moves with velocity (1, 0): the first paper.

    Conditions: ``"boundary"`` (both components of the velocity on the four edges, one mean
    over all), ``"momentum"`` (both components) and, in the velocity form, ``"continuity"``.
    The pressure is free up to a constant, as in the paper.  No solution is known in closed
    form; at the two upper corners the velocity jumps, which no network can follow.

    The authors' code adds the means over the four edges and those of the two momentum
    equations: weights of 4 for ``"boundary"`` and 2 for ``"momentum"`` here.  Annealing
    takes ``reference="momentum"``.

    Args:
        reynolds: the Reynolds number.
        formulation: ``"streamfunction"``, for fields ``(ψ, p)``, or ``"velocity"``, ``(u, v, p)``.

    Raises:
        ValueError: another formulation; a Reynolds number that is not positive.
    """
    if formulation not in ("streamfunction", "velocity"):
        raise ValueError(f'`formulation` must be "streamfunction" or "velocity", got {formulation!r}.')

    def wall(x: Float[Array, "2"]) -> Float[Array, "2"]:
        return jnp.stack([x[1] >= 1, False]).astype(x.dtype)

    low, high = jnp.zeros(2), jnp.ones(2)
    inside = box(low, high)
    conditions = {
        "boundary": Condition(velocity, wall, faces(low, high)),
        "momentum": Condition(momentum(reynolds), lambda x: jnp.zeros(2, x.dtype), inside),
    }
    if formulation == "velocity":
        conditions["continuity"] = Condition(divergence, lambda x: jnp.zeros((), x.dtype), inside)
    return Problem(f"lid_driven_cavity_{formulation}", conditions, (low, high))
