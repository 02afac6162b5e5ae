"""The Hermite series against closed forms, quadrature, Price's theorem, and its own rate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pinn_analysis._hermite import TERMS, expectations


def series(fn, **options):
    """``E[fn fn]`` and ``E[fn' fn']`` as functions of three numbers."""
    return [lambda *cov, f=f: f(*map(jnp.asarray, cov)) for f in expectations(fn, **options)]


def arcsine(c, v1, v2):
    """``E[erf(u) erf(v)]``."""
    return 2 / jnp.pi * jnp.arcsin(2 * c / jnp.sqrt((1 + 2 * v1) * (1 + 2 * v2)))


def quadrature(f, c, v1, v2, n=400):
    """``E[f(u) f(v)]`` by the trapezoidal rule in two dimensions."""
    z = np.linspace(-9, 9, n)
    w = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    u, v = np.sqrt(v1) * z[:, None], c / np.sqrt(v1) * z[:, None] + np.sqrt(max(v2 - c**2 / v1, 0)) * z
    return w @ (f(u) * f(v)) @ w


@pytest.mark.parametrize("x, y", [(0.3, 0.7), (0.5, 0.5)])
def test_the_series_of_erf_has_the_derivatives_of_its_closed_form(x, y):
    def value(expectation):
        return lambda x, y: expectation(1 + x * y, 1 + x * x, 1 + y * y)

    def fourth(expectation):
        return jax.grad(jax.grad(jax.grad(jax.grad(value(expectation), 1), 1)))(x, y)

    ours = series(jax.scipy.special.erf)[0]
    np.testing.assert_allclose(value(ours)(x, y), value(arcsine)(x, y), rtol=4e-15)
    # Four derivatives multiply the k-th term, and its rounding, by up to k⁴: here by some 10³.
    np.testing.assert_allclose(fourth(ours), fourth(arcsine), rtol=1e-11)


@pytest.mark.parametrize(
    "fn, slope",
    [
        (jnp.tanh, lambda z: 1 / np.cosh(z) ** 2),  # Odd, its derivative even: half of the terms each.
        (jax.nn.softplus, lambda z: 1 / (1 + np.exp(-z))),  # Neither.
        (jnp.cos, lambda z: -np.sin(z)),
    ],
    ids=["tanh", "softplus", "cos"],
)
def test_series_equal_quadratures(fn, slope):
    value, derivative = series(fn)
    for cov in (0.7, 1.0, 2.0), (1.5, 1.5, 1.5), (-0.4, 0.3, 0.9):  # Both are exact for such variances.
        np.testing.assert_allclose(value(*cov), quadrature(lambda z: np.asarray(fn(z)), *cov), rtol=1e-12)
        np.testing.assert_allclose(derivative(*cov), quadrature(slope, *cov), rtol=1e-12)


def test_the_slope_in_the_covariance_is_the_expectation_of_the_derivative():
    value, derivative = series(jnp.tanh)
    for c in (0.2, 1.0):  # Price's theorem, on the diagonal too.
        np.testing.assert_allclose(jax.grad(value)(c, 1.0, 1.0), derivative(c, 1.0, 1.0), rtol=1e-12)


def test_the_series_of_a_cube_is_wick_s_formula():
    value, derivative = series(lambda z: z**3)
    c, v1, v2 = 0.5, 1.0, 2.0
    np.testing.assert_allclose(value(c, v1, v2), 9 * v1 * v2 * c + 6 * c**3, rtol=1e-13)
    np.testing.assert_allclose(derivative(c, v1, v2), 9 * (v1 * v2 + 2 * c**2), rtol=1e-13)


def test_the_error_for_tanh_falls_exponentially_in_the_root_of_the_order():
    orders, v = np.array([100, 160, 220]), 8.0  # Its poles are at ±iπ/2, so the rate is π / √v.
    exact = quadrature(np.tanh, v, v, v)
    errors = [abs(series(jnp.tanh, variance=order / TERMS)[0](v, v, v) - exact) for order in orders]
    rate = -np.polyfit(np.sqrt(orders), np.log(errors), 1)[0]
    assert abs(rate - np.pi / np.sqrt(v)) < 0.05, f"rate {rate:.2f}, errors {errors}"
