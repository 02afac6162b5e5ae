import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pinn_analysis.operators import identity, laplacian, laplacian_over, linearize, partial, value_and_laplacian

X = jnp.array([0.3, -0.7])
ROUNDING = 1e-13  # A few units in the last place of numbers of order 10.


def wave(x):
    return jnp.sin(2 * x[0]) * jnp.exp(x[1])


def pair(x):
    return jnp.array([wave(x), x[0] ** 2 * x[1] ** 3])


def burgers(u):
    u_x = partial(0)(u)
    return lambda x: u(x) * u_x(x)


def test_identity_is_the_field_itself():
    assert identity(wave) is wave


@pytest.mark.parametrize(
    "axes, factor, phase",
    [((0,), 2, 1), ((1,), 1, 0), ((0, 0), 4, 2), ((0, 1), 2, 1), ((1, 0), 2, 1), ((0, 0, 1, 1, 0), 8, 3)],
)
def test_partial_derivatives_equal_their_closed_form(axes, factor, phase):
    # Every x derivative multiplies by 2 and shifts the sine by a quarter, every y derivative does nothing.
    exact = factor * np.sin(2 * X[0] + phase * np.pi / 2) * np.exp(X[1])
    assert abs(partial(*axes)(wave)(X) - exact) <= ROUNDING


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 0), (1, 0)])
def test_partial_derivatives_equal_central_differences(axes):
    before, axis = (partial(*axes[1:]) if axes[1:] else identity)(wave), axes[0]
    step = 1e-5 * jnp.eye(2)[axis]  # Truncation 1e-10, rounding 1e-16 / 1e-5.
    difference = (before(X + step) - before(X - step)) / 2e-5
    assert abs(partial(*axes)(wave)(X) - difference) <= 1e-9


def test_derivatives_of_a_vector_field_are_those_of_its_components():
    exact = jnp.array([partial(0, 1)(wave)(X), 6 * X[0] * X[1] ** 2])
    np.testing.assert_allclose(partial(0, 1)(pair)(X), exact, rtol=ROUNDING)
    exact = jnp.array([-3 * wave(X), 2 * X[1] ** 3 + 6 * X[0] ** 2 * X[1]])
    np.testing.assert_allclose(laplacian(pair)(X), exact, rtol=ROUNDING)


def test_value_and_laplacian_are_both():
    value, lap = value_and_laplacian(wave)(X)
    np.testing.assert_allclose(value, wave(X), rtol=ROUNDING)
    np.testing.assert_allclose(lap, -3 * wave(X), rtol=ROUNDING)
    assert value_and_laplacian(lambda x: jnp.ones(()))(X) == (1, 0)  # A field that does not look at the point.


@pytest.mark.parametrize("d", [1, 2, 5])
def test_laplacian_of_the_fourth_power_of_the_radius_is_its_closed_form(d):
    x = jnp.linspace(0.2, 1, d)
    exact = 4 * (d + 2) * x @ x
    assert abs(laplacian(lambda y: (y @ y) ** 2)(x) - exact) <= ROUNDING * exact


def test_operators_keep_the_precision_of_the_point():
    x = X.astype(jnp.float32)
    assert partial(0, 1)(wave)(x).dtype == laplacian(wave)(x).dtype == jnp.float32
    assert linearize(burgers, wave)(wave)(x).dtype == jnp.float32


@pytest.mark.parametrize("axis", [-1, 2, 7])
def test_an_axis_that_the_point_does_not_have_is_an_error(axis):
    with pytest.raises(ValueError, match=r"partial\(.*of a field of 2 variables: axes are 0 to 1"):
        partial(0, axis)(wave)(X)


def test_a_derivative_along_no_axis_is_an_error():
    with pytest.raises(ValueError, match="identity"):
        partial()


def test_gateaux_derivative_of_a_quadratic_operator_is_its_central_difference():
    def moved(epsilon):
        return burgers(lambda y: wave(y) + epsilon * pair(y)[1])(X)

    derivative = linearize(burgers, wave)(lambda y: pair(y)[1])(X)
    assert abs(derivative - (moved(0.5) - moved(-0.5))) <= ROUNDING  # Exact at any step for degree 2,
    assert abs(derivative - (moved(0.5) - moved(0.0)) / 0.5) > 1e-3  # which a one-sided difference is not.


def test_what_linearisation_leaves_out_is_of_second_order():
    def operator(u):
        return lambda x: u(x) ** 3 + jnp.sin(partial(0)(u)(x))

    def direction(y):
        return jnp.cos(y[0] + 2 * y[1])

    steps = 2.0 ** -np.arange(4, 10)
    linear = operator(wave)(X), linearize(operator, wave)(direction)(X)
    rest = [abs(operator(lambda y, e=e: wave(y) + e * direction(y))(X) - linear[0] - e * linear[1]) for e in steps]
    order = np.polyfit(np.log(steps), np.log(rest), 1)[0]
    assert abs(order - 2) < 0.1, f"order {order:.2f}"


@pytest.mark.parametrize("operator", [identity, partial(0, 1), laplacian])
def test_a_linear_operator_is_its_own_linearisation_at_any_field(operator):
    at_wave, at_zero = (linearize(operator, field) for field in (pair, lambda x: jnp.zeros(2)))
    np.testing.assert_allclose(at_wave(pair)(X), operator(pair)(X), rtol=ROUNDING)
    np.testing.assert_allclose(at_zero(pair)(X), operator(pair)(X), rtol=ROUNDING)


def test_operators_act_under_jit_and_vmap():
    x = jax.random.normal(jax.random.key(1), (4, 2))
    np.testing.assert_allclose(jax.jit(jax.vmap(laplacian(wave)))(x), -3 * jax.vmap(wave)(x), rtol=ROUNDING)


def test_the_laplacian_over_some_axes_leaves_out_the_others():
    def u(x):
        return jnp.sin(2 * x[0]) * x[1] ** 3 * jnp.exp(x[2])

    x = jnp.array([0.3, 0.7, -0.2])
    in_space = -4 * u(x) + 6 * jnp.sin(2 * x[0]) * x[1] * jnp.exp(x[2])
    assert jnp.isclose(laplacian_over(0, 1)(u)(x), in_space, rtol=1e-13)
    assert not jnp.isclose(laplacian(u)(x), in_space, rtol=0.1)
    assert jnp.isclose(laplacian_over(0, 1, 2)(u)(x), laplacian(u)(x), rtol=1e-13)
    for axes, message in (((), "at least one"), ((0, 0), "different axes"), ((3,), "axes are 0 to 2")):
        with pytest.raises(ValueError, match=message):
            laplacian_over(*axes)(u)(x)
