"""How each loss term pulls on the parameters: gradients by term and by layer.

All statistics come from one reverse pass over the vector of losses (`by_term`).  Losses are
the unweighted mean squares of `Problem.losses`.

Shapes: ``k`` loss terms, ``p`` parameters.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, PyTree

from pinn_analysis.problems import Problem


class Statistics(NamedTuple):
    """Of the absolute entries of a gradient.

    Attributes:
        max: largest entry.
        mean: mean of the entries.
        norm: Euclidean norm.
    """

    max: Array
    mean: Array
    norm: Array


def by_term(problem: Problem, apply: Callable, params: PyTree, points: Mapping[str, Array]) -> dict[str, PyTree]:
    """``∇_θ L_i`` of each term, shaped like ``params``.

    Raises:
        ValueError: points that do not fit the problem.
    """

    def losses(params: PyTree) -> dict[str, Array]:
        return problem.losses(functools.partial(apply, params), points)

    values, pullback = jax.vjp(losses, params)
    one = {name: jnp.ones_like(value) for name, value in values.items()}
    zero = jax.tree.map(jnp.zeros_like, one)
    return {name: pullback(zero | {name: one[name]})[0] for name in values}


def by_layer(gradient: PyTree) -> dict[str, Float[Array, " p_leaf"]]:
    """Flat entries of each array of parameters, by its path, such as ``[0]['weight']``."""
    leaves = jax.tree_util.tree_leaves_with_path(gradient)
    return {jax.tree_util.keystr(path): leaf.ravel() for path, leaf in leaves}


def statistics(gradient: PyTree) -> Statistics:
    """Over all entries of a gradient, or of one array of it."""
    entries = jnp.abs(ravel_pytree(gradient)[0])
    return Statistics(entries.max(), entries.mean(), jnp.linalg.norm(entries))


def cosines(gradients: Mapping[str, PyTree]) -> Float[Array, "k k"]:
    """Cosine of the angle between the gradients of each pair of terms, in their order.

    -1 means that the terms undo each other.  NaN where a gradient is zero.
    """
    flat = jnp.stack([ravel_pytree(gradient)[0] for gradient in gradients.values()])
    unit = flat / jnp.linalg.norm(flat, axis=1, keepdims=True)
    return jnp.matmul(unit, unit.T, precision="highest")
