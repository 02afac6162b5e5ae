"""Why a run is not finite: which term, at which point, and whose fault it is."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from pinn_analysis.problems import Apply, Condition, Problem
from pinn_analysis.problems._not_finite import ingredients, where_not_finite


class DivergedError(FloatingPointError):
    """Training met a loss that is not finite, or a weight that is negative.

    Attributes:
        run: the history up to that point, and the last state whose parameters are finite.
    """

    def __init__(self, message: str, run: Any):
        super().__init__(message)
        self.run = run


def explain(
    problem: Problem,
    apply: Apply,
    bad: list[str],
    seeds: Sequence[tuple[Array, PyTree, dict]],
    now: int,
    *,
    negative: bool,
) -> str:
    """The message of a `DivergedError`.

    Args:
        problem: what was trained on.
        apply: the network.
        bad: what of the record is not finite.
        seeds: step, parameters and points of each seed where its parameters were finite last.
        now: the recorded step.
        negative: whether ``bad`` are finite weights that are negative.
    """
    step, start = int(seeds[0][0]), f"Training {problem.name!r} diverged by step {now}: {', '.join(bad)} not finite.  "
    end = f"  `.run` of this error has the history, and the state of step {step}, the last with finite parameters."
    if negative:
        return (
            f"Training {problem.name!r} was stopped at step {now}: {', '.join(bad)} negative, so that the term is made "
            "larger by descent.  The rule must return weights that are 0 or more." + end
        )
    if all(name.startswith("weight/") for name in bad):
        return start + "The rule for the weights divides by zero: can any parameter change this loss term?" + end
    grown = step > 0 and any(_huge(params) for _, params, _ in seeds)
    found = next(filter(None, (_culprit(problem, apply, params, points) for _, params, points in seeds)), None)
    if found and not grown:  # Of huge parameters everything is NaN.
        return start + found + end
    if all(name.endswith("error") for name in bad):
        return start + "The network is not finite at the test points, though it is where it is trained." + end
    if step == 0:
        return (
            f"{problem.name!r} cannot be trained as it is: {', '.join(bad)} not finite at step {now}.  "
            + _scale(problem, apply, *seeds[0][1:])
            + end
        )
    return start + "Lower the learning rate (see `convergence.max_learning_rate`)." + end


def _huge(params: PyTree) -> bool:
    """Whether the fourth power of a parameter overflows: no network that learns comes near."""
    return any(bool((jnp.abs(leaf) > jnp.finfo(leaf.dtype).max ** 0.25).any()) for leaf in jax.tree.leaves(params))


def _culprit(problem: Problem, apply: Apply, params: PyTree, points: Mapping[str, Array]) -> str | None:
    """What is NaN or infinite by itself, and where."""
    names = {"network": "The network", "target": "The target", "operator": "The equation (its operator)"}
    for name, condition in problem.conditions.items():

        def gradient(x: Array, condition: Condition = condition) -> Array:
            """Of a row, in one vector; infinity becomes 0, which is a matter of scale."""
            square = lambda p: jnp.sum(condition.residual(functools.partial(apply, p))(x) ** 2)
            return jnp.nan_to_num(ravel_pytree(jax.grad(square)(params))[0], nan=jnp.nan, posinf=0.0, neginf=0.0)

        x = points[name]
        functions = {names[what]: f for what, f in ingredients(condition, apply, params).items()}
        for what, function in (functions | {"The derivative by the parameters": gradient}).items():
            at = where_not_finite(jax.lax.map(function, x))
            if at.size:
                return (
                    f"{what} of the term {name!r} is not finite at {at.size} of {len(x)} points, first at "
                    f"{x[at[0]].tolist()}: 1/0, or the root of 0 or less?  Move the point, or mend the function there."
                )
    return None


def _scale(problem: Problem, apply: Apply, params: PyTree, points: Mapping[str, Array]) -> str:
    """How large the residuals are, before anything has moved."""
    residuals = problem.residuals(functools.partial(apply, params), points)
    sizes = ", ".join(f"{float(jnp.abs(r).max()):.1g} in {name!r}" for name, r in residuals.items())
    dtype = next(iter(residuals.values())).dtype
    return (
        f"Nothing has moved yet: the scale is the fault.  Residuals are up to {sizes}, and their squares, or those of "
        f"the gradients, overflow {dtype}.  Nondimensionalise: choose units in which points, solution and equation "
        "are of order 1."
    )
