"""How each loss term pulls on the parameters: gradients by term and by layer.

Everything here is a function of the gradients that `by_term` computes at once:

>>> import jax
>>> from pinn_analysis import gradients, mlp, problems
>>> problem, network = problems.poisson_1d(a=4), mlp((1, 8, 1))
>>> params = network.init(jax.random.key(0))
>>> grads = gradients.by_term(problem, network.apply, params, problem.sample(jax.random.key(1), 8))
>>> norms = {name: gradients.statistics(gradient).norm for name, gradient in grads.items()}
>>> bool(norms["residual"] > 10 * norms["boundary"])
True
>>> list(gradients.by_layer(grads["residual"]))
["[0]['bias']", "[0]['weight']", "[1]['bias']", "[1]['weight']"]

Losses are the unweighted mean squares of `Problem.losses`.  All functions are traceable.

Shapes: ``p`` parameters.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Float, PyTree

from pinn_analysis._functions import as_pytree
from pinn_analysis.problems import Apply, Condition, Problem, as_data, at_least_single, check, require_finite


class Statistics(NamedTuple):
    """Statistics of the absolute entries of a gradient.

    Attributes:
        max: largest entry.
        mean: mean of the entries.
        norm: Euclidean norm.
    """

    max: Array
    mean: Array
    norm: Array


class Histogram(NamedTuple):
    """Distribution of the entries of a gradient.

    Attributes:
        density: share of all entries in each bin over its width, ``(bins,)``.
        edges: of the bins, ascending, ``(bins + 1,)``.
    """

    density: Array
    edges: Array


def by_term(problem: Problem, apply: Apply, params: PyTree, points: Mapping[str, ArrayLike]) -> dict[str, PyTree]:
    """``∇_θ L_i`` of each term that is trained, shaped like ``params``; of half precision in float32.

    Raises:
        ValueError: see `problems.check`; gradients that are, if known yet, not finite, with term and point.
    """
    points = at_least_single(check(problem, apply, params, points))
    params = at_least_single(params)
    conditions = {name: as_data(c) for name, c in problem.conditions.items() if c.trained}
    by_name = _by_term(conditions, as_pytree(apply), params, {name: points[name] for name in conditions})
    found = {name: by_name[name] for name in conditions}  # `jax.jit` sorts the keys of dicts.
    require_finite("Gradients are", found, problem.only(*conditions), apply, params, points)
    return found


@jax.jit
def _by_term(
    conditions: dict[str, Condition], apply: Apply, params: PyTree, points: dict[str, Array]
) -> dict[str, PyTree]:
    def loss(params: PyTree, name: str) -> Array:
        residual = conditions[name].residual(functools.partial(apply, params))
        return jnp.mean(jax.vmap(residual)(points[name]) ** 2)

    return {name: jax.grad(loss)(params, name) for name in conditions}


def by_layer(gradient: PyTree) -> dict[str, Float[Array, " p_leaf"]]:
    """Flat entries of each array of parameters, by its path, such as ``[0]['weight']``."""
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    return {jax.tree_util.keystr(path): leaf.ravel() for path, leaf in leaves}


def statistics(gradient: PyTree) -> Statistics:
    """Over all entries of a gradient, or of one array of it."""
    entries = jnp.abs(ravel_pytree(gradient)[0])
    return Statistics(entries.max(), entries.mean(), jnp.linalg.norm(entries))


def histogram(gradient: PyTree, *, bins: int = 50, limit: ArrayLike | None = None) -> Histogram:
    """Over all entries of a gradient, or of one array of it; symmetric about zero.

    Args:
        gradient: any pytree of arrays.
        bins: number of bins, of equal width.
        limit: upper edge of the last bin, positive; by default the largest absolute entry.
            What lies beyond is in no bin: the density then integrates to less than 1.

    Raises:
        ValueError: ``bins`` below 1; a ``limit`` that is not positive.
    """
    if bins < 1:
        raise ValueError(f"`bins` must be at least 1, got {bins}.")
    if limit is not None and not isinstance(limit, jax.core.Tracer) and not limit > 0:
        raise ValueError(f"`limit` must be positive, got {limit}; leave it out for the largest entry.")
    entries = ravel_pytree(gradient)[0]
    if limit is None:
        largest = jnp.abs(entries).max()
        limit = jnp.where(largest > 0, largest, 1.0)  # A gradient that is zero is one peak.
    edges = jnp.linspace(-1.0, 1.0, bins + 1, dtype=entries.dtype) * limit
    counts = jnp.histogram(entries, edges)[0]
    return Histogram(counts / (entries.size * jnp.diff(edges)), edges)


def cosines(gradients: Mapping[str, PyTree]) -> dict[tuple[str, str], Float[Array, ""]]:
    """Cosine of the angle between the gradients of each pair of terms, by their names in either order.

    -1 means that the terms undo each other.  NaN where a gradient is zero.
    """
    flat = {name: ravel_pytree(gradient)[0] for name, gradient in gradients.items()}
    unit = {name: vector / jnp.linalg.norm(vector) for name, vector in flat.items()}
    return {(a, b): jnp.vdot(unit[a], unit[b], precision="highest") for a in unit for b in unit}
