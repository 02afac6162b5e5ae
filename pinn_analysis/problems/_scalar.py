"""The problems of both papers with one unknown, each with its exact solution."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from pinn_analysis.operators import Field, identity, partial, value_and_laplacian
from pinn_analysis.problems._core import Condition, Problem
from pinn_analysis.problems._sampling import box, faces


@functools.partial(jax.tree_util.register_dataclass, data_fields=["k"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class _Helmholtz:
    """``Δu + k² u``; the coefficient is data, so that another one compiles nothing."""

    k: ArrayLike

    def __call__(self, u: Field) -> Field:
        both = value_and_laplacian(u)

        def residual(x: Float[Array, "2"]) -> Array:
            value, lap = both(x)
            return lap + self.k**2 * value

        return residual


@functools.partial(jax.tree_util.register_dataclass, data_fields=["c"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class _Wave:
    """``u_tt - c² u_xx``."""

    c: ArrayLike

    def __call__(self, u: Field) -> Field:
        u_xx, u_tt = partial(0, 0)(u), partial(1, 1)(u)
        return lambda x: u_tt(x) - self.c**2 * u_xx(x)


def _klein_gordon(u: Field) -> Field:
    u_xx, u_tt = partial(0, 0)(u), partial(1, 1)(u)
    return lambda x: u_tt(x) - u_xx(x) + u(x) ** 3


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

    def source(x: Float[Array, "2"]) -> Float[Array, ""]:
        return (k**2 - jnp.sum(frequencies**2)) * solution(x)

    low, high = -jnp.ones(2), jnp.ones(2)
    conditions = {
        "boundary": Condition(identity, lambda x: jnp.zeros((), x.dtype), faces(low, high)),
        "residual": Condition(_Helmholtz(k), source, box(low, high)),
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

    def zero(x: Float[Array, "2"]) -> Float[Array, ""]:
        return jnp.zeros((), x.dtype)

    low, high = jnp.zeros(2), jnp.ones(2)
    start = faces(low, high, (1, 0))
    conditions = {
        "boundary": Condition(identity, zero, faces(low, high, (0, 0), (0, 1))),
        "initial": Condition(identity, solution, start),
        "initial_velocity": Condition(partial(1), zero, start),
        "residual": Condition(_Wave(c), zero, box(low, high)),
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
        "residual": Condition(_klein_gordon, source, box(low, high)),
    }
    return Problem("klein_gordon", conditions, (low, high), solution)
