"""Residual rows of a problem and their Jacobian, in the memory there is."""

import math
import os
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from pinn_analysis import ntk
from pinn_analysis._functions import as_pytree
from pinn_analysis.ntk import _rows
from pinn_analysis.operators import Field, Operator, identity
from pinn_analysis.problems import Apply, Problem

BATCH = 512  # Points at once.
COPIES = 4  # Of the Jacobian: itself, that of held-out points, and factors of both.


def rows(problem: Problem, apply: Apply, params: PyTree, points: Mapping[str, Array]) -> np.ndarray:
    """Residuals of all terms, ``(n,)``, in the order of the conditions."""
    return np.concatenate(list(residuals(problem, apply, params, points).values()))


def residuals(problem: Problem, apply: Apply, params: PyTree, points: Mapping[str, Array]) -> dict[str, np.ndarray]:
    """Residuals by term, ``(n,)`` each; components of one point together."""
    parts = {}
    for name, condition in problem.conditions.items():
        left = _mapped(_operator, points[name], as_pytree(condition.operator), as_pytree(apply), params)
        parts[name] = (left - _mapped(_target, points[name], as_pytree(condition.target))).ravel()
    return parts


def jacobian(problem: Problem, apply: Apply, params: PyTree, points: Mapping[str, Array]) -> np.ndarray:
    """Derivatives of the residuals of all terms with respect to the parameters, ``(n, p)``."""
    parts = [gradients(c.operator, apply, params, points[name]) for name, c in problem.conditions.items()]
    return np.concatenate(parts)


def gradients(operator: Operator, apply: Apply, params: PyTree, x: Array) -> np.ndarray:
    """Rows ``∂ L u(x)/∂θ``, ``(n, p)``; components of one point together."""
    each = _mapped(_gradient, x, as_pytree(operator), as_pytree(apply), params)
    return each.reshape(-1, each.shape[-1])


def second_derivative(
    problem: Problem, apply: Apply, params: PyTree, direction: np.ndarray, points: Mapping[str, Array]
) -> np.ndarray:
    """Second derivative of the residuals along a direction of the flat parameters, ``(n,)``."""
    tangent = _unraveled(params, direction)
    along = [
        _mapped(_second, points[name], as_pytree(c.operator), as_pytree(apply), params, tangent).ravel()
        for name, c in problem.conditions.items()
    ]
    return np.concatenate(along)


def row_scales(gradients: np.ndarray) -> np.ndarray:
    """``1 / ‖row‖``, which makes the system the same whatever units each row has; 1 for a row of zeros."""
    norms = np.linalg.norm(gradients, axis=1)
    return 1 / np.where(norms > 0, norms, np.ones_like(norms))


def of_field(field: Field, x: Array) -> np.ndarray:
    """The field at points, ``(n, m)``."""
    return _mapped(_target, x, as_pytree(field))


def values(apply: Apply, params: PyTree, x: Array) -> np.ndarray:
    """The field of a network at points, ``(n, m)``."""
    return _mapped(_operator, x, as_pytree(identity), as_pytree(apply), params)


def change(apply: Apply, params: PyTree, direction: np.ndarray, x: Array) -> np.ndarray:
    """What a change of the flat parameters does to the field at points, to first order, ``(n, m)``."""
    return _mapped(_change, x, as_pytree(apply), params, _unraveled(params, direction))


def require_memory(problem: Problem, apply: Apply, params: PyTree, points: Mapping[str, Array], limit: float) -> None:
    """Raise `ValueError` if the Jacobian and its factors need more than ``limit`` bytes."""
    n = sum(ntk.row_counts(problem, apply, params, points).values())
    flat = ravel_pytree(params)[0]
    need = COPIES * n * flat.size * flat.dtype.itemsize
    if need > limit:
        raise ValueError(
            f"{n} rows by {flat.size} parameters need {need / 1e9:.1f} GB, and {limit / 1e9:.1f} GB are to be used: "
            f"with these points take at most {int(flat.size * limit / need)} parameters, or with this network at most "
            f"{int(n * limit / need)} rows, or raise `memory`; `solving.iterative` needs no Jacobian of all rows."
        )


def half_of_memory() -> float:
    """Bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2


def _unraveled(params: PyTree, direction: np.ndarray) -> PyTree:
    flat, unravel = ravel_pytree(params)
    return unravel(jnp.asarray(direction, flat.dtype))


# One size of batch, so that any number of points compiles nothing new.


def _mapped(fn: Callable, x: Array, *data: PyTree) -> np.ndarray:
    """``fn(*data, x)`` of batches of points, ``(n, ...)``."""
    n, size = len(x), min(BATCH, 8 ** math.ceil(math.log(len(x), 8)))
    x = np.pad(np.asarray(x), ((0, -n % size), (0, 0)), mode="edge")
    first = np.asarray(fn(*data, x[:size]))
    out = np.empty((len(x), *first.shape[1:]), first.dtype)
    out[:size] = first
    for i in range(size, len(x), size):
        out[i : i + size] = fn(*data, x[i : i + size])
    return out[:n]


@jax.jit
def _operator(operator: Operator, apply: Apply, params: PyTree, x: Array) -> Array:
    return jax.vmap(_rows.outputs(operator, apply, params))(x)


@jax.jit
def _target(target: Field, x: Array) -> Array:
    return jax.vmap(lambda x: jnp.ravel(jnp.asarray(target(x))))(x)


@jax.jit
def _gradient(operator: Operator, apply: Apply, params: PyTree, x: Array) -> Array:
    with jax.default_matmul_precision("highest"):
        return _rows.gradient_rows(operator, apply, params, x)


@jax.jit
def _change(apply: Apply, params: PyTree, tangent: PyTree, x: Array) -> Array:
    at = lambda x: jax.jvp(lambda params: _rows.outputs(identity, apply, params)(x), (params,), (tangent,))[1]
    return jax.vmap(at)(x)


@jax.jit
def _second(operator: Operator, apply: Apply, params: PyTree, tangent: PyTree, x: Array) -> Array:
    def at(x: Array) -> Array:
        value = lambda params: _rows.outputs(operator, apply, params)(x)
        slope = lambda params: jax.jvp(value, (params,), (tangent,))[1]
        return jax.jvp(slope, (params,), (tangent,))[1]

    return jax.vmap(at)(x)
