"""A nonlinear operator taken apart: its linear part at zero, and the derivatives that enter it otherwise.

``L(u) = L(0) + L'_0 u + N(v)``, where ``v`` are the few derivatives of ``u`` that the coefficients of its
linearisation depend on: ``v = u`` of Klein-Gordon, ``v = (u, u_x)`` of Burgers.  So a linearisation at any field is a
combination of the same linear operators, with coefficients that differ from point to point.  ``q`` rows per point,
``a`` derivatives.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from pinn_analysis.operators import Field, Operator, linearize, partial
from pinn_analysis.problems import Condition
from pinn_analysis.problems._field_shape import waves

HIGHEST_ORDER = 4


@dataclasses.dataclass(frozen=True)
class Derivative:
    """``∂^axes u``, of one component if the field has several: an operator that is equal to its equals."""

    axes: tuple[int, ...]
    component: int | None

    def __call__(self, u: Field) -> Field:
        one = u if self.component is None else lambda x: u(x)[self.component]
        return partial(*self.axes)(one) if self.axes else one


@dataclasses.dataclass(frozen=True)
class LinearPart:
    """The linearisation of an operator at the field that is zero."""

    operator: Operator
    shape: tuple[int, ...]

    def __call__(self, u: Field) -> Field:
        return linearize(self.operator, lambda x: jnp.zeros(self.shape, x.dtype))(u)


def derivatives(condition: Condition, shape: tuple[int, ...], x: Float[Array, "n d"]) -> tuple[Derivative, ...]:
    """The derivatives of a field of value ``shape`` that the linearisation of a condition depends on; none if linear.

    Raises:
        ValueError: the operator is no function of derivatives up to the fourth at a point.
    """
    d = x.shape[1] - condition.values
    components = range(shape[0]) if shape else (None,)
    axes = [a for order in range(HIGHEST_ORDER + 1) for a in itertools.combinations_with_replacement(range(d), order)]
    every = tuple(Derivative(a, c) for a in axes for c in components)
    few = x[:: max(1, len(x) // 8)]
    slopes = jax.jit(jax.vmap(jax.jacfwd(functools.partial(_value, condition.operator, every, shape)), (None, 0)))
    jets = [jax.random.normal(jax.random.key(i), (len(every),)) for i in range(3)]
    here = np.stack([slopes(v, few) for v in (jnp.zeros(len(every)), *jets)])
    spread = np.abs(here - here[0]).max((0, 1, 2))
    varying = tuple(each for each, moves in zip(every, spread > 1e-9 * np.abs(here).max(), strict=True) if moves)
    _check(condition, varying, shape, few)
    return varying


def linear_part(
    condition: Condition, varying: tuple[Derivative, ...], shape: tuple[int, ...], x: Float[Array, "n d"]
) -> Operator:
    """``L'_0``: the operator itself if it is linear, which compiles faster."""
    at_zero = jax.vmap(condition.operator(lambda y: jnp.zeros(shape, y.dtype)))(x)
    return condition.operator if not varying and not jnp.any(at_zero) else LinearPart(condition.operator, shape)


def expand(
    condition: Condition, varying: tuple[Derivative, ...], shape: tuple[int, ...]
) -> Callable[[Array, Array], tuple[Array, Array]]:
    """``(v (n, a), x) -> L(0) + N(v), (n, q)``, and its derivatives with respect to ``v``, ``(n, q, a)``."""
    value = functools.partial(_beyond_linear, condition.operator, varying, shape)
    return jax.jit(jax.vmap(lambda v, x: (value(v, x), jax.jacfwd(value)(v, x))))


def _beyond_linear(operator: Operator, varying: tuple, shape: tuple, v: Array, x: Array) -> Array:
    return _value(operator, varying, shape, v, x) - _value(LinearPart(operator, shape), varying, shape, v, x)


def _value(operator: Operator, each: tuple[Derivative, ...], shape: tuple, v: Array, x: Array) -> Array:
    """``L(u)(x)`` for the polynomial ``u`` that has the derivatives ``v`` at ``x``, ``(q,)``."""

    def u(y: Array) -> Array:
        total = jnp.zeros(shape, y.dtype)
        for derivative, value in zip(each, v, strict=True):
            counts = np.bincount(np.array(derivative.axes, int), minlength=1)
            monomial = jnp.prod(jnp.stack([y[a] - x[a] for a in derivative.axes])) if derivative.axes else 1.0
            term = value * monomial / math.prod(math.factorial(int(c)) for c in counts)
            total = total + term if derivative.component is None else total.at[derivative.component].add(term)
        return total

    return jnp.ravel(operator(u)(x))


def _check(condition: Condition, varying: tuple[Derivative, ...], shape: tuple, x: Array) -> None:
    """Of a wave, the parts must be the whole."""
    wave = lambda y: 0.6 * waves(shape)[0](y)

    def gap(x: Array) -> Array:
        v = jnp.stack([each(wave)(x) for each in varying]) if varying else jnp.zeros(0)
        parts = _beyond_linear(condition.operator, varying, shape, v, x)
        whole = jnp.ravel(condition.operator(wave)(x))
        return jnp.abs(jnp.ravel(LinearPart(condition.operator, shape)(wave)(x)) + parts - whole) / (1 + jnp.abs(whole))

    if not jnp.max(jax.vmap(gap)(x)) < 1e-8:
        raise ValueError(
            f"An operator must be a function of derivatives of the field at one point, up to order {HIGHEST_ORDER}, "
            "to be solved in the limit; `least_squares` takes any."
        )
