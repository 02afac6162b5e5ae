"""What is diagnosed, and what several measurements ask of it.  Shapes: ``n`` points, ``m`` components of the field."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jaxtyping import PyTree

from pinn_analysis import ntk
from pinn_analysis.operators import Field, Operator, partial
from pinn_analysis.problems import Apply, Condition, Problem, box

TEST = 512  # Points at which fields are compared.
Measured = Mapping[str, dict[str, Any]]


class Case(NamedTuple):
    """What is diagnosed, in float64.

    Attributes:
        problem: the trained terms.
        apply: the network.
        params: its parameters.
        points: of the training.
        held_out: points that the training has not seen, at most as many.
        test: where fields are compared, ``(TEST, d)``.
        weights: loss weights in use.
        optimizer: in use, if known.
        solution: if known.
        given: problem, parameters and points as they were given, in their own precision.
    """

    problem: Problem
    apply: Apply
    params: PyTree
    points: dict[str, Array]
    held_out: dict[str, Array]
    test: Array
    weights: dict[str, float]
    optimizer: optax.GradientTransformation | None
    solution: Field | None
    given: tuple[Any, Any]

    @property
    def field(self) -> Field:
        """The network with its parameters."""
        return functools.partial(self.apply, self.params)


def residuals(problem: Problem, field: Field, points: Mapping[str, Array]) -> dict[str, Array]:
    """As of `Problem.residuals`, in one program."""
    return jax.jit(lambda points: problem.residuals(field, points))(points)


def values(field: Field, x: Array) -> np.ndarray:
    """``(n, m)``."""
    return np.asarray(jax.jit(jax.vmap(field))(x)).reshape(len(x), -1)


def moves(problem: Problem, apply: Apply, params: PyTree, operator: Operator, x: Array) -> np.ndarray:
    """``‖∂L u(x)/∂θ‖²`` of each point and component, ``(n, q)``."""
    field = functools.partial(apply, params)
    target = lambda y: jnp.zeros(jax.eval_shape(operator(field), y).shape)
    alone = problem._replace(conditions={"u": Condition(operator, target, box(*problem.domain))})
    return np.asarray(ntk.operator(alone, apply, params, {"u": x}).diagonal()).reshape(len(x), -1)


@dataclasses.dataclass(frozen=True)
class Across:
    """``u`` at one end of an axis less ``u`` at the other, and the same of its slope."""

    axis: int
    low: float
    high: float

    def __call__(self, u: Field) -> Field:
        slope = partial(self.axis)(u)
        ends = lambda x: (x.at[self.axis].set(self.low), x.at[self.axis].set(self.high))
        return lambda x: jnp.stack([jnp.ravel(f(ends(x)[0]) - f(ends(x)[1])) for f in (u, slope)]).ravel()
