"""Hessians against `jax.hessian`, closed forms, the kernel, and one another."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from pinn_analysis import convergence, curvature, mlp, ntk, spectra
from pinn_analysis.operators import identity
from pinn_analysis.problems import Condition, Problem, klein_gordon, poisson_1d

KEY = jax.random.key(7)
ROUNDING = 1e-11


def error(matrix, exact):
    return float(jnp.abs(matrix - exact).max() / jnp.abs(exact).max())


def exact_hessian(problem, apply, params, points, weights):
    flat, unravel = ravel_pytree(params)

    def loss(flat):
        losses = problem.losses(functools.partial(apply, unravel(flat)), points)
        return sum(weights[name] * value for name, value in losses.items())

    return jax.jit(jax.hessian(loss))(flat)


@pytest.fixture(scope="module")
def case():
    """Of 49 parameters; the terms have 2 and 9 rows."""
    problem, network = poisson_1d(4), mlp((1, 16, 1), bias_std=0.5)
    params = network.init(jax.random.key(0))
    points = problem.sample(jax.random.key(1), {"boundary": 2, "residual": 9})
    return problem, network.apply, params, points


@pytest.fixture(scope="module")
def matrices(case):
    return {part: curvature.hessian(*case, part=part) for part in curvature.PARTS}


def linear(values, target):
    """A model that is linear in its parameters: ``u(x) = w · values[x]``."""
    conditions = {"value": Condition(identity, lambda x: target[x[0].astype(int)], None)}
    problem = Problem("linear", conditions, (jnp.zeros(1), jnp.ones(1)))
    points = {"value": jnp.arange(len(values), dtype=float)[:, None]}
    return problem, lambda w, x: w @ values[x[0].astype(int)], points


def test_the_hessian_of_each_term_is_that_of_jax(case, matrices):
    for name in ("boundary", "residual"):
        weights = {"boundary": 0.0, "residual": 0.0} | {name: 1.0}
        assert error(matrices["hessian"][name], exact_hessian(*case, weights)) <= ROUNDING


def test_the_columns_do_not_depend_on_the_batches(case, matrices):
    problem, apply, params, points = case
    problem = problem._replace(conditions={"boundary": problem.conditions["boundary"]})
    for batch_size in (30, 1000):  # Neither divides the number of columns.
        (again,) = curvature.hessian(
            problem, apply, params, {"boundary": points["boundary"]}, batch_size=batch_size
        ).values()
        assert error(again, matrices["hessian"]["boundary"]) <= ROUNDING


def test_both_parts_make_up_the_hessian(matrices):
    for name, whole in matrices["hessian"].items():
        assert error(matrices["gauss_newton"][name] + matrices["rest"][name], whole) <= ROUNDING


def test_the_rest_vanishes_where_the_residual_does_and_the_gauss_newton_part_ignores_the_target(case, matrices):
    problem, apply, params, points = case
    met = {  # The network's own values for targets: a minimum, of loss zero.
        name: condition._replace(target=condition.operator(functools.partial(apply, params)))
        for name, condition in problem.conditions.items()
    }
    there = {
        part: curvature.hessian(problem._replace(conditions=met), apply, params, points, part=part)
        for part in curvature.PARTS
    }
    for name in met:
        assert jnp.abs(there["rest"][name]).max() <= 1e-15 * jnp.abs(there["hessian"][name]).max()
        assert error(there["gauss_newton"][name], matrices["gauss_newton"][name]) <= ROUNDING
        assert jnp.linalg.eigvalsh(there["hessian"][name])[0] > -1e-12 * jnp.abs(there["hessian"][name]).max()


def test_the_gauss_newton_part_has_the_eigenvalues_of_the_kernel(case, matrices):
    values = curvature.eigenvalues(matrices["gauss_newton"])
    kernel = spectra.eigenvalues(ntk.empirical(*case)).terms
    for name, n in (("boundary", 2), ("residual", 9)):
        of_kernel = 2 / n * kernel[name]
        np.testing.assert_allclose(values[name][:n], of_kernel, atol=ROUNDING * of_kernel[0])
        np.testing.assert_allclose(values[name][n:], 0, atol=ROUNDING * of_kernel[0])


def test_products_are_those_with_the_matrices(case, matrices):
    _, _, params, _ = case
    v, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.cos(7 * leaf), params))
    weights = {"boundary": 3.0, "residual": 0.5}
    for part, dense in matrices.items():
        products = curvature.matvecs(*case, part=part, weights=weights)
        assert list(products.terms) == ["boundary", "residual"]
        whole = 3.0 * dense["boundary"] + 0.5 * dense["residual"]
        for name, product in products.terms.items():
            assert error(ravel_pytree(product(unravel(v)))[0], dense[name] @ v) <= ROUNDING, (part, name)
        assert error(ravel_pytree(products.whole(unravel(v)))[0], whole @ v) <= ROUNDING, part


def test_products_pass_through_jit_and_compile_once_for_all_parameters(case):
    problem, apply, params, points = case
    compiled = jax.jit(lambda product, v: product(v))
    for scale in (1.0, 1.1, 1.2):
        moved = jax.tree.map(lambda leaf, scale=scale: scale * leaf, params)
        elsewhere = problem.conditions["boundary"]._replace(sample=lambda key, n, scale=scale: jnp.full((n, 1), scale))
        other = problem._replace(conditions=problem.conditions | {"boundary": elsewhere})
        compiled(curvature.matvecs(other, apply, moved, points).terms["boundary"], params)
    assert compiled._cache_size() == 1


def test_terms_that_are_not_trained_have_no_part_in_the_whole_unless_they_are_given_a_weight(case, matrices):
    problem, apply, params, points = case
    aside = problem.conditions["boundary"]._replace(trained=False)
    case = problem._replace(conditions=problem.conditions | {"boundary": aside}), apply, params, points
    v, unravel = ravel_pytree(params)
    for weights, share in ((None, 0.0), ({"residual": 1.0}, 0.0), ({"residual": 1.0, "boundary": 3.0}, 3.0)):
        whole = ravel_pytree(curvature.matvecs(*case, weights=weights).whole(unravel(v)))[0]
        dense = matrices["hessian"]["residual"] + share * matrices["hessian"]["boundary"]
        assert error(whole, dense @ v) <= ROUNDING


def test_a_linear_model_has_the_hessian_of_least_squares():
    values = jax.random.normal(KEY, (6, 3))
    problem, apply, points = linear(values, jnp.arange(6.0))
    for w in (jnp.zeros(3), jnp.array([1.0, -2.0, 5.0])):  # It is the same everywhere.
        (matrix,) = curvature.hessian(problem, apply, w, points).values()
        assert error(matrix, values.T @ values / 3) <= ROUNDING
        assert error(matrix, curvature.hessian(problem, apply, w, points, part="gauss_newton")["value"]) <= ROUNDING


def test_a_vector_valued_condition_averages_over_components():
    conditions = {"u": Condition(identity, lambda x: jnp.zeros(2), None)}
    problem = Problem("two", conditions, (jnp.zeros(1), jnp.ones(1)))
    (matrix,) = curvature.hessian(problem, lambda w, x: w, jnp.ones(2), {"u": jnp.zeros((5, 1))}).values()
    np.testing.assert_allclose(matrix, np.eye(2), atol=1e-15)  # Of (w0² + w1²) / 2.


def test_nonlinear_operators_and_equinox_models():
    model = eqx.nn.MLP(2, "scalar", 4, 1, activation=jnp.tanh, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    problem = klein_gordon()
    problem = problem._replace(conditions={"residual": problem.conditions["residual"]})
    args = problem, lambda params, x: eqx.combine(params, static)(x), params, problem.sample(jax.random.key(1), 5)
    assert error(curvature.hessian(*args)["residual"], exact_hessian(*args, {"residual": 1.0})) <= ROUNDING


@pytest.mark.parametrize("part", curvature.PARTS)
def test_the_ends_of_the_spectrum_are_those_of_the_matrix(case, matrices, part):
    products = curvature.matvecs(*case, part=part)
    both = [(products.terms[name], matrix) for name, matrix in matrices[part].items()]
    for product, matrix in [*both, (products.whole, sum(matrices[part].values()))]:
        values = jnp.linalg.eigvalsh(matrix)[::-1]
        ends = spectra.extreme_eigenvalues(product, case[2], key=KEY)
        np.testing.assert_allclose([ends.largest, ends.smallest], values[jnp.array([0, -1])], atol=1e-9 * values[0])
        assert (ends.errors <= 1e-6 * values[0]).all()  # The square of it bounds the error itself.


def test_the_hessian_of_a_network_has_negative_eigenvalues(case, matrices):
    smallest = curvature.eigenvalues(matrices["hessian"])["residual"][-1]
    ends = spectra.extreme_eigenvalues(curvature.matvecs(*case).terms["residual"], case[2], key=KEY)
    assert smallest < -0.01 * ends.largest


def test_the_density_has_the_moments_of_the_matrix(case, matrices):
    matrix, p = matrices["hessian"]["residual"], 49
    many = spectra.density(curvature.matvecs(*case).terms["residual"], case[2], key=KEY, num_matvecs=20, samples=400)
    np.testing.assert_allclose(many.counts.sum(), p)
    # The variance of vᵀAv for random signs is twice the sum of squares off the diagonal.
    for power, exact in ((1, matrix), (2, matrix @ matrix)):
        off = exact - jnp.diag(jnp.diag(exact))
        deviation = jnp.sqrt(2 * (off**2).sum() / 400)
        assert abs((many.counts * many.values**power).sum() - jnp.trace(exact)) < 4 * deviation


def test_the_density_counts_eigenvalues(case, matrices):
    exact = curvature.eigenvalues(matrices["hessian"])["residual"]
    spectrum = spectra.density(curvature.matvecs(*case).terms["residual"], case[2], key=KEY, samples=64)
    middle = jnp.sqrt(exact[4] * exact[5])
    assert abs(float(spectrum.counts[spectrum.values > middle].sum()) - 5) < 1


def test_the_largest_step_is_the_one_of_the_weighted_matrix(case, matrices):
    weights = {"boundary": 100.0, "residual": 0.1}
    dense = sum(weights[name] * matrix for name, matrix in matrices["hessian"].items())
    step = curvature.max_learning_rate(*case, weights, key=KEY)
    np.testing.assert_allclose(step, 2 / jnp.linalg.eigvalsh(dense)[-1], rtol=1e-10)


def test_the_largest_step_of_a_linear_model_is_that_of_its_kernel_and_gradient_descent_obeys_it():
    values = jax.random.normal(KEY, (6, 3))
    problem, apply, points = linear(values, jnp.arange(6.0))
    step = curvature.max_learning_rate(problem, apply, jnp.zeros(3), points, key=KEY)
    of_kernel = convergence.max_learning_rate(ntk.empirical(problem, apply, jnp.zeros(3), points))
    np.testing.assert_allclose(step, of_kernel, rtol=1e-12)

    def loss(w):
        return problem.losses(functools.partial(apply, w), points)["value"]

    least = loss(jnp.linalg.lstsq(values, jnp.arange(6.0))[0])

    @jax.jit
    def descend(rate):
        return jax.lax.fori_loop(0, 1000, lambda _, w: w - rate * jax.grad(loss)(w), jnp.zeros(3))

    for factor, holds in ((0.99, True), (1.01, False)):
        assert (loss(descend(factor * step)) < 1.001 * least) == holds


def test_a_loss_that_curves_down_allows_any_step():
    def falling(w, x):
        return 3 - w[0] ** 2

    problem = Problem("down", {"u": Condition(identity, lambda x: 0.0, None)}, (jnp.zeros(1), jnp.ones(1)))
    step = curvature.max_learning_rate(problem, falling, jnp.array([0.5]), {"u": jnp.zeros((1, 1))}, key=KEY)
    assert step == float("inf")


CALLS = {
    "matvecs": curvature.matvecs,
    "hessian": curvature.hessian,
    "max_learning_rate": functools.partial(curvature.max_learning_rate, key=KEY),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_bad_parameters_and_points_are_errors(case, call):
    problem, apply, params, points = case
    bad = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    with pytest.raises(ValueError, match=r"params\[0\]\['bias'\] contains NaN or infinity"):
        call(problem, apply, bad, points)
    with pytest.raises(ValueError, match="floating-point arrays"):
        call(problem, apply, {"w": jnp.arange(3)}, points)
    with pytest.raises(ValueError, match=r"must have shape \(n, 1\)"):
        call(problem, apply, params, points | {"boundary": jnp.ones((2, 2))})


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda *a: curvature.matvecs(*a, part="gn"), "`part` must be one of .*'gauss_newton'.*got 'gn'"),
        (lambda *a: curvature.hessian(*a, part="all"), "`part` must be one of"),
        (lambda *a: curvature.hessian(*a, batch_size=0), "`batch_size` must be at least 1"),
        (lambda *a: curvature.matvecs(*a, weights={"boundary": 1.0}), "missing: .*'residual'"),
        (lambda *a: curvature.matvecs(*a, weights={"boundary": 1.0, "residual": -1.0}), "not negative, got -1.0"),
        (lambda *a: curvature.matvecs(*a, weights={"boundary": np.nan, "residual": 1.0}), "must be finite"),
    ],
)
def test_what_does_not_exist_is_an_error(case, wrong, message):
    with pytest.raises(ValueError, match=message):
        wrong(*case)
