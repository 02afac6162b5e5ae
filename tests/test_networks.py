import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from jax.flatten_util import ravel_pytree

from pinn_analysis import ntk, problems
from pinn_analysis.networks import constrained, fourier_mlp, mlp, modified_mlp, standardized
from pinn_analysis.problems import poisson_1d

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


def test_a_constrained_network_meets_its_condition_whatever_its_parameters(key):
    bent = constrained(mlp((1, 8, 1)), lambda x: x[0] * (1 - x[0]), lambda x: 2.0 + x[0])
    params = jax.tree.map(lambda leaf: 7 * leaf, bent.init(key))
    u = jax.vmap(bent.apply, (None, 0))(params, jnp.array([[0.0], [0.4], [1.0]]))
    assert u[0] == 2.0 and u[2] == 3.0 and u[1] != 2.4


def test_the_kernel_of_a_constrained_network_is_that_of_the_operator_acting_on_the_product():
    """Independent: the factor goes into the operator, and the network stays as it is."""
    plain = mlp((1, 16, 1), parameterization="ntk", bias_std=1.0)
    D = lambda x: jnp.tanh(3 * x[0]) * (1 - x[0])
    problem = problems.poisson_1d(1)
    inside = problem.conditions["residual"]
    outside = inside._replace(operator=lambda u: inside.operator(lambda x: D(x) * u(x)))
    points = {"boundary": jnp.array([[0.0], [1.0]]), "residual": jnp.linspace(0, 1, 7)[:, None]}
    kernel = ntk.infinite(problem, constrained(plain, D).kernel_fn, points)
    product = ntk.infinite(problem.replaced(residual=outside), plain.kernel_fn, points)
    np.testing.assert_allclose(kernel["residual", "residual"], product["residual", "residual"], rtol=1e-9)
    assert not kernel["boundary", "boundary"].any() and not kernel["residual", "boundary"].any()


def test_a_factor_or_an_offset_of_another_shape_is_an_error(key):
    network = mlp((1, 4, 1))
    for bad in (constrained(network, lambda x: x), constrained(network, lambda x: x[0], lambda x: x)):
        with pytest.raises(ValueError, match="`factor` must give a number"):
            bad.apply(network.init(key), jnp.ones(1))


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


@pytest.mark.parametrize("scales", [(0.5,), (1.0, 10.0)])
def test_fourier_features_compute_their_formula(scales, key):
    network = fourier_mlp((2, 6, 4, 1), scales, key=jax.random.key(3))
    params, x = network.init(key), jnp.array([0.3, -2.0])
    draws = np.asarray(jax.random.normal(jax.random.key(3), (len(scales), 3, 2)))

    branches = []
    for scale, b in zip(scales, draws, strict=True):
        angles = [2 * np.pi * scale * sum(b[i, j] * float(x[j]) for j in range(2)) for i in range(3)]
        h = np.array([np.cos(a) for a in angles] + [np.sin(a) for a in angles])
        for layer in params["hidden"]:  # The same for every scale.
            h = np.tanh(np.asarray(layer["weight"]).T @ h + np.asarray(layer["bias"]))
        branches.append(h)
    (last,) = params["last"]
    exact = np.asarray(last["weight"]).T @ np.concatenate(branches) + np.asarray(last["bias"])
    np.testing.assert_allclose(network.apply(params, x), exact[0], rtol=1e-12)
    assert [layer["weight"].shape for layer in params["hidden"]] == [(6, 6), (6, 4)]
    assert last["weight"].shape == (4 * len(scales), 1)


def test_the_features_have_the_deviation_of_their_scale(key):
    # With 1,000 frequencies, the mean of cos(2πBx) is its expectation, exp(-(2πσx)²/2), within 4 deviations.
    wide, x = 2000, 0.2
    for scale in (0.5, 1.0):
        network = fourier_mlp((1, wide, 1), (scale,), activation=lambda z: z)
        eye, zero = jnp.eye(wide), jnp.zeros(wide)
        mean = jnp.where(jnp.arange(wide) < wide // 2, 2 / wide, 0.0)[:, None]
        params = {"hidden": [{"weight": eye, "bias": zero}], "last": [{"weight": mean, "bias": jnp.zeros(1)}]}
        value = network.apply(params, jnp.array([x]))
        np.testing.assert_allclose(value, np.exp(-((2 * np.pi * scale * x) ** 2) / 2), atol=4 / np.sqrt(wide))


def test_frozen_features_are_no_parameters_and_no_part_of_the_kernel(key):
    network = fourier_mlp((1, 6, 5, 1), (1.0, 3.0))
    params = network.init(key)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 6 * 6 + 6 + 6 * 5 + 5 + 2 * 5 + 1
    problem = poisson_1d()
    points = {"boundary": jnp.array([[0.0], [1.0]]), "residual": jnp.linspace(0.1, 0.9, 5)[:, None]}
    kernel = ntk.empirical(problem, network.apply, params, points)

    flat, unravel = ravel_pytree(params)
    u = jax.vmap(lambda flat: jnp.stack([network.apply(unravel(flat), x) for x in points["boundary"]]))
    step = 1e-6 * jnp.eye(flat.size)
    rows = ((u(flat + step) - u(flat - step)) / 2e-6).T  # Central differences over all of `params`.
    np.testing.assert_allclose(kernel["boundary", "boundary"], rows @ rows.T, rtol=1e-7)


def test_the_features_follow_their_own_key_and_not_that_of_the_weights(key):
    x = jnp.array([0.3])
    params = fourier_mlp((1, 6, 1)).init(key)
    values = [fourier_mlp((1, 6, 1), key=jax.random.key(k)).apply(params, x) for k in (0, 0, 1)]
    assert values[0] == values[1] != values[2] and values[0] == fourier_mlp((1, 6, 1)).apply(params, x)


@pytest.mark.parametrize("outputs, shape", [(1, ()), (3, (3,))])
def test_fourier_networks_have_scalar_and_vector_outputs(outputs, shape, key):
    network = fourier_mlp((2, 4, outputs))
    assert network.apply(network.init(key), jnp.ones(2)).shape == shape and network.kernel_fn is None


@pytest.mark.parametrize(
    "sizes, options, message",
    [
        ((1, 1), {}, "first hidden layer of even width"),
        ((1, 5, 1), {}, "first hidden layer of even width"),
        ((1, 4, 1), {"scales": ()}, "`scales` needs positive numbers"),
        ((1, 4, 1), {"scales": (1.0, -1.0)}, "`scales` needs positive numbers"),
        ((1, 4, 1), {"scales": (np.inf,)}, "`scales` needs positive numbers"),
        ((0, 4, 1), {}, "needs inputs"),
        ((1, 0, 1), {}, "all positive"),
        ((1, 4, 1), {"activation": "relu"}, "got 'relu'"),
    ],
)
def test_a_fourier_network_that_cannot_be_is_an_error(sizes, options, message):
    with pytest.raises(ValueError, match=message):
        fourier_mlp(sizes, **options)
