"""Kernels, gradients and losses of parameters of any shape, in any dimension, at any points.

The reference knows nothing of the package: derivatives in ``x`` are nested gradients written out,
those in the parameters are central differences.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from pinn_analysis import gradients, ntk
from pinn_analysis.operators import identity, laplacian, partial
from pinn_analysis.problems import Condition, Problem, box, data


class Layer(NamedTuple):
    weight: jax.Array
    bias: jax.Array | None


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


# Parameters, dimension, number of points of each term.
CASES = {
    "a single number": (normal(0), 1, (1, 1, 1)),
    "layers without biases": ([Layer(normal(1, 2, 3), None), Layer(normal(2, 3, 1), normal(3, 1))], 2, (5, 1, 3)),
    "nested, rank 3, length 1": ({"b": ({"a": normal(4, 2, 1, 3)}, [normal(5)]), "a": normal(6, 1)}, 3, (1, 4, 2)),
    "an empty container": ({"none": {}, "some": (normal(7, 4), ())}, 10, (2, 3, 4)),
    "a hundred dimensions": ({"w": normal(8, 7)}, 100, (2, 1, 3)),
}


def apply(params, x):
    """A smooth function in which every parameter and every coordinate has a part."""
    value = 0.0
    for i, leaf in enumerate(jax.tree.leaves(params)):
        v = leaf.ravel()
        phase = x[jnp.arange(v.size) % x.size] + x.sum() / x.size + 0.3 * i
        value += jnp.sum(jnp.sin(v * phase) + v**2 * jnp.cos(phase))
    return value


def steepening(u):
    return lambda x: u(x) * partial(0)(u)(x)


def value_and_laplacian(u):
    return lambda x: jnp.stack([u(x), laplacian(u)(x)])


def setting(params, d, sizes):
    low, high = jnp.zeros(d), jnp.ones(d)
    x = [jax.random.uniform(jax.random.key(i), (n, d)) for i, n in enumerate(sizes)]
    x[2] = x[2].at[1:].set(x[2][0])  # All the same.
    readings = jnp.arange(1.0, len(x[2]) + 1)
    conditions = {
        "steep": Condition(steepening, jnp.sum, box(low, high)),
        "both": Condition(value_and_laplacian, lambda x: jnp.stack([x[0], -x[0]]), box(low, high)),
        "data": data(x[2], readings, operator=identity, noise=0.5),
    }
    points = dict(zip(conditions, [*x[:2], jnp.column_stack([x[2], readings, jnp.full(len(x[2]), 0.5)])], strict=True))

    @jax.jit
    def residuals(flat):
        u = functools.partial(apply, ravel_pytree(params)[1](flat))
        steep = jax.vmap(lambda x: u(x) * jax.grad(u)(x)[0] - x.sum())(x[0])
        both = jax.vmap(lambda x: jnp.stack([u(x) - x[0], jnp.trace(jax.hessian(u)(x)) + x[0]]))(x[1])
        return jnp.concatenate([steep, both.ravel(), (jax.vmap(u)(x[2]) - readings) / 0.5])

    return Problem("any", conditions, (low, high)), points, residuals


@pytest.mark.parametrize("params, d, sizes", CASES.values(), ids=CASES)
def test_kernels_gradients_and_losses_are_right_whatever_the_parameters_and_points(params, d, sizes):
    problem, points, residuals = setting(params, d, sizes)
    flat = ravel_pytree(params)[0]
    h = 1e-4
    steps = h * np.eye(flat.size)
    J = jnp.stack([(residuals(flat + e) - residuals(flat - e)) / (2 * h) for e in steps], -1)
    r = residuals(flat)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6 * float(jnp.abs(J @ J.T).max()))

    K = ntk.empirical(problem, apply, params, points)
    assert K.sizes == (sizes[0], 2 * sizes[1], sizes[2])
    close(K.matrix, J @ J.T)
    parts, slopes = K.split(r), K.split(J.T)

    @jax.jit
    def everything(params):
        field = functools.partial(apply, params)
        now = problem, apply, params, points
        return (
            problem.residuals(field, points),
            problem.losses(field, points),
            ntk.traces(*now),
            gradients.by_term(*now),
        )

    values, losses, traces, by_term = everything(params)
    for name in problem.conditions:
        np.testing.assert_allclose(values[name], parts[name], rtol=1e-9, atol=1e-10)
        np.testing.assert_allclose(losses[name], jnp.mean(parts[name] ** 2), rtol=1e-9)
        close(traces[name], jnp.sum(slopes[name] ** 2))
        assert jax.tree.structure(by_term[name]) == jax.tree.structure(params)
        close(ravel_pytree(by_term[name])[0], 2 * slopes[name] @ parts[name] / len(parts[name]))
