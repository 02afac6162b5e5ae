"""Differential operators as functions of functions.

A **field** is a function of one point, ``u(x)`` with ``x`` of shape ``(d,)`` and a value
that is a scalar or of shape ``(m,)``.  An **operator** maps a field to a field.  A network
with its parameters bound is a field, and so is a kernel in each of its two arguments, so
one operator serves the loss, the Jacobian and the infinite-width kernel alike.

Any function ``Field -> Field`` is an operator, so users compose their own:

>>> helmholtz = lambda u: lambda x: laplacian(u)(x) + 3**2 * u(x)
>>> float(helmholtz(lambda x: x[0] ** 2)(jnp.array([1.0, 2.0])))
11.0
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from pinn_analysis._laplacian import forward_laplacian

Field = Callable[[Float[Array, " d"]], Array]
Operator = Callable[[Field], Field]


def identity(u: Field) -> Field:
    """The field itself: the operator of a Dirichlet or initial condition."""
    return u


def partial(*axes: int) -> Operator:
    """Partial derivative along ``axes``: ``partial(0, 1)(u)`` is ``∂²u/∂x₀∂x₁``.

    Equal axes make equal operators.  Nested forward mode: the cost grows like ``2**len(axes)``
    evaluations of the field and does not depend on its number of parameters.

    Raises:
        ValueError: no axis was given, or (on application) one is not an axis of the point.
    """
    if not axes:
        raise ValueError("`partial` needs at least one axis, e.g. `partial(0)`; the field itself is `identity`.")
    return _Partial(tuple(axes))


@dataclasses.dataclass(frozen=True)
class _Partial:
    axes: tuple[int, ...]

    def __call__(self, u: Field) -> Field:
        for axis in self.axes:
            u = _derivative(u, axis)
        return u


def _derivative(u: Field, axis: int) -> Field:
    def du(x: Float[Array, " d"]) -> Array:
        if not 0 <= axis < x.size:  # `.at` would ignore it, and the derivative be zero.
            raise ValueError(f"`partial({axis})` of a field of {x.size} variables: axes are 0 to {x.size - 1}.")
        return jax.jvp(u, (x,), (jnp.zeros_like(x).at[axis].set(1),))[1]

    return du


def laplacian(u: Field) -> Field:
    """``Δu``, the sum of the unmixed second derivatives over all ``d`` axes.

    By the forward Laplacian: the cost of about ``d + 2`` evaluations of the field.
    """
    return lambda x: forward_laplacian(u, x)[1]


def laplacian_over(*axes: int) -> Operator:
    """The Laplacian over some axes only, as in space but not in time: ``laplacian_over(0, 1)`` of ``u(x, y, t)``.

    Equal axes make equal operators.

    Raises:
        ValueError: no axis was given, one twice, or (on application) one is not an axis of the point.
    """
    if not axes or len(set(axes)) != len(axes):
        raise ValueError(
            f"`laplacian_over` needs different axes, at least one, such as `laplacian_over(0, 1)`; got {axes}."
        )
    return _LaplacianOver(tuple(axes))


@dataclasses.dataclass(frozen=True)
class _LaplacianOver:
    axes: tuple[int, ...]

    def __call__(self, u: Field) -> Field:
        def laplacian_of_u(x: Float[Array, " d"]) -> Array:
            if not all(0 <= axis < x.size for axis in self.axes):
                raise ValueError(
                    f"`laplacian_over{self.axes}` of a field of {x.size} variables: axes are 0 to {x.size - 1}."
                )
            at = np.array(self.axes)
            return forward_laplacian(lambda y: u(x.at[at].set(y)), x[at])[1]

        return laplacian_of_u


def value_and_laplacian(u: Field) -> Callable[[Float[Array, " d"]], tuple[Array, Array]]:
    """``(u, Δu)``, both for the price of `laplacian`."""
    return functools.partial(forward_laplacian, u)


def linearize(operator: Operator, field: Field) -> Operator:
    """Gateaux derivative of ``operator`` at ``field``, itself a linear operator.

    ``linearize(L, u)(h)`` is the field ``d/dε L(u + ε h)`` at ``ε = 0``.  Of a linear
    operator it is the operator, up to rounding.
    """

    def linearized(direction: Field) -> Field:
        def derivative(x: Float[Array, " d"]) -> Array:
            def along(epsilon: Float[Array, ""]) -> Array:
                return operator(lambda y: field(y) + epsilon * direction(y))(x)

            zero = jnp.zeros((), x.dtype)
            return jax.jvp(along, (zero,), (jnp.ones_like(zero),))[1]

        return derivative

    return linearized
