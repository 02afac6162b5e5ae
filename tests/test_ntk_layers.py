"""Rows of Jacobians by layers, against rows by `jax.jacrev` of all residuals at once."""

import functools

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from pinn_analysis import ntk
from pinn_analysis.networks import fourier_mlp, linearized, mlp, modified_mlp
from pinn_analysis.ntk import _grams, _layers
from pinn_analysis.operators import identity, laplacian, partial
from pinn_analysis.problems import Condition, Problem

ROUNDING = 1e-12


def problem_of(**operators):
    conditions = {name: Condition(operator, lambda x: 0.0, None) for name, operator in operators.items()}
    return Problem("of operators", conditions, (jnp.zeros(2), jnp.ones(2)))


def points_of(problem, n=5):
    sizes = range(n, n + len(problem.conditions))
    keys = jax.random.split(jax.random.key(7), len(problem.conditions))
    return {name: jax.random.uniform(key, (n, 2)) for name, key, n in zip(problem.conditions, keys, sizes, strict=True)}


def jacobian(problem, apply, params, points):
    flat, unravel = ravel_pytree(params)

    def values(flat):
        field = functools.partial(apply, unravel(flat))
        terms = problem.conditions.items()
        return jnp.concatenate([jax.vmap(term.operator(field))(points[name]).ravel() for name, term in terms])

    return jax.jit(jax.jacrev(values))(flat)


def error(found, exact):
    return float(jnp.abs(found - exact).max() / jnp.abs(exact).max())


def normal(*shapes):
    keys = jax.random.split(jax.random.key(3), len(shapes))
    return [jax.random.normal(key, shape) / np.sqrt(shape[0]) for key, shape in zip(keys, shapes, strict=True)]


def flax():
    """With a matrix that is no dense layer, one entry of which multiplies each of the hidden ones."""

    class Gated(linen.Module):
        @linen.compact
        def __call__(self, x):
            h = jnp.tanh(linen.Dense(12, param_dtype=float)(x)).reshape(3, 4)
            h = h * self.param("gate", linen.initializers.normal(), (3, 4), float)
            return linen.Dense(1, param_dtype=float)(jnp.tanh(h).ravel())[0]

    model = Gated()
    return model.apply, model.init(jax.random.key(0), jnp.ones(2))


def shared(params, x):
    """Two networks that share a layer, one of which has it twice, once transposed."""
    first, second, w, out = params
    one = jnp.tanh(w @ jnp.tanh(w.T @ jnp.tanh(first @ x)))
    return (one + jnp.tanh(w @ jnp.tanh(second @ x))) @ out


def also_otherwise(params, x):
    w, out = params
    return jnp.tanh(jnp.tanh(x @ w) @ w.T) @ out + (w**2).sum() * x[0]


def products_of_products(params, x):
    v, w, out = params
    return jnp.tanh(x @ (v @ w)) @ out


def shifted(params, x):
    w, out = params
    return jnp.tanh(x @ (w - 1.0)) @ out


def batched(params, x):
    (w,) = params
    return jnp.einsum("kij,ki->kj", w, jnp.tanh(jnp.outer(jnp.arange(1.0, 4.0), x))).sum() ** 2


def of_a_network(network):
    return network.apply, network.init(jax.random.key(0))


def of_a_tangent():
    network = mlp((2, 9, 8, 1), bias_std=0.5)
    start = network.init(jax.random.key(1))
    return linearized(network, start).apply, network.init(jax.random.key(2))


# A model, and the shapes of the parameters whose rows are not formed.
MODELS = {
    "mlp": lambda: (*of_a_network(mlp((2, 9, 8, 1), bias_std=0.5)), {(2, 9), (9, 8), (8, 1)}),
    "ntk form": lambda: (
        *of_a_network(mlp((2, 9, 8, 1), "sin", parameterization="ntk", bias_std=0.5)), {(2, 9), (9, 8), (8, 1)},
    ),
    "gelu": lambda: (*of_a_network(mlp((2, 9, 8, 1), "gelu")), {(2, 9), (9, 8), (8, 1)}),
    "softplus": lambda: (*of_a_network(mlp((2, 9, 8, 1), jax.nn.softplus)), {(2, 9), (9, 8), (8, 1)}),
    "modified": lambda: (*of_a_network(modified_mlp((2, 9, 9, 1))), {(2, 9), (9, 9), (9, 1)}),
    "fourier": lambda: (*of_a_network(fourier_mlp((2, 8, 7, 1))), {(8, 8), (8, 7), (14, 1)}),
    "tangent": lambda: (*of_a_tangent(), {(2, 9), (9, 8), (8, 1)}),
    "flax": lambda: (*flax(), {(2, 12), (12, 1)}),
    "shared": lambda: (shared, normal((6, 2), (6, 2), (6, 6), (6,)), {(6, 2), (6, 6)}),
    "also otherwise": lambda: (also_otherwise, normal((2, 6), (2,)), set()),
    "products of products": lambda: (products_of_products, normal((2, 6), (6, 5), (5,)), {(2, 6), (6, 5)}),
    "shifted": lambda: (shifted, normal((2, 6), (6,)), set()),
    "batched": lambda: (batched, normal((3, 2, 4)), set()),
}  # fmt: skip


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_blocks_and_diagonals_are_those_of_the_jacobian(model):
    apply, params, by_factors = model()
    by_reverse_mode = lambda u: lambda x: jax.grad(u)(x)[1] * u(x)
    problem = problem_of(
        value=identity, residual=lambda u: lambda x: laplacian(u)(x) + u(x) ** 3, slope=by_reverse_mode
    )
    points = points_of(problem)
    j = jacobian(problem, apply, params, points)
    kernel = ntk.operator(problem, apply, params, points)
    leaves = jax.tree.leaves(params)
    assert {leaves[i].shape for i in _grams.structured(kernel, None)} == by_factors
    assert error(kernel.dense(method="structured").matrix, j @ j.T) <= ROUNDING
    assert error(kernel.diagonal(), (j**2).sum(1)) <= ROUNDING


