import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pinn_analysis.networks import mlp, standardized
from pinn_analysis.problems import poisson_1d
from pinn_analysis.training import DivergedError, train
from pinn_analysis.weighting import fixed, ntk_trace

PROBLEM, NETWORK = poisson_1d(a=1), mlp((1, 8, 1))
POINTS = {"boundary": jnp.array([[0.0], [1.0]]), "residual": jnp.linspace(0, 1, 7)[:, None]}
short = functools.partial(train, PROBLEM, NETWORK, batch_size=4, record_every=10, progress=False)


def assert_close(a, b, rtol):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=rtol), a, b)


def test_training_finds_the_solution(key, capsys):
    network = standardized(mlp((1, 16, 16, 1)), *PROBLEM.domain)
    run = train(PROBLEM, network, key=key, steps=400, batch_size=16, optimizer=optax.adam(1e-2), progress=False)
    assert run.history["step"].tolist() == [0, 100, 200, 300, 400]
    assert run.history["error"][0] > 0.5 and run.history["error"][-1] < 0.05
    assert run.history["loss/residual"][-1] < 1e-3 * run.history["loss/residual"][0]
    x = jnp.linspace(0, 1, 1000)[:, None]  # The error is the one of the parameters that are returned.
    u, exact = jax.vmap(network.apply, (None, 0))(run.params, x), np.sin(np.pi * x[:, 0])
    np.testing.assert_allclose(run.history["error"][-1], np.linalg.norm(u - exact) / np.linalg.norm(exact), rtol=1e-9)
    assert capsys.readouterr() == ("", "")


def test_plain_descent_on_fixed_points_is_a_plain_loop(key):
    weights, rate, params = {"boundary": 3.0, "residual": 0.1}, 1e-2, NETWORK.init(jax.random.key(1))
    run = short(key=key, steps=25, points=POINTS, optimizer=optax.sgd(rate), weighting=fixed(**weights), params=params)

    @jax.jit
    def losses(params):
        def u(x):
            return NETWORK.apply(params, jnp.array([x]))

        x = POINTS["residual"][:, 0]
        r = jax.vmap(jax.grad(jax.grad(u)))(x) + jnp.pi**2 * jnp.sin(jnp.pi * x)
        return {"boundary": (u(0.0) ** 2 + u(1.0) ** 2) / 2, "residual": jnp.mean(r**2)}

    gradient = jax.jit(jax.grad(lambda params: sum(weights[name] * value for name, value in losses(params).items())))
    expected = []
    for step in range(26):
        expected.append(losses(params))
        if step < 25:
            params = jax.tree.map(lambda p, g: p - rate * g, params, gradient(params))
    assert_close(run.params, params, 1e-12)  # Rounding, over 25 steps.
    assert run.history["step"].tolist() == [0, 10, 20, 25]
    for name in POINTS:
        losses_then = [expected[k][name] for k in (0, 10, 20, 25)]
        np.testing.assert_allclose(run.history[f"loss/{name}"], losses_then, rtol=1e-10)
        assert run.weights[name] == weights[name] and (run.history[f"weight/{name}"] == weights[name]).all()


def test_seeds_side_by_side_are_seeds_one_by_one(key):
    keys = jax.random.split(key, 2)
    together = short(key=keys, steps=20)
    assert together.history["loss/residual"].shape == (2, 3) and together.weights["boundary"].shape == (2,)
    for i, one in enumerate(keys):
        alone = short(key=one, steps=20)
        assert_close(jax.tree.map(lambda x, i=i: x[i], together.params), alone.params, 1e-10)  # Rounding.
        assert_close(together.history["error"][i], alone.history["error"], 1e-10)
    assert abs(together.history["error"][0] - together.history["error"][1]).max() > 1e-3


