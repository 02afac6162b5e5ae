import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pinn_analysis.problems import poisson_1d
from pinn_analysis.weighting import fixed


def weights_of(rule, problem):
    state = rule.init(problem)
    weights, after = rule.update(state, problem, lambda params, x: x[0], {}, {})
    assert jax.tree.map(float, after) == jax.tree.map(float, state)
    return {name: float(weight) for name, weight in weights.items()}


def test_weights_are_what_was_given_and_1_if_nothing_was():
    assert weights_of(fixed(), poisson_1d()) == {"boundary": 1, "residual": 1}
    given = fixed(residual=0, boundary=jnp.asarray(2.5))  # Zero switches a term off.
    assert weights_of(given, poisson_1d()) == {"boundary": 2.5, "residual": 0}


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf, -np.inf])
def test_a_weight_that_is_negative_or_not_finite_is_an_error(bad):
    with pytest.raises(ValueError, match=f"finite and not negative, got {bad} for 'boundary'"):
        fixed(boundary=bad, residual=1.0)


@pytest.mark.parametrize(
    "weights, message",
    [
        ({"boundary": 1.0}, r"missing: \['residual'\]"),
        ({"boundary": 1, "residual": 1, "bulk": 1}, r"unknown: \['bulk'\]"),
    ],
)
def test_names_that_are_not_those_of_the_conditions_are_an_error(weights, message):
    with pytest.raises(ValueError, match="`weights` must name the conditions of 'poisson_1d'.*" + message):
        fixed(**weights).init(poisson_1d())
