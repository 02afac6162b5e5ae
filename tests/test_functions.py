import functools

import jax
import jax.numpy as jnp
import pytest

from pinn_analysis import mlp
from pinn_analysis._functions import as_pytree
from pinn_analysis.networks import linearized


def power(exponent, x):
    return x**exponent if isinstance(exponent, int) else x ** (1 * exponent)  # A whole number decides.


@jax.jit
def evaluate(fn, x):
    return fn(x)


@pytest.fixture(autouse=True)
def nothing_compiled():
    evaluate.clear_cache()


def test_the_same_function_compiles_once():
    assert [float(evaluate(as_pytree(jnp.sin), x)) for x in (0.0, 0.0)] == [0, 0]
    assert evaluate._cache_size() == 1


@pytest.mark.parametrize("kind", [functools.partial, jax.tree_util.Partial])
def test_coefficients_are_data(kind):
    assert [float(evaluate(as_pytree(kind(power, p)), 4.0)) for p in (0.5, 1.5, jnp.asarray(2.0))] == [2, 8, 16]
    assert evaluate._cache_size() <= 2  # A number of Python's, and an array.


def test_arguments_that_decide_what_a_function_does_are_part_of_the_program():
    def repeated(count, mode, x):
        for _ in range(count):
            x = getattr(jnp, mode)(x)
        return x

    assert evaluate(as_pytree(functools.partial(repeated, 2, "square")), 3.0) == 81
    assert evaluate(as_pytree(jax.tree_util.Partial(lambda f, x: f(x), jnp.square)), 3.0) == 9  # A function as a leaf.


def test_two_linearised_networks_are_one_function_with_other_numbers():
    network, x = mlp((2, 3, 1)), jnp.array([0.3, 0.4])
    for seed in (0, 1):
        params = network.init(jax.random.key(seed))
        field = functools.partial(linearized(network, params).apply, params)
        assert evaluate(as_pytree(field), x) == pytest.approx(network.apply(params, x))
    assert evaluate._cache_size() == 1
