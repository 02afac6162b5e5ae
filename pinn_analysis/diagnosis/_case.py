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
from jax.typing import ArrayLike
from jaxtyping import PyTree

from pinn_analysis import ntk
from pinn_analysis._functions import as_pytree, call
from pinn_analysis.operators import Field, Operator
from pinn_analysis.problems import Apply, Condition, Problem, box
from pinn_analysis.solving import _system

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


def residuals(problem: Problem, field: Field, points: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """As of `Problem.residuals`, in programs that serve any field of this kind and any number of points."""
    return _system.residuals(problem, call, as_pytree(field), points)


def moves(problem: Problem, apply: Apply, params: PyTree, operator: Operator, x: Array) -> np.ndarray:
    """``‖∂L u(x)/∂θ‖²`` of each point and component, ``(n, q)``."""
    field = functools.partial(apply, params)
    target = lambda y: jnp.zeros(jax.eval_shape(operator(field), y).shape)
    alone = problem._replace(conditions={"u": Condition(operator, target, box(*problem.domain))})
    return np.asarray(ntk.operator(alone, apply, params, {"u": x}).diagonal()).reshape(len(x), -1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Across:
    """``u`` at one end of an axis less ``u`` at the other, and the same of its slope.

    Attributes:
        along: unit vector of the axis, ``(d,)``.
        low, high: the ends.
    """

    along: ArrayLike
    low: ArrayLike
    high: ArrayLike

    def __call__(self, u: Field) -> Field:
        slope = lambda x: jax.jvp(u, (x,), (self.along,))[1]
        at = lambda x, end: (1 - self.along) * x + end * self.along
        across = lambda f, x: jnp.ravel(f(at(x, self.low)) - f(at(x, self.high)))
        return lambda x: jnp.concatenate([across(u, x), across(slope, x)])