def test_a_key_determines_the_run_whether_old_or_new(key):
    first, again = short(key=key, steps=12), short(key=jax.random.PRNGKey(0), steps=12)
    jax.tree.map(np.testing.assert_array_equal, first.params, again.params)
    assert first.history["step"].tolist() == [0, 10, 12]
    other = short(key=jax.random.key(1), steps=12)
    assert abs(first.history["loss/residual"][0] - other.history["loss/residual"][0]) > 1e-6


def test_every_step_draws_fresh_points(key):
    frozen = short(key=key, steps=4, record_every=1, optimizer=optax.sgd(0.0))
    assert len(set(frozen.history["loss/residual"].tolist())) == 5  # Of parameters that do not move.
    fixed_points = short(key=key, steps=4, record_every=1, optimizer=optax.sgd(0.0), points=POINTS)
    assert len(set(fixed_points.history["loss/residual"].tolist())) == 1


def test_given_parameters_are_where_all_seeds_start(key):
    params = NETWORK.init(jax.random.key(5))
    run = short(key=jax.random.split(key, 2), steps=1, params=params, optimizer=optax.sgd(0.0))
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.stack([b, b])), run.params, params)


def test_a_run_that_diverges_says_so_and_keeps_its_history(key):
    with pytest.raises(DivergedError, match="'poisson_1d' diverged by step .* not finite.*max_learning_rate") as caught:
        short(key=key, steps=1000, optimizer=optax.sgd(10.0))
    history = caught.value.run.history
    assert history["step"][0] == 0 and len(history["step"]) < 100
    assert np.isfinite(history["loss/residual"][0]) and not np.isfinite(history["loss/residual"][-1])
    assert isinstance(caught.value, FloatingPointError)


def test_a_term_that_no_parameter_can_change_stops_weights_from_its_trace(key):
    boundary = PROBLEM.conditions["boundary"]._replace(operator=lambda u: lambda x: x[0])
    silent = PROBLEM._replace(conditions=PROBLEM.conditions | {"boundary": boundary})
    with pytest.raises(DivergedError, match="weight/boundary not finite.*can any parameter change this") as caught:
        train(silent, NETWORK, key=key, steps=4, batch_size=4, weighting=ntk_trace(), progress=False)
    assert np.isfinite(caught.value.run.history["loss/residual"]).all()


def test_a_problem_without_a_solution_has_no_error_in_its_history(key):
    run = train(PROBLEM._replace(solution=None), NETWORK, key=key, steps=1, batch_size=4, progress=False)
    kinds = {name.split("/")[0] for name in run.history}
    assert kinds == {"step", "loss", "weight", "gradient_max", "gradient_mean", "gradient_norm"}


def test_gradient_statistics_are_those_of_the_unweighted_losses_at_that_step(key):
    weighting = fixed(boundary=7.0, residual=2.0)
    run = short(key=key, steps=10, points=POINTS, weighting=weighting)
    gradient = jax.grad(lambda p: PROBLEM.losses(functools.partial(NETWORK.apply, p), POINTS)["boundary"])(run.params)
    entries = np.abs(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(gradient)]))
    found = [run.history[f"gradient_{kind}/boundary"][-1] for kind in ("max", "mean", "norm")]
    np.testing.assert_allclose(found, [entries.max(), entries.mean(), np.sqrt((entries**2).sum())], rtol=1e-10)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": 0}, "`steps` and `record_every` must be at least 1, got 0"),
        ({"record_every": 0}, "at least 1, got 5 and 0"),
        ({"batch_size": 0}, "at least 1, got 0"),
        ({"batch_size": {"boundary": 4}}, r"missing: \['residual'\]"),
        ({"points": {"boundary": POINTS["boundary"]}}, r"missing: \['residual'\]"),
        ({"points": POINTS | {"residual": jnp.ones((3, 2))}}, r"must have shape \(n, 1\)"),
        ({"weighting": fixed(boundary=1.0)}, r"missing: \['residual'\]"),
    ],
)
def test_settings_that_do_not_fit_are_an_error(options, message, key):
    with pytest.raises(ValueError, match=message):
        short(**({"key": key, "steps": 5} | options))
