"""One loss term, and what its operator, its target and a field must be.  Shapes: ``n`` points, ``d`` inputs."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pinn_analysis._functions import as_pytree
from pinn_analysis.operators import Field, Operator

Sampler = Callable[[Array, int], Array]


class Condition(NamedTuple):
    """One loss term: ``operator(u)(x) = target(x)`` at the points of ``sample``.

    Attributes:
        operator: from the field to what is compared with ``target``.
        target: the right-hand side, a field with values of the same shape.
        sample: ``(key, n) -> points (n, d)``.
        trained: False for a term that no loss or weight takes in: training only drags it along.
        values: columns that points have beyond their ``d`` inputs, for `data`.
    """

    operator: Operator
    target: Field
    sample: Sampler
    trained: bool = True
    values: int = 0

    def residual(self, field: Field) -> Field:
        """``operator(field) - target``, itself a field.

        Raises:
            ValueError: on application, values that differ in shape, or are complex.
        """
        left = self.operator(field)

        def residual(x: Array) -> Array:
            value, goal = left(x), self.target(x)
            if (
                squeezed(jnp.shape(value)) != squeezed(jnp.shape(goal))
                or jnp.iscomplexobj(value)
                or jnp.iscomplexobj(goal)
            ):
                raise ValueError(
                    "Operator and target must have real values of one shape, got "
                    f"{jnp.result_type(value)} {jnp.shape(value)} and {jnp.result_type(goal)} {jnp.shape(goal)}."
                )
            return value - goal

        return residual

    def scaled(self, factor: ArrayLike | Field) -> "Condition":
        """The condition with both sides times ``factor``: its residuals, and the rows of its kernel, times that.

        A factor ``x -> c(x)`` weights points: the loss is ``mean(c² r²)``.  Causal weights of slices
        of time are such a function, with a step at each slice.
        """
        factor = as_pytree(factor) if callable(factor) else factor
        return self._replace(
            operator=_ScaledOperator(as_pytree(self.operator), factor),
            target=_ScaledField(as_pytree(self.target), factor),
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _ScaledField:
    field: Field
    factor: ArrayLike | Field

    def __call__(self, x: Array) -> Array:
        return (self.factor(x) if callable(self.factor) else self.factor) * self.field(x)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _ScaledOperator:
    operator: Operator
    factor: ArrayLike | Field

    def __call__(self, u: Field) -> Field:
        return _ScaledField(self.operator(u), self.factor)


def as_data(condition: Condition) -> Condition:
    """A condition that `jax.jit` takes as an argument; where its points come from does not matter there."""
    return condition._replace(operator=as_pytree(condition.operator), target=as_pytree(condition.target), sample=None)


def check_functions(name: str, condition: Condition) -> None:
    """Raise `ValueError` unless operator and target are functions."""
    for what, given, such in (
        ("operator", condition.operator, "of the field, `lambda u: lambda x: u(x)`"),
        ("target", condition.target, "of a point, `lambda x: 1.0`"),
    ):
        if not callable(given):
            raise ValueError(
                f"The {what} of {name!r} must be a function {such}; got {given!r:.60}."
                "  Measured values, which are no function, are a term of `problems.data`."
            )


def check_term(name: str, condition: Condition, field: Field, x: jax.ShapeDtypeStruct) -> None:
    """Raise `ValueError`, with the mend, unless the residual of a term can be formed at a point like ``x``."""
    network, value = check_operator(name, condition, field, x)
    goal = value_of(f"The target of {name!r}", condition.target, x)
    _require_real(f"The target of {name!r}", goal)
    seen = f"for a network with values of shape {network.shape}"
    if squeezed(value.shape) != squeezed(goal.shape):
        mend = "Give one of them the shape of the other; `jnp.stack` makes components, `[0]` takes the first."
        if not goal.shape and value.shape == network.shape:
            one = "[0]" if network.ndim == 1 else ".reshape(())"
            mend = f"For a network with one output pass `lambda params, x: apply(params, x){one}`."
        raise ValueError(
            f"The operator of {name!r} has values of shape {value.shape} {seen}, its target of shape {goal.shape}; "
            f"they must be equal.  {mend}"
        )


def check_operator(
    name: str, condition: Condition, field: Field, x: jax.ShapeDtypeStruct, who: str = "The network"
) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Values of the field and of the operator at a point like ``x``, or a `ValueError` that says why there are none."""
    network = value_of(who, field, jax.ShapeDtypeStruct((x.shape[0] - condition.values,), x.dtype))
    seen = f"for a network with values of shape {network.shape}"
    value = value_of(f"The operator of {name!r}", lambda y: condition.operator(field)(y), x, seen)
    _require_real(f"The operator of {name!r}", value)
    if not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"The operator of {name!r} has values of type {value.dtype}, which have no derivative: nothing could be "
            "trained on them.  Return floating-point numbers, without a comparison or rounding as the last step."
        )
    return network, value


def _require_real(who: str, value: jax.ShapeDtypeStruct) -> None:
    if jnp.issubdtype(value.dtype, jnp.complexfloating):
        raise ValueError(
            f"{who} has complex values; return (re, im) as two components, "
            "`jnp.stack([z.real, z.imag])`: kernels and losses are those of real residuals."
        )


def value_of(who: str, function: Field, x: jax.ShapeDtypeStruct, seen: str = "") -> jax.ShapeDtypeStruct:
    """Shape and dtype of ``function(x)``, or a `ValueError` that says why there is none."""
    try:
        value = jax.eval_shape(function, x)
    except (jax.errors.JAXTypeError, FloatingPointError, NotImplementedError):
        raise  # Of JAX itself; no matter of shapes.
    except Exception as error:
        raise ValueError(
            f"{who} cannot be evaluated at a point of shape {x.shape}"
            + (f" {seen}" if seen else "")
            + f": {type(error).__name__}: {str(error):.300}"
            + (
                "  It takes a batch: pass `lambda params, x: apply(params, x[None])[0]`, a function of one point."
                if not seen and _takes_batch(function, x)
                else ""
            )
        ) from error
    if not isinstance(value, jax.ShapeDtypeStruct):
        raise ValueError(
            f"{who} must return one array at a point, got {type(value).__name__}; "
            "`jnp.stack` makes several components one array."
        )
    return value


def _takes_batch(function: Field, x: jax.ShapeDtypeStruct) -> bool:
    try:
        jax.eval_shape(function, jax.ShapeDtypeStruct((7, *x.shape), x.dtype))
    except Exception:
        return False
    return True


def squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a value at a point; one component, as of a last layer of one unit, is a scalar."""
    return () if shape == (1,) else shape
