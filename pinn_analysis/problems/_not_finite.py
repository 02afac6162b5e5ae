"""Where a NaN comes from: which term, which point, and whose it is.  Shapes: ``n`` points, ``d`` inputs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from pinn_analysis.operators import Field
from pinn_analysis.problems._condition import Condition
from pinn_analysis.problems._core import Apply, Points, Problem, check_points, is_finite


def where_not_finite(values: Array) -> np.ndarray:
    """Points at which any component of ``values``, ``(n, ...)``, is NaN or infinite."""
    return np.flatnonzero(~np.isfinite(np.asarray(values)).reshape(len(values), -1).all(1))


def ingredients(condition: Condition, apply: Apply, params: PyTree) -> dict[str, Field]:
    """What the residual of a term is made of, as functions of a row of its points."""
    field = functools.partial(apply, params)
    return {
        "network": lambda x: field(x[: x.size - condition.values]),  # Without measured values.
        "target": condition.target,
        "operator": condition.operator(field),
    }


def explain_not_finite(problem: Problem, apply: Apply, params: PyTree, points: Points) -> str:
    """A sentence for an error message: the first term and point at which something is not finite, and what.

    Looked at in turn, for each term: the network, the target, the operator at the network, and the
    gradient of the operator's value by the parameters, which is a row of the kernel.  Where all are
    finite, what overflowed is made of them, and the sentence has the largest of each.  Costs one
    gradient per point: for after something went wrong.  All arguments are known arrays.
    """
    names = {
        "network": "the value of the network",
        "target": "the target",
        "operator": "the operator at this network",
    }
    field, points = functools.partial(apply, params), check_points(problem, points)
    largest = {"residual": 0.0, "gradient": 0.0}
    for name, condition in problem.conditions.items():
        x = points[name]
        inputs = x[:, : x.shape[1] - condition.values]
        gradients = jax.lax.map(lambda x, c=condition: _largest_slope(c, apply, params, x), x)
        parts = {names[what]: jax.vmap(f)(x) for what, f in ingredients(condition, apply, params).items()}
        for what, values in (parts | {"the gradient of the operator's value by the parameters": gradients}).items():
            bad = where_not_finite(values)
            if bad.size:
                i = bad[0]
                return (
                    f"In {name!r}, at point {i} (x = {inputs[i].tolist()}), {what} is not finite: "
                    f"{values[i].tolist()}; so at {bad.size} of {len(x)} points."
                )
        residuals = jax.vmap(condition.residual(field))(x)
        largest = {
            "residual": max(largest["residual"], float(jnp.abs(residuals).max())),
            "gradient": max(largest["gradient"], float(gradients.max())),
        }
    return (
        f"Residuals and their gradients are finite at all points, up to {largest['residual']:.3g} and "
        f"{largest['gradient']:.3g}: a sum or product of them overflows.  Make the equation dimensionless, or scale it."
    )


def require_finite(what: str, values: PyTree, problem: Problem, apply: Apply, params: PyTree, points: Points) -> None:
    """Raise `ValueError` with `explain_not_finite` unless all ``values`` are finite, or not known yet."""
    if not is_finite(values):
        raise ValueError(f"{what} not finite.  {explain_not_finite(problem, apply, params, points)}")


def _largest_slope(condition: Condition, apply: Apply, params: PyTree, x: Float[Array, " d"]) -> Float[Array, ""]:
    """Largest absolute entry of ``∂L u(x)/∂θ``."""

    def value(params: PyTree) -> Array:
        field: Field = functools.partial(apply, params)
        return jnp.ravel(condition.operator(field)(x))

    return jnp.stack([jnp.abs(leaf).max() for leaf in jax.tree.leaves(jax.jacrev(value)(params))]).max()
