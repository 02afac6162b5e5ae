"""How many components a field has, where nobody says it."""

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pinn_analysis.operators import Field
from pinn_analysis.problems._condition import value_of
from pinn_analysis.problems._core import Problem

MANY = 17  # Components that are tried, and one more.

Shape = tuple[int, ...]


def field_shape(problem: Problem, points: Mapping[str, Array], field: Field | None = None, *, mend: str) -> Shape:
    """Shape of a value of the field, ``()`` or ``(m,)``: that of ``field``, of the solution, or what operators need.

    Raises:
        ValueError: it does not follow; ``mend`` says what to pass then.
    """
    some_point = next(iter(points.values()))[0, : len(problem.domain[0])]  # Without measured values.
    if field is not None or problem.solution is not None:
        who = "The solution" if field is None else "`field`"
        place = jax.ShapeDtypeStruct(some_point.shape, some_point.dtype)
        return value_of(who, field or problem.solution, place).shape
    tried = {shape: _misfit(problem, points, shape) for shape in [(), *((m,) for m in range(1, MANY + 1))]}
    possible = [shape for shape, misfit in tried.items() if misfit is None]
    if possible and (possible[0] == () or len(possible) == 1):
        return possible[0]
    if not possible and _misfit(problem, points, (), targets=False) is None:  # For whom targets do not matter.
        return ()
    if {(MANY - 1,), (MANY,)} <= set(possible):  # Operators that pick components; JAX clips an index that is too large.
        used = {m: _used(problem, points, m) for m in (MANY - 1, MANY)}
        if used[MANY] == used[MANY - 1] and (used[MANY],) in possible:
            return (used[MANY],)
    why = "" if possible else f"  No field with up to {MANY} fits; one with a single component: {tried[()]}"
    raise ValueError(
        f"The number of components of the field of {problem.name!r} does not follow from its operators: {mend}.{why}"
    )


@dataclasses.dataclass(frozen=True)
class Zero:
    """The field 0."""

    shape: Shape

    def __call__(self, x: Array) -> Array:
        return jnp.zeros(self.shape, x.dtype)


def waves(shape: Shape) -> tuple[Field, Field]:
    """Two fields that few operators map to zero."""
    phase = jnp.arange(float(math.prod(shape))).reshape(shape)
    # From `y`: points of measured data have more columns than a point of the field.
    frequency = lambda y: jnp.arange(1.0, y.size + 1)
    return (
        lambda y: jnp.sin(frequency(y) @ y + phase + 0.4),
        lambda y: jnp.cos(0.7 / frequency(y) @ y - phase),
    )


def _misfit(problem: Problem, points: Mapping[str, Array], shape: Shape, *, targets: bool = True) -> str | None:
    """Why an operator does not take fields of this shape to values of the shape of its target; None if all do."""
    for name, condition in problem.conditions.items():
        try:
            left, right = (
                jax.eval_shape(f, points[name][0]) for f in (condition.operator(Zero(shape)), condition.target)
            )
        except Exception as error:  # Whatever an operator raises for a field of another shape.
            return f"{name!r} raises {type(error).__name__}: {error}"
        arrays = hasattr(left, "shape") and hasattr(right, "shape")  # What is none is refused by name, later.
        if targets and arrays and left.shape != right.shape:
            return f"the operator of {name!r} has values of shape {left.shape}, its target {right.shape}"
    return None


def _used(problem: Problem, points: Mapping[str, Array], m: int) -> int:
    """How many of ``m`` components the operators use: one more than the last of them."""
    last = -1
    for name, condition in problem.conditions.items():
        x = points[name][0]
        u, _ = waves((m,))
        of_weights = lambda w, c=condition, u=u, x=x: c.operator(lambda y: w * u(y))(x)
        slopes = jax.jacfwd(of_weights)(jnp.ones(m)).reshape(-1, m)
        last = max(last, *np.flatnonzero(np.abs(slopes).max(0)), -1)
    return int(last) + 1
