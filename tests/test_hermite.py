"""The Hermite series against closed forms and quadrature, and where there is none."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pinn_analysis import _hermite
from pinn_analysis.networks import mlp


def series(fn, variance=4.0, length=None):
    """``E[fn fn]`` and ``E[fn' fn']`` (Price's theorem) as functions of three numbers."""
    length = length or _hermite.series(fn, variance, 4)

    def table(c, v1, v2):
        a1, a2 = (_hermite.coefficients(fn, length, jnp.array([float(v)]), 0)[0] for v in (v1, v2))
        return _hermite.sums(length, a1, a2, jnp.array([[c / np.sqrt(v1 * v2)]]))[:, 0, 0]

    keys = _hermite.keys(0, 0, more=1)
    return (
        lambda *cov: table(*cov)[keys.index((0, 0, 0))],
        lambda c, v1, v2: table(c, v1, v2)[keys.index((1, 0, 0))] / np.sqrt(v1 * v2),
    )


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
def test_the_kernel_of_erf_has_the_derivatives_of_its_closed_form(x, y):
    kernel_fn = mlp((1, 8, 1), "erf", parameterization="ntk", bias_std=1.0).kernel_fn

    def fourth(value):
        return jax.grad(jax.grad(jax.grad(jax.grad(value, 1), 1)))(x, y)

    ours = lambda x, y: kernel_fn(x[None, None], y[None, None], "nngp")[0, 0] - 1
    exact = lambda x, y: arcsine(1 + x * y, 1 + x * x, 1 + y * y)
    x, y = jnp.asarray(x), jnp.asarray(y)
    np.testing.assert_allclose(ours(x, y), exact(x, y), rtol=4e-15)
    np.testing.assert_allclose(fourth(ours), fourth(exact), rtol=1e-11)


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


def test_the_series_of_a_cube_is_wick_s_formula():
    value, derivative = series(lambda z: z**3)
    c, v1, v2 = 0.5, 1.0, 2.0
    np.testing.assert_allclose(value(c, v1, v2), 9 * v1 * v2 * c + 6 * c**3, rtol=1e-13)
    np.testing.assert_allclose(derivative(c, v1, v2), 9 * (v1 * v2 + 2 * c**2), rtol=1e-13)


@pytest.mark.parametrize(
    "fn", [jax.nn.relu, jnp.abs, jnp.sign, lambda z: jnp.tanh(300 * z)], ids=["relu", "abs", "sign", "steep"]
)
def test_a_kinked_or_very_steep_activation_has_no_series(fn):
    assert _hermite.series(fn, 1.0, 0) is None


def test_series_are_as_long_as_the_variance_and_the_derivatives_ask():
    length = lambda variance, derivatives: _hermite.series(jnp.tanh, variance, derivatives).terms
    assert length(1.0, 4) < length(4.0, 4) < length(16.0, 4) and length(4.0, 0) < length(4.0, 4) < length(4.0, 8)
    value = series(jnp.tanh, 16.0)[0]
    np.testing.assert_allclose(value(16.0, 16.0, 16.0), quadrature(np.tanh, 16.0, 16.0, 16.0, n=1000), rtol=1e-12)


def test_the_error_for_tanh_falls_exponentially_in_the_root_of_the_order():
    orders, v = np.array([100, 160, 220]), 8.0  # Its poles are at ±iπ/2, so the rate is π / √v.
    exact = quadrature(np.tanh, v, v, v)
    cut_off = [_hermite.Series(int(order), first=1, step=2) for order in orders]
    errors = [abs(series(jnp.tanh, length=length)[0](v, v, v) - exact) for length in cut_off]
    rate = -np.polyfit(np.sqrt(orders), np.log(errors), 1)[0]
    assert abs(rate - np.pi / np.sqrt(v)) < 0.05, f"rate {rate:.2f}, errors {errors}"


def test_a_small_share_that_derivatives_hang_on_is_right_or_refused():
    """``z + ε sin z``: only the sine has a fifth derivative in ρ, ``ε² e^{-v} v⁵ cosh(ρ v)``."""
    v, seen = 0.25, []
    for epsilon in (1.0, 1e-3, 1e-5, 1e-6, 1e-7):
        fn = lambda z, e=epsilon: z + e * jnp.sin(z)
        length = _hermite.series(fn, v, 4)
        seen.append(length is not None and length.terms > 10)
        if seen[-1]:
            a = _hermite.coefficients(fn, length, jnp.array([v]), 2)[0]
            fifth = _hermite.sums(length, a, a, jnp.ones((1, 1)))[_hermite.keys(2, 2, more=1).index((5, 0, 0)), 0, 0]
            exact = epsilon**2 * np.exp(-v) * v**5 * np.cosh(v) / 120
            np.testing.assert_allclose(fifth, exact, rtol=_hermite.NOISE)
    assert seen[0] and not seen[-1], seen


def test_a_series_is_no_longer_than_it_must_be():
    fn, v = jnp.tanh, 2.0
    length = _hermite.series(fn, v, 4)
    place = _hermite.keys(2, 2, more=1).index((5, 0, 0))

    def fifth(terms):
        cut = length._replace(terms=terms)
        a = _hermite.coefficients(fn, cut, jnp.array([v]), 2)[0]
        return float(_hermite.sums(cut, a, a, jnp.ones((1, 1)))[place, 0, 0])

    exact = fifth(2 * length.terms)
    assert abs(fifth(length.terms) / exact - 1) <= 2 * _hermite.TAIL < abs(fifth(length.terms * 3 // 4) / exact - 1)


def test_what_the_nodes_miss_is_refused():
    narrow = lambda z: jnp.tanh(z) + jnp.exp(-(((z - 1) * 300) ** 2))  # Its width is a tenth of their distance.
    assert _hermite.series(jnp.tanh, 1.0, 4) is not None and _hermite.series(narrow, 1.0, 4) is None
