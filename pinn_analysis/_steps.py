"""One step of an optimiser on given points, and the iteration of any step."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import PyTree

from pinn_analysis.ntk import _rows
from pinn_analysis.problems import Apply, Problem, check_names, check_points, check_weights
from pinn_analysis.weight_rules import trained


def stepper(
    problem: Problem,
    apply: Apply,
    points: Mapping[str, ArrayLike],
    optimizer: optax.GradientTransformation,
    weights: Mapping[str, ArrayLike] | None = None,
) -> Callable[[tuple[PyTree, PyTree]], tuple[PyTree, PyTree]]:
    """``(params, optimizer_state) -> the same`` after one step on all of ``points``; for `follow`.

    Start from ``params, optimizer.init(params)``.  Weights are 1 if not given.

    Raises:
        ValueError: weights or points that do not fit the problem.
    """
    problem, points = trained(problem, points)
    weights = dict.fromkeys(problem.conditions, 1.0) if weights is None else weights
    check_names(problem, weights, "weights")
    check_weights(weights, per_row=True)
    points = check_points(problem, points)
    return lambda state: descend(problem, apply, optimizer, weights, points, *state)


def follow(
    step: Callable[[Any], Any], measure: Callable[[Any], Any], at: Sequence[int] | ArrayLike
) -> Callable[[Any], tuple]:
    """``start -> (last, measured)``: iterates ``step`` and measures at the step numbers ``at``, stacked.

    Compiled; ``step`` and ``measure`` take and return pytrees of arrays.

    Raises:
        ValueError: ``at`` is empty, does not ascend, or has a negative number.
    """
    numbers = np.asarray(at)
    if not numbers.size or numbers[0] < 0 or (np.diff(numbers) <= 0).any():
        raise ValueError(f"`at` must be step numbers that ascend, from 0 on; got {numbers.tolist()!r:.60}.")

    def leg(state: Any, gap: Array) -> tuple[Any, Any]:
        state = jax.lax.fori_loop(0, gap, lambda _, s: step(s), state)
        return state, measure(state)

    return jax.jit(lambda start: jax.lax.scan(leg, start, jnp.asarray(np.diff(numbers, prepend=0))))


def descend(
    problem: Problem,
    apply: Apply,
    optimizer: optax.GradientTransformation,
    weights: Mapping[str, ArrayLike],
    points: Mapping[str, ArrayLike],
    params: PyTree,
    state: PyTree,
) -> tuple[PyTree, PyTree]:
    """Parameters and optimiser state after one step."""
    optimizer = optax.with_extra_args_support(optimizer)

    def residuals(params: PyTree) -> dict[str, Array]:
        return problem.residuals(functools.partial(apply, params), points)

    def loss(params: PyTree, residuals_fn: Callable | None = None, jacobian_fn: Callable | None = None) -> Array:
        del residuals_fn, jacobian_fn  # Line searches of optax pass on to the loss what is not for them, or raise.
        return sum(_mean(weights[name], r) for name, r in residuals(params).items())

    def scaled(params: PyTree) -> Array:
        return jnp.concatenate([jnp.sqrt(weights[name] / r.size) * r for name, r in residuals(params).items()])

    def jacobian(params: PyTree) -> Array:
        parts = []
        for name, condition in problem.conditions.items():
            rows = _rows.gradient_rows(condition.operator, apply, params, points[name])
            rows = rows.reshape(-1, rows.shape[-1])
            parts.append(jnp.sqrt(jnp.reshape(weights[name], (-1, 1)) / len(rows)) * rows)
        return jnp.concatenate(parts)

    value, gradient = jax.value_and_grad(loss)(params)
    extra = {
        "value": value, "grad": gradient, "value_fn": loss, "residuals_fn": scaled, "jacobian_fn": jacobian,
    }  # fmt: skip
    updates, state = optimizer.update(gradient, state, params, **_accepted(optimizer.update, extra))
    return optax.apply_updates(params, updates), state


def _mean(weight: ArrayLike, residuals: Array) -> Array:
    """``mean(λ r²)``, with one weight or one per row."""
    return jnp.mean(weight * residuals**2) if jnp.ndim(weight) else weight * jnp.mean(residuals**2)


def _accepted(function: Callable, extra: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return extra
    return {name: value for name, value in extra.items() if name in parameters}
