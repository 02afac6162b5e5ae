"""neural-tangents on current JAX: harmless to JAX, and exact."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.flatten_util import ravel_pytree

from pinn_analysis import _neural_tangents, networks
from pinn_analysis.operators import partial

nt = _neural_tangents.load()


def python(script):
    """What a fresh interpreter prints, warnings being errors there too."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_loading_leaves_jax_and_scipy_untouched_even_after_an_import_that_failed():
    assert "fine" in python("""
import sys, types
import jax, scipy.linalg
import pinn_analysis

try:  # Without our help it cannot be imported, and leaves half of itself behind.
    import neural_tangents
except Exception:
    pass
leftovers = [name for name in sys.modules if name.startswith("neural_tangents")]

def belongs(name):
    return name.split(".")[0] in ("jax", "scipy")

watched = [name for name in sys.modules if belongs(name) or name.startswith("jaxlib")]
modules = {name: sys.modules[name] for name in watched}
attributes = {name: {key: id(value) for key, value in vars(sys.modules[name]).items()}
              for name in watched if name in ("jax", "jax.core", "jax.interpreters", "jax.interpreters.ad", "jax.util",
                                              "jax.numpy", "jax.extend.core", "scipy", "scipy.linalg")}
assert {"jax", "jax.core", "jax.interpreters.ad", "scipy.linalg"} <= set(attributes)
assert leftovers

nt = pinn_analysis._neural_tangents.load()

for name, module in modules.items():
    assert sys.modules[name] is module, name
for name, before in attributes.items():
    assert {key: id(value) for key, value in vars(sys.modules[name]).items()} == before, name
for name, module in list(sys.modules.items()):
    assert not isinstance(module, pinn_analysis._neural_tangents._Facade), name
assert "tensorflow" not in sys.modules
assert nt is sys.modules["neural_tangents"] is pinn_analysis._neural_tangents.load()
assert nt.stax.serial(nt.stax.Dense(1))[2](jax.numpy.eye(2), None, "ntk").shape == (2, 2)
print("fine")
""")


def test_training_and_series_need_no_neural_tangents_and_what_does_says_how_to_install_it():
    assert "fine" in python("""
import sys

class Without:  # A finder that finds what `finder` does, but for neural-tangents.
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] == "neural_tangents" else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import jax
jax.config.update("jax_enable_x64", True)
import pinn_analysis as pa

problem = pa.problems.poisson_1d()
network = pa.mlp((1, 4, 1), parameterization="ntk", bias_std=1.0)
run = pa.train(problem, network, key=jax.random.key(0), steps=2, batch_size=4, progress=False)
points = problem.sample(jax.random.key(1), 4)
pa.ntk.empirical(problem, network.apply, run.params, points)
pa.ntk.infinite(problem, network.kernel_fn, points)
steep = pa.mlp((1, 4, 1), "sin", parameterization="ntk", weight_std=1000.0)  # No series reaches: its closed form.

try:
    pa.ntk.infinite(problem, steep.kernel_fn, points)
except ModuleNotFoundError as error:
    assert "pip install --no-deps neural-tangents==0.6.5" in str(error), error
else:
    raise AssertionError("no error")
sys.modules["neural_tangents"] = None  # Another way to say that it is not there.
try:
    pa._neural_tangents.load()
except ModuleNotFoundError:
    print("fine")
""")


# Exactness: everything it offers, against something that is not it.

NETWORK = networks.mlp((2, 6, 2), bias_std=0.5)
PARAMS = NETWORK.init(jax.random.key(0))
X1, X2 = jax.random.normal(jax.random.key(1), (3, 2)), jax.random.normal(jax.random.key(2), (4, 2))


def network(params, x):
    return jax.vmap(NETWORK.apply, (None, 0))(params, x)


def convection(params, x):
    def u(y):
        return NETWORK.apply(params, y)

    return jax.vmap(lambda y: u(y) * partial(0)(u)(y))(x)


@pytest.mark.parametrize("implementation", nt.NtkImplementation, ids=lambda i: i.name.lower())
@pytest.mark.parametrize("f", [network, convection])
def test_empirical_kernels_are_the_product_of_jacobians(f, implementation):
    flat, unravel = ravel_pytree(PARAMS)
    j1, j2 = (jax.jacrev(lambda p, x=x: f(unravel(p), x))(flat) for x in (X1, X2))
    exact = jnp.einsum("nap,mbp->nmab", j1, j2)
    kernel = nt.empirical_ntk_fn(f, trace_axes=(), vmap_axes=0, implementation=implementation)(X1, X2, PARAMS)
    assert jnp.abs(kernel - exact).max() <= 1e-13 * jnp.abs(exact).max()


@pytest.mark.parametrize("activation", ["Relu", "Erf"])
def test_closed_form_kernels_are_the_mean_over_many_networks(activation):
    stax, width, samples = nt.stax, 256, 128
    layers = [stax.Dense(width, b_std=0.5), getattr(stax, activation)(), stax.Dense(1, b_std=0.5)]
    init_fn, apply_fn, kernel_fn = stax.serial(*layers)
    monte_carlo = nt.monte_carlo_kernel_fn(init_fn, apply_fn, jax.random.key(0), samples, vmap_axes=0)
    for get in ("nngp", "ntk"):
        exact, sampled = kernel_fn(X1, None, get), monte_carlo(X1, None, get)
        # Neurons are independent: 1/√32,768 = 0.6 % of the kernel's size, times 4; its NNGP has
        # only one output a network: 1/√128 = 9 %, times 4.
        tolerance = 4 / np.sqrt(samples * (width if get == "ntk" else 1))
        assert jnp.abs(sampled - exact).max() <= tolerance * jnp.abs(exact).max(), get


def test_its_prediction_of_gradient_descent_is_the_matrix_exponential():
    kernel = network(PARAMS, X2)[:, :1] * network(PARAMS, X2)[:, :1].T + jnp.eye(4)
    y, f0, rate, t = jnp.arange(4.0)[:, None], jnp.ones((4, 1)), 0.5, 3.0
    predict = nt.predict.gradient_descent_mse(kernel, y, learning_rate=rate)
    decay = scipy.linalg.expm(-rate * t * np.asarray(kernel) / 4)  # The loss is half a mean over 4 points.
    np.testing.assert_allclose(predict(t, f0, None, None), y + decay @ (f0 - y), rtol=1e-12)


def test_its_expansions_of_a_cubic_are_exact_from_degree_three():
    def cubic(w, x):
        return (x @ w) ** 3 + x @ w

    w0, w = jnp.array([0.3, -0.5]), jnp.array([1.0, 2.0])
    a, b = X2 @ w0, X2 @ (w - w0)
    linear = a**3 + a + (3 * a**2 + 1) * b
    np.testing.assert_allclose(nt.linearize(cubic, w0)(w, X2), linear, rtol=1e-12)
    np.testing.assert_allclose(nt.taylor_expand(cubic, w0, 1)(w, X2), linear, rtol=1e-12)
    np.testing.assert_allclose(nt.taylor_expand(cubic, w0, 2)(w, X2), linear + 3 * a * b**2, rtol=1e-12)
    np.testing.assert_allclose(nt.taylor_expand(cubic, w0, 3)(w, X2), cubic(w, X2), rtol=1e-12)
