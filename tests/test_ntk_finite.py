"""The kernel of finite networks against ``J Jᵀ``, built row by row from `Problem.residuals`."""

import functools
import itertools

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from pinn_analysis import ntk
from pinn_analysis.networks import mlp
from pinn_analysis.operators import laplacian, partial
from pinn_analysis.problems import Condition, Problem, helmholtz_2d, wave_1d

ROUNDING = 1e-12


class Linen(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(1, param_dtype=float)(jnp.tanh(linen.Dense(8, param_dtype=float)(x)))


class Nnx(nnx.Module):
    def __init__(self):
        self.first = nnx.Linear(2, 8, param_dtype=float, rngs=nnx.Rngs(0))
        self.last = nnx.Linear(8, 1, param_dtype=float, rngs=nnx.Rngs(1))

    def __call__(self, x):
        return self.last(jnp.tanh(self.first(x)))[0]


def plain():
    network = mlp((2, 8, 1), bias_std=0.5)
    return network.apply, network.init(jax.random.key(0))


def flax_linen():
    model = Linen()
    return model.apply, model.init(jax.random.key(0), jnp.ones(2))  # Values of shape (1,), as they come.


def flax_nnx():
    graph, params = nnx.split(Nnx())
    return lambda params, x: nnx.merge(graph, params)(x), params


def equinox():
    model = eqx.nn.MLP(2, "scalar", 8, 1, activation=jnp.tanh, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    return lambda params, x: eqx.combine(params, static)(x), params


def jacobian(problem, apply, params, points):
    """Of all residuals with respect to all parameters: targets drop out."""
    flat, unravel = ravel_pytree(params)

    def residuals(flat):
        r = problem.residuals(functools.partial(apply, unravel(flat)), points)
        return jnp.concatenate([r[name] for name in problem.conditions])

    return jax.jacrev(residuals)(flat)


def error(matrix, exact):
    return float(jnp.abs(matrix - exact).max() / jnp.abs(exact).max())


@pytest.fixture(scope="module")
def case():
    """A problem with four terms, a network, and the Jacobian."""
    apply, params = plain()
    problem = wave_1d()
    points = problem.sample(jax.random.key(1), {"boundary": 3, "initial": 2, "initial_velocity": 4, "residual": 5})
    return problem, apply, params, points, jacobian(problem, apply, params, points)


@pytest.mark.parametrize("model", [plain, flax_linen, flax_nnx, equinox])
def test_the_kernel_is_the_product_of_jacobians_for_any_model(model):
    problem, (apply, params) = helmholtz_2d(), model()
    points = problem.sample(jax.random.key(1), {"boundary": 3, "residual": 4})
    j = jacobian(problem, apply, params, points)
    kernel = ntk.empirical(problem, apply, params, points)
    assert (kernel.names, kernel.sizes) == (("boundary", "residual"), (3, 4))
    rows = {"boundary": j[:3], "residual": j[3:]}
    for a, b in itertools.product(rows, rows):
        assert error(kernel[a, b], rows[a] @ rows[b].T) <= ROUNDING


@pytest.mark.parametrize(
    "options",
    [
        {"method": "jacobian"},
        {"method": "structured"},
        {"batch_size": 2},  # Divides some sizes, and not others.
        {"batch_size": 3, "method": "structured"},
    ],
    ids=str,
)
def test_all_methods_agree(case, options):
    problem, apply, params, points, j = case
    if options != {"method": "jacobian"}:  # The others compile for long; two different operators will do.
        conditions = {name: problem.conditions[name] for name in ("initial", "initial_velocity")}
        problem, points = problem._replace(conditions=conditions), {name: points[name] for name in conditions}
        j = j[3:9]
    kernel = ntk.empirical(problem, apply, params, points, **options)
    assert kernel.sizes == tuple(len(x) for x in points.values())
    assert error(kernel.matrix, j @ j.T) <= ROUNDING
    assert jnp.array_equal(kernel.matrix, kernel.matrix.T)


def test_wide_networks_take_the_structured_method_and_agree(monkeypatch):
    problem, network = helmholtz_2d(), mlp((2, 400, 300, 1))
    problem = problem._replace(conditions={"boundary": problem.conditions["boundary"]})
    params, points = network.init(jax.random.key(0)), problem.sample(jax.random.key(1), 3)
    dense = ntk.empirical(problem, network.apply, params, points, method="jacobian").matrix
    monkeypatch.setattr(ntk._finite, "_jacobian_gram", None)
    assert error(ntk.empirical(problem, network.apply, params, points).matrix, dense) <= ROUNDING


def test_traces_of_wide_networks_form_no_row_and_agree(monkeypatch):
    network, x = mlp((2, 400, 300, 2)), jnp.array([[0.1, 0.2], [0.3, -0.4], [0.5, 0.6]])
    both = lambda u: lambda x: jnp.stack([laplacian(u)(x)[0], u(x)[1]])  # Two components a point.
    condition = Condition(both, lambda x: jnp.zeros(2), lambda key, n: x)
    problem = helmholtz_2d()._replace(conditions={"both": condition})
    params = network.init(jax.random.key(0))
    dense = ntk.empirical(problem, network.apply, params, {"both": x}, method="jacobian").matrix
    monkeypatch.setattr(ntk._finite, "_row_gradients", None)
    np.testing.assert_allclose(
        ntk.traces(problem, network.apply, params, {"both": x})["both"], jnp.trace(dense), rtol=ROUNDING
    )


def test_traces_are_sums_of_the_diagonal(case):
    problem, apply, params, points, j = case
    norms = jnp.split(jnp.sum(j**2, 1), [3, 5, 9])
    traces = ntk.traces(problem, apply, params, points)
    for name, norm in zip(problem.conditions, norms, strict=True):
        np.testing.assert_allclose(traces[name], norm.sum(), rtol=ROUNDING)
    compiled = jax.jit(lambda params: ntk.traces(problem, apply, params, points))(params)
    np.testing.assert_allclose(compiled["residual"], traces["residual"], rtol=ROUNDING)


def test_matvec_is_the_product_with_the_kernel(case):
    problem, apply, params, points, j = case
    v = jax.random.normal(jax.random.key(2), (14,))
    product = jax.jit(ntk.matvec(problem, apply, params, points))(v)
    np.testing.assert_allclose(product, j @ (j.T @ v), rtol=ROUNDING, atol=ROUNDING * jnp.abs(j @ (j.T @ v)).max())


def test_a_vector_valued_condition_has_one_row_a_component():
    network = mlp((2, 8, 2), bias_std=0.5)
    params, x = network.init(jax.random.key(0)), jax.random.uniform(jax.random.key(1), (3, 2))

    def divergence(u):
        return lambda y: partial(0)(u)(y)[0] + partial(1)(u)(y)[1]

    corners = jnp.zeros(2), jnp.ones(2)
    conditions = {
        "value": Condition(lambda u: u, lambda y: jnp.zeros(2), lambda key, n: x),
        "div": Condition(divergence, lambda y: jnp.zeros(()), lambda key, n: x),
    }
    problem = Problem("flow", conditions, corners)
    points = {"value": x, "div": x[:2]}
    j = jacobian(problem, network.apply, params, points)
    for options in {}, {"batch_size": 2}, {"method": "structured"}:
        kernel = ntk.empirical(problem, network.apply, params, points, **options)
        assert kernel.sizes == (6, 2)
        assert error(kernel.matrix, j @ j.T) <= ROUNDING, options


def test_a_nonlinear_operator_is_differentiated_at_the_network_itself():
    network = mlp((2, 8, 1), bias_std=0.5)
    params = network.init(jax.random.key(0))

    def burgers(u):
        return lambda x: partial(1)(u)(x) + u(x) * partial(0)(u)(x)

    conditions = {"r": Condition(burgers, lambda x: 0 * x[0], lambda key, n: jnp.zeros((n, 2)))}
    problem = Problem("burgers", conditions, (jnp.zeros(2), jnp.ones(2)))
    points = {"r": np.array([[0.1, 0.2], [0.7, 0.4]])}  # NumPy's do as well.
    j = jacobian(problem, network.apply, params, points)
    assert error(ntk.empirical(problem, network.apply, params, points, batch_size=1).matrix, j @ j.T) <= ROUNDING


CALLS = {
    "empirical": lambda *args: ntk.empirical(*args),
    "structured": lambda *args: ntk.empirical(*args, method="structured"),
    "traces": ntk.traces,
    "matvec": ntk.matvec,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    "bad, message",
    [
        (jnp.array([1.0, jnp.nan]), r"params\['bad'\] contains NaN or infinity"),
        (jnp.array([1.0, jnp.inf]), r"params\['bad'\] contains NaN or infinity"),
        (jnp.array([1, 2]), r"floating-point arrays, but params\['bad'\]"),
        (np.array([1, 2]), r"floating-point arrays, but params\['bad'\]"),
        (3, r"floating-point arrays, but params\['bad'\]"),
        ("tanh", r"floating-point arrays, but params\['bad'\]"),
        (jnp.tanh, r"floating-point arrays, but params\['bad'\].*`equinox.partition`"),
    ],
    ids=["nan", "inf", "integers", "numpy integers", "integer", "string", "function"],
)
def test_parameters_that_are_not_finite_numbers_are_an_error(call, bad, message):
    problem = helmholtz_2d()
    points = problem.sample(jax.random.key(0), 2)
    with pytest.raises(ValueError, match=message):
        call(problem, lambda params, x: params["good"] * x[0], {"good": jnp.ones(()), "bad": bad}, points)


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_points_that_do_not_fit_are_an_error(call):
    apply, params = plain()
    with pytest.raises(ValueError, match=r"must have shape \(n, 2\)"):
        call(helmholtz_2d(), apply, params, {"boundary": jnp.ones((2, 2)), "residual": jnp.ones((2, 1))})


@pytest.mark.parametrize(
    "options, message", [({"method": "fast"}, "`method` must be"), ({"batch_size": 0}, "`batch_size` must be at least")]
)
def test_options_that_do_not_exist_are_an_error(case, options, message):
    problem, apply, params, points, _ = case
    with pytest.raises(ValueError, match=message):
        ntk.empirical(problem, apply, params, points, **options)
