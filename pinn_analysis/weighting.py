"""Loss weights as pairs of pure functions, in the manner of optax.

A rule is used in any training loop in three lines::

    state = weighting.init(problem)
    weights, state = weighting.update(state, problem, apply, params, points)
    loss = sum(weights[name] * value for name, value in losses.items())
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from pinn_analysis.problems import Problem, check_names


class Weighting(NamedTuple):
    """A rule for the weights of the loss terms.

    Attributes:
        init: ``problem -> state``, a pytree of arrays.
        update: ``(state, problem, apply, params, points) -> (weights, state)``, traceable;
            ``weights`` is a dict of scalars by term, held fixed under the gradient.
    """

    init: Callable
    update: Callable


def fixed(**weights: ArrayLike) -> Weighting:
    """Constant weights by name of the term; all 1 if none is given.

    Raises:
        ValueError: a weight that is negative or not finite; in ``init``, names that are not
            those of the problem's conditions.
    """
    for name, weight in weights.items():
        if not (np.isfinite(weight) and weight >= 0):
            raise ValueError(f"Weights must be finite and not negative, got {weight} for {name!r}.")

    def init(problem: Problem) -> dict:
        given = weights or dict.fromkeys(problem.conditions, 1.0)
        check_names(problem, given, "weights")
        return {name: jnp.asarray(given[name], float) for name in problem.conditions}

    def update(state: dict, problem: Problem, apply: Callable, params: object, points: dict) -> tuple[dict, dict]:
        return state, state

    return Weighting(init, update)
