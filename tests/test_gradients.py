import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pinn_analysis import gradients, mlp, ntk, problems


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


def test_terms_that_are_not_trained_have_no_gradient(setting):
    problem, apply, params, points = setting
    aside = problem.conditions["boundary"]._replace(trained=False)
    grads = gradients.by_term(
        problem._replace(conditions=problem.conditions | {"boundary": aside}), apply, params, points
    )
    assert list(grads) == ["residual"]


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
    exact = {("a", "a"): 1, ("b", "b"): 1, ("c", "c"): 1, ("a", "b"): 0, ("a", "c"): -1, ("b", "c"): 0}
    for (a, b), cosine in exact.items():  # By name, in either order.
        np.testing.assert_allclose([cosines[a, b], cosines[b, a]], cosine, atol=1e-15)


@pytest.mark.parametrize("limit", [None, 0.02])
def test_histograms_are_those_of_numpy(setting, limit):
    problem, apply, params, points = setting
    gradient = gradients.by_term(problem, apply, params, points)["boundary"]
    density, edges = jax.jit(lambda g: gradients.histogram(g, bins=10, limit=limit))(gradient)
    entries = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)])
    ends = np.abs(entries).max() if limit is None else limit
    counts, expected = np.histogram(entries, 10, (-ends, ends))
    np.testing.assert_allclose(edges, expected, atol=1e-15)
    np.testing.assert_allclose(density, counts / (entries.size * np.diff(expected)), rtol=1e-10)


def test_a_histogram_integrates_to_the_share_of_entries_within_its_limit():
    entries = jnp.array([0.0, 0.1, -0.2, 5.0])
    for limit, share in ((10.0, 1.0), (1.0, 0.75), (0.15, 0.5)):
        density, edges = gradients.histogram([entries], bins=7, limit=limit)
        assert jnp.sum(density * jnp.diff(edges)) == pytest.approx(share)


def test_the_histogram_of_a_gradient_that_is_zero_is_one_peak():
    density, edges = gradients.histogram(jnp.zeros(5), bins=3)
    np.testing.assert_allclose(density * jnp.diff(edges), [0, 1, 0])


def test_the_norm_of_a_gradient_is_a_quadratic_form_of_the_kernel(setting):
    """|∇L_i| = 2/n_i |J_iᵀ r_i|, and K_ii = J_i J_iᵀ: two derivations of one number."""
    problem, apply, params, points = setting
    kernel = ntk.empirical(problem, apply, params, points)
    residuals = problem.residuals(functools.partial(apply, params), points)
    for name, gradient in gradients.by_term(problem, apply, params, points).items():
        r = residuals[name]
        expected = 2 / len(r) * jnp.sqrt(r @ kernel[name, name] @ r)
        np.testing.assert_allclose(gradients.statistics(gradient).norm, expected, rtol=1e-10)


@pytest.mark.parametrize("options, message", [({"bins": 0}, "at least 1"), ({"limit": 0.0}, "must be positive")])
def test_bad_bins_say_what_is_wanted(options, message):
    with pytest.raises(ValueError, match=message):
        gradients.histogram(jnp.ones(3), **options)