def test_blocks_against_other_points_other_operators_and_other_parameters():
    apply, params = of_a_network(modified_mlp((2, 9, 9, 1)))
    moved = jax.tree.map(lambda leaf: 1.1 * leaf + 0.1, params)
    left, right = (
        problem_of(wave=lambda u: lambda x: partial(0, 0)(u)(x) - partial(1, 1)(u)(x)),
        problem_of(value=identity, slope=partial(1)),
    )
    x, y = points_of(left, 3), points_of(right, 1)
    exact = jacobian(left, apply, params, x) @ jacobian(right, apply, moved, y).T
    a, b = ntk.operator(left, apply, params, x), ntk.operator(right, apply, moved, y)
    for options in {}, {"batch_size": 2}:
        assert error(a.cross(b, method="structured", **options), exact) <= ROUNDING
        assert error(b.cross(a, method="structured", **options), exact.T) <= ROUNDING


@pytest.mark.parametrize("outputs", [2, 12])  # With a pullback each, and mapped over.
def test_vector_outputs_have_a_row_for_each_component(outputs):
    apply, params = of_a_network(mlp((2, 7, 7, outputs), bias_std=0.5))
    problem = problem_of(values=identity, slope=lambda u: lambda x: u(x)[0] * partial(0)(u)(x)[1])
    problem.conditions["values"] = problem.conditions["values"]._replace(target=lambda x: jnp.zeros(outputs))
    points = points_of(problem, 3)
    j = jacobian(problem, apply, params, points)
    kernel = ntk.operator(problem, apply, params, points)
    assert kernel.sizes == (3 * outputs, 4)
    assert error(kernel.dense(method="structured").matrix, j @ j.T) <= ROUNDING
    assert error(kernel.diagonal(), (j**2).sum(1)) <= ROUNDING


@pytest.mark.parametrize("n", [1, 130, 300])  # In one part; in three, of which the last is smaller; in four.
def test_any_number_of_points(n):
    apply, params = of_a_network(mlp((2, 7, 7, 1), bias_std=0.5))
    problem = problem_of(residual=laplacian)
    points = points_of(problem, n)
    j = jacobian(problem, apply, params, points)
    kernel = ntk.operator(problem, apply, params, points)
    assert error(kernel.dense(method="structured").matrix, j @ j.T) <= ROUNDING


def test_terms_of_two_networks_share_nothing():
    """A parameter that a term does not contain has no product in it, and a part of zero."""
    one = mlp((2, 6, 5, 1), bias_std=0.5)
    params = [one.init(jax.random.key(0)), one.init(jax.random.key(1))]
    apply = lambda params, x: jnp.stack([one.apply(part, x) for part in params])
    problem = problem_of(first=lambda u: lambda x: u(x)[0], second=lambda u: lambda x: partial(0)(u)(x)[1])
    points = points_of(problem)
    kernel = ntk.empirical(problem, apply, params, points, method="structured")
    j = jacobian(problem, apply, params, points)
    assert error(kernel.matrix, j @ j.T) <= ROUNDING
    assert jnp.all(kernel["first", "second"] == 0)


def test_operations_repeated_by_an_operator_are_one_lane():
    """Through a hidden layer of ``u_tt - u_xx`` go the value, two first and two second derivatives."""
    apply, params = of_a_network(mlp((2, 6, 5, 1)))
    problem = problem_of(wave=lambda u: lambda x: partial(0, 0)(u)(x) - partial(1, 1)(u)(x))
    kernel = ntk.operator(problem, apply, params, points_of(problem))
    ((_, products),) = _layers.programs(kernel)
    lanes = {jax.tree.leaves(params)[i].shape: sum(p.lanes for p in of_leaf) for i, of_leaf in products.items()}
    assert lanes[6, 5] == 5


def test_factors_are_taken_where_they_are_less_work():
    problem = problem_of(residual=laplacian)
    for width, hidden_by_factors in ((16, False), (512, True)):
        apply, params = of_a_network(mlp((2, width, width, 1)))
        kernel = ntk.operator(problem, apply, params, points_of(problem, 1000))
        shapes = {jax.tree.leaves(params)[i].shape for i in _grams.worthwhile(kernel, None)}
        assert ((width, width) in shapes) == hidden_by_factors
        assert (2, width) not in shapes  # Of two inputs: as narrow as a row.
