"""The network of the solver: one hidden layer of sines, whose scales are frequencies."""

import jax.numpy as jnp
from jaxtyping import PyTree

from pinn_analysis.networks import Network, mlp, standardized
from pinn_analysis.problems import Problem


def sines(problem: Problem, width: int, components: int) -> Network:
    """Inputs scaled to the box of the problem."""
    layers = mlp((len(problem.domain[0]), width, components), "sin", parameterization="ntk", bias_std=1.0)
    return standardized(layers, *problem.domain)


def stretched(params: PyTree, scales: float | tuple[float, ...]) -> PyTree:
    """Parameters of `sines` with the frequencies of all axes, or of each, times ``scales``."""
    first, last = params
    return [first | {"weight": first["weight"] * jnp.reshape(jnp.asarray(scales), (-1, 1))}, last]
