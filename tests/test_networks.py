import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from pinn_analysis.networks import mlp, modified_mlp, standardized

ACTIVATIONS = {
    "tanh": np.tanh,
    "erf": scipy.special.erf,
    "sin": np.sin,
    "gelu": lambda z: z * scipy.special.ndtr(z),
}


def forward(params, x, phi, scale, bias):
    """The network once more, in NumPy."""
    for i, layer in enumerate(params):
        x = phi(x) if i else x
        x = scale(len(x)) * np.asarray(layer["weight"]).T @ x + bias * np.asarray(layer["bias"])
    return x


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("parameterization", ["standard", "ntk"])
def test_the_network_computes_its_formula(activation, parameterization, key):
    network = mlp((2, 5, 4, 3), activation, parameterization=parameterization, weight_std=1.5, bias_std=0.5)
    params, x = network.init(key), jnp.array([0.3, -2.0])
    if parameterization == "ntk":
        exact = forward(params, x, ACTIVATIONS[activation], lambda fan_in: 1.5 / np.sqrt(fan_in), 0.5)
    else:  # The scales are in the initial values, not in the layer.
        exact = forward(params, x, ACTIVATIONS[activation], lambda _: 1, 1)
    np.testing.assert_allclose(network.apply(params, x), exact, rtol=1e-12)


@pytest.mark.parametrize(
    "options, weight_std, bias_std",
    [
        ({}, np.sqrt(2 / 500), 0),
        ({"weight_std": 1.5, "bias_std": 0.5}, 1.5 * np.sqrt(2 / 500), 0.5),
        ({"parameterization": "ntk", "weight_std": 1.5, "bias_std": 0.5}, 1, 1),
    ],
)
def test_initial_parameters_have_the_deviations_of_the_table(options, weight_std, bias_std, key):
    layer = mlp((1, 300, 200, 1), **options).init(key)[1]
    assert layer["weight"].shape == (300, 200)
    # 4 deviations of an estimate from 60,000 and from 200 numbers.
    np.testing.assert_allclose(layer["weight"].std(), weight_std, rtol=4 / np.sqrt(2 * 60_000))
    np.testing.assert_allclose(layer["bias"].std(), bias_std, rtol=4 / np.sqrt(2 * 200))
    assert abs(layer["weight"].mean()) < 4 * weight_std / np.sqrt(60_000)


def test_layers_and_keys_draw_different_parameters(key):
    first, second = mlp((4, 4, 4)).init(key)
    assert not jnp.allclose(first["weight"], second["weight"])
    assert not jnp.allclose(first["weight"], mlp((4, 4, 4)).init(jax.random.key(1))[0]["weight"])


@pytest.mark.parametrize("outputs, shape", [(1, ()), (2, (2,))])
def test_one_output_is_a_scalar_and_more_are_a_vector(outputs, shape, key):
    network = mlp((3, 4, outputs))
    assert network.apply(network.init(key), jnp.ones(3)).shape == shape


def test_the_kernel_without_hidden_layers_is_that_of_a_linear_model(key):
    network = mlp((2, 1), parameterization="ntk", weight_std=1.5, bias_std=0.5)
    x = jax.random.normal(key, (4, 2))
    np.testing.assert_allclose(network.kernel_fn(x, x, "ntk"), 1.5**2 * x @ x.T / 2 + 0.5**2, rtol=1e-13)


def test_only_the_ntk_parameterisation_has_a_limit():
    assert mlp((1, 4, 1)).kernel_fn is None and standardized(mlp((1, 4, 1)), np.zeros(1), np.ones(1)).kernel_fn is None
    assert mlp((1, 4, 1), parameterization="ntk").kernel_fn is not None


def test_standardised_inputs_have_mean_zero_and_variance_one(key):
    low, high = jnp.array([-1.0, 2.0]), jnp.array([3.0, 2.5])
    network = standardized(mlp((2, 2)), low, high)
    passed_on = [{"weight": jnp.eye(2), "bias": jnp.zeros(2)}]
    x = jax.random.uniform(key, (4096, 2), minval=low, maxval=high)
    z = jax.vmap(network.apply, (None, 0))(passed_on, x)
    np.testing.assert_allclose(z.mean(0), 0, atol=4 / np.sqrt(4096))  # 4 deviations of the estimates.
    np.testing.assert_allclose(z.var(0), 1, atol=4 * np.sqrt(0.8 / 4096))


def test_the_kernel_sees_the_standardised_inputs_too():
    low, high = np.array([-1.0, 2.0]), np.array([3.0, 2.5])
    x = jnp.array([[0.0, 2.0], [1.0, 2.3]])
    plain = mlp((2, 4, 1), "erf", parameterization="ntk", bias_std=1.0)
    z = (x - jnp.array([[1.0, 2.25]])) / jnp.array([[4.0, 0.5]]) * np.sqrt(12)
    kernel = standardized(plain, low, high).kernel_fn(x, None, "ntk")
    np.testing.assert_allclose(kernel, plain.kernel_fn(z, z, "ntk"), rtol=1e-12)
    assert not np.allclose(kernel, plain.kernel_fn(x, x, "ntk"), rtol=0.01)


@pytest.mark.parametrize(
    "sizes, options, message",
    [
        ((3,), {}, "inputs, hidden widths and outputs"),
        ((1, 0, 1), {}, "all positive"),
        ((1, 4, 1), {"activation": "relu"}, r"one of \['tanh', 'erf', 'sin', 'gelu'\], got 'relu'"),
        ((1, 4, 1), {"parameterization": "NTK"}, '"standard" or "ntk", got \'NTK\''),
        ((1, 4, 1), {"weight_std": 0.0}, "`weight_std` must be positive"),
        ((1, 4, 1), {"bias_std": -1.0}, "`bias_std` not negative"),
    ],
)
def test_a_network_that_cannot_be_is_an_error(sizes, options, message):
    with pytest.raises(ValueError, match=message):
        mlp(sizes, **options)


@pytest.mark.parametrize("network", [mlp((2, 4, 1)), standardized(mlp((2, 4, 1)), np.zeros(2), np.ones(2))])
def test_a_point_of_the_wrong_width_is_an_error(network, key):
    with pytest.raises(ValueError):
        network.apply(network.init(key), jnp.ones(3))


def test_a_box_without_volume_cannot_be_standardised():
    with pytest.raises(ValueError, match="`high` must be above `low`"):
        standardized(mlp((2, 4, 1)), np.zeros(2), np.array([1.0, 0.0]))


def test_the_improved_architecture_computes_its_formula(key):
    network = modified_mlp((2, 5, 5, 1))
    params, x = network.init(key), jnp.array([0.3, -2.0])

    def dense(layer, x):
        return np.asarray(layer["weight"]).T @ x + np.asarray(layer["bias"])

    u, v = (np.tanh(dense(layer, x)) for layer in params["encoders"])
    h = np.asarray(x)
    for layer in params["layers"][:-1]:
        z = np.tanh(dense(layer, h))
        h = z * u + (1 - z) * v
    np.testing.assert_allclose(network.apply(params, x), dense(params["layers"][-1], h)[0], rtol=1e-12)
    assert len(params["layers"]) == 3  # No ungated layer beside those of `sizes`.


@pytest.mark.parametrize("sizes", [(2, 1), (2, 5, 6, 1)])
def test_gates_need_hidden_layers_of_one_width(sizes):
    with pytest.raises(ValueError, match="hidden layers, all of the same width"):
        modified_mlp(sizes)
