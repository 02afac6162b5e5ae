import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pinn_analysis import gradients, mlp, problems


@pytest.fixture(scope="module")
def setting():
    problem, network = problems.poisson_1d(4), mlp((1, 8, 8, 1))
    params = network.init(jax.random.key(0))
    points = problem.sample(jax.random.key(1), {"boundary": 2, "residual": 9})
    return problem, network.apply, params, points


def test_gradients_of_all_terms_at_once_are_those_one_by_one(setting):
    problem, apply, params, points = setting
    together = gradients.by_term(problem, apply, params, points)
    for name in problem.conditions:
        alone = jax.grad(lambda p, name=name: problem.losses(functools.partial(apply, p), points)[name])(params)
        for a, b in zip(jax.tree.leaves(together[name]), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_layers_are_named_and_complete(setting):
    problem, apply, params, points = setting
    layers = gradients.by_layer(gradients.by_term(problem, apply, params, points)["residual"])
    assert list(layers)[:2] == ["[0]['bias']", "[0]['weight']"]
    assert sum(entries.size for entries in layers.values()) == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_statistics_are_of_absolute_values():
    stats = gradients.statistics([jnp.array([3.0, -4.0]), jnp.zeros((1, 2))])
    assert (stats.max, stats.mean, stats.norm) == (4.0, 7 / 4, 5.0)


def test_cosines_of_known_angles():
    cosines = gradients.cosines(
        {"a": [jnp.array([1.0, 0.0])], "b": [jnp.array([0.0, 2.0])], "c": [jnp.array([-3.0, 0.0])]}
    )
    np.testing.assert_allclose(cosines, [[1, 0, -1], [0, 1, 0], [-1, 0, 1]], atol=1e-15)
