import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from pinn_analysis.networks import mlp, standardized
from pinn_analysis.networks._core import check_network
from pinn_analysis.operators import identity
from pinn_analysis.problems import Condition, Problem, box, data, grid, poisson_1d
from pinn_analysis.training import DivergedError, follow, stepper, train
from pinn_analysis.weighting import Weighting, fixed, lr_annealing, ntk_trace

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
    run = caught.value.run  # The state is the last whose parameters are finite, not that of the last record.
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(run.params))
    assert history["step"][-2] <= run.state.step <= history["step"][-1]
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


# Optimisers that want more than the gradient.


def bowl():
    """Two terms of different sizes, quadratic in the parameters, whose best value is known."""
    line = lambda params, x: params[0] + params[1] * x[0]
    conditions = {
        "left": Condition(identity, lambda x: 1.0 + 0 * x[0], box(-np.ones(1), np.zeros(1))),
        "right": Condition(identity, lambda x: 3.0 * x[0], box(np.zeros(1), np.ones(1))),
    }
    points = {"left": jnp.array([[-1.0], [-0.5]]), "right": jnp.array([[0.1], [0.4], [0.9]])}
    weights = {"left": 2.0, "right": 0.5}
    rows = np.concatenate([np.stack([np.ones(len(x)), x[:, 0]], 1) for x in points.values()])
    target = np.concatenate([np.ones(2), 3.0 * np.array([0.1, 0.4, 0.9])])
    root = np.sqrt(np.repeat([2.0 / 2, 0.5 / 3], [2, 3]))
    best = np.linalg.lstsq(root[:, None] * rows, root * target)[0]
    problem = Problem("bowl", conditions, (jnp.array([-1.0]), jnp.ones(1)))
    network = NETWORK._replace(init=lambda key: jax.random.normal(key, (2,)), apply=line)
    return problem, network, points, weights, best


def gauss_newton():
    """Least squares on the residuals alone: it takes no other argument, unless it stands in a chain."""

    def alone(updates, state, params, *, residuals_fn):
        r, jacobian = residuals_fn(params), jax.jacobian(residuals_fn)(params)
        return -jnp.linalg.lstsq(jacobian, r)[0], state

    def chained(updates, state, params, *, residuals_fn, **others):
        return alone(updates, state, params, residuals_fn=residuals_fn)

    return (optax.GradientTransformationExtraArgs(lambda params: (), update) for update in (alone, chained))


@pytest.mark.parametrize("name, steps", [("lbfgs", 12), ("gauss_newton", 1), ("gauss_newton in a chain", 1)])
def test_optimizers_with_line_search_or_residuals_find_the_weighted_least_squares(name, steps, key):
    alone, chained = gauss_newton()
    optimizer = {
        "lbfgs": optax.lbfgs(), "gauss_newton": alone,
        "gauss_newton in a chain": optax.chain(chained, optax.scale_by_zoom_linesearch(5)),
    }[name]  # fmt: skip
    problem, network, points, weights, best = bowl()
    keys = jax.random.split(key, 2)
    run = train(
        problem, network, key=keys, steps=steps, points=points, weighting=fixed(**weights), optimizer=optimizer,
        progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(run.params, np.stack([best, best]), rtol=1e-6)
    assert "error" not in run.history


def test_the_residuals_given_to_an_optimizer_have_the_loss_as_their_squared_norm(key):
    def update(updates, state, params, *, value, grad, value_fn, residuals_fn):
        found = jax.value_and_grad(lambda p: jnp.sum(residuals_fn(p) ** 2))(params)
        return jax.tree.map(jnp.zeros_like, updates), (found, (value, grad), value_fn(params))

    zero = lambda params: ((jnp.zeros(()), params), (jnp.zeros(()), params), jnp.zeros(()))
    optimizer = optax.GradientTransformationExtraArgs(zero, update)
    weighting = fixed(boundary=3.0, residual=0.1)
    run = short(key=key, steps=1, points=POINTS, optimizer=optimizer, weighting=weighting)
    found, given, value = run.state.optimizer
    assert value > 0 and value == given[0]
    assert_close(found, given, 1e-12)


def test_the_jacobian_given_to_an_optimizer_is_that_of_the_residuals(key):
    def update(updates, state, params, *, residuals_fn, jacobian_fn):
        theta, unravel = ravel_pytree(params)
        expected = jax.jacrev(lambda theta: residuals_fn(unravel(theta)))(theta)
        return jax.tree.map(jnp.zeros_like, updates), (jacobian_fn(params), expected)

    problem, network, points, _, _ = bowl()
    optimizer = optax.GradientTransformationExtraArgs(lambda params: (), update)
    for weights in ((2.0, 0.5), (jnp.array([2.0, 3.0]), 0.5)):
        weights = dict(zip(problem.conditions, weights, strict=True))
        step = stepper(problem, network.apply, points, optimizer, weights)
        params = network.init(key)
        found, expected = step((params, optimizer.init(params)))[1]
        assert_close(found, expected, 1e-12)


def test_a_rate_that_falls_on_a_plateau_is_trained_with(key):
    plateau = optax.contrib.reduce_on_plateau(patience=2, factor=0.5)
    run = short(key=key, steps=30, points=POINTS, optimizer=optax.chain(optax.sgd(0.0), plateau))
    assert run.state.optimizer[1].scale < 0.01  # Nothing moves, so it falls again and again.


# What a run is asked for.


def test_a_term_that_is_not_trained_changes_nothing(key):
    exact = Condition(identity, PROBLEM.solution, box(np.zeros(1), np.ones(1)), trained=False)
    extended = PROBLEM._replace(conditions=PROBLEM.conditions | {"exact": exact})
    for rule in (lr_annealing(every=2), ntk_trace(every=2)):
        settings = {"key": key, "steps": 6, "record_every": 3, "progress": False, "weighting": rule}
        points = {**POINTS, "exact": jnp.ones((3, 1))}
        plain = train(PROBLEM, NETWORK, points=POINTS, **settings)
        dragged = train(extended, NETWORK, points=points, **settings)
        assert plain.history.keys() == dragged.history.keys() and dragged.weights.keys() == POINTS.keys()
        jax.tree.map(np.testing.assert_array_equal, plain, dragged)
    seen = train(extended._replace(conditions=extended.conditions | {"exact": exact._replace(trained=True)}), NETWORK,
                 points=points, key=key, steps=6, record_every=3, progress=False)  # fmt: skip
    assert abs(seen.history["loss/residual"][-1] - plain.history["loss/residual"][-1]) > 1e-6


def test_what_is_measured_joins_the_history(key):
    def measure(problem, apply, params, points):
        return {"first": apply(params, points["residual"][0]), "two": jnp.arange(2.0)}

    run = short(key=jax.random.split(key, 3), steps=10, points=POINTS, measure=measure)
    assert run.history["first"].shape == (3, 2) and run.history["two"].shape == (3, 2, 2)
    last = jax.vmap(NETWORK.apply, (0, None))(run.params, POINTS["residual"][0])
    np.testing.assert_allclose(run.history["first"][:, -1], last, rtol=1e-10)
    with pytest.raises(ValueError, match=r"other names than those of the history, got \['error'\]"):
        short(key=key, steps=1, measure=lambda *now: {"error": 0.0})


def test_the_error_is_measured_at_the_points_that_are_given(key):
    x = jnp.array([[0.3], [0.4]])
    run = short(key=key, steps=1, test_points=x)
    u, exact = jax.vmap(NETWORK.apply, (None, 0))(run.params, x), np.sin(np.pi * x[:, 0])
    np.testing.assert_allclose(run.history["error"][-1], np.linalg.norm(u - exact) / np.linalg.norm(exact), rtol=1e-9)
    with pytest.raises(ValueError, match=r"shape \(n, 1\)"):
        short(key=key, steps=1, test_points=jnp.ones((3, 2)))


def test_weights_may_be_one_per_row(key):
    """A rule that looks away from all points but one trains as if there were one."""

    def update(state, problem, apply, params, points):
        n = len(points["residual"])
        return {"boundary": jnp.ones(()), "residual": jnp.zeros(n).at[2].set(n)}, state

    looks_away = Weighting(lambda problem: (), update)
    run = short(key=key, steps=5, points=POINTS, weighting=looks_away)
    alone = short(key=key, steps=5, points=POINTS | {"residual": POINTS["residual"][2:3]})
    assert_close(run.params, alone.params, 1e-10)
    assert run.weights["residual"].shape == (7,) and run.history["weight/residual"].shape == (7, 2)


def test_a_rule_that_turns_negative_stops_the_run_and_keeps_it(key):
    update = lambda state, *now: ({"boundary": state, "residual": jnp.ones(())}, state - 1)
    with pytest.raises(DivergedError, match="stopped at step 4: weight/boundary negative.*0 or more") as error:
        short(key=key, steps=8, record_every=2, weighting=Weighting(lambda problem: jnp.array(2.5), update))
    assert error.value.run.history["step"].tolist() == [0, 2, 4]
    assert error.value.run.state.step == 4


def test_a_function_instead_of_a_network_is_an_error():
    with pytest.raises(ValueError, match=r"must be a `Network`.*`Network\(init, apply, None\)`"):
        check_network(NETWORK.apply)  # Called by `train` and by the solvers.


def test_a_rule_whose_weights_miss_a_term_is_an_error(key):
    wrong = Weighting(lambda problem: (), lambda state, *now: ({"residual": jnp.ones(())}, state))
    with pytest.raises(ValueError, match=r"`weights` must name.*missing: \['boundary'\]"):
        short(key=key, steps=1, weighting=wrong)


# Runs that are not finite: whose fault it is.


def changed(**conditions):
    new = {name: PROBLEM.conditions[name]._replace(**parts) for name, parts in conditions.items()}
    return PROBLEM._replace(conditions=PROBLEM.conditions | new)


@pytest.mark.parametrize(
    "problem, message",
    [
        (changed(residual={"operator": lambda u: lambda x: u(x) / x[0]}), r"equation.*'residual'.*1 of 7.*\[0.0\]"),
        (changed(boundary={"target": lambda x: jnp.log(x[0])}), r"target of the term 'boundary'.*1 of 2.*\[0.0\]"),
        (changed(residual={"operator": lambda u: lambda x: jnp.sqrt(x[0] * u(x))}), "is not finite at"),
    ],
)
def test_a_nan_names_the_term_and_the_point(problem, message, key):
    with pytest.raises(DivergedError, match=message):
        train(problem, NETWORK, key=key, steps=5, points=POINTS, progress=False)


def test_a_nan_beside_measured_values_is_found_too(key):
    """Their points have the values in further columns, which the network does not see."""
    readings = data(jnp.array([[0.0], [0.5]]), jnp.ones(2), operator=lambda u: lambda x: u(x) / x[0])
    problem = PROBLEM._replace(conditions={"readings": readings})
    with pytest.raises(DivergedError, match=r"equation.*'readings'.*1 of 2 points, first at \[0.0, 1.0\]"):
        train(problem, NETWORK, key=key, steps=1, points=problem.sample(key, 2), progress=False)


def test_a_nan_on_the_way_leaves_the_last_finite_state(key):
    """The root of a field that turns negative: step 13 of 20, where nothing is recorded."""
    down = Condition(lambda u: lambda x: jnp.sqrt(u(x)), lambda x: -10.0 + 0 * x[0], box(np.zeros(1), np.ones(1)))
    problem = Problem("root", {"down": down}, (jnp.zeros(1), jnp.ones(1)))
    network = NETWORK._replace(init=lambda key: jnp.array([4.0]), apply=lambda params, x: params[0])
    points = {"down": jnp.array([[0.25]])}
    with pytest.raises(DivergedError, match=r"equation.*'down'.*1 of 1 points, first at \[0.25\]") as caught:
        train(problem, network, key=key, steps=20, record_every=20, points=points, optimizer=optax.sgd(0.05),
              progress=False)  # fmt: skip
    u, steps = 4.0, 0
    while u > 0:
        u, steps = u - 0.05 * (np.sqrt(u) + 10) / np.sqrt(u), steps + 1
    assert caught.value.run.state.step == steps < 20
    np.testing.assert_allclose(caught.value.run.params, [u], rtol=1e-10)


def test_a_scale_that_overflows_before_anything_moved_is_said_to_be_the_fault(key):
    large = changed(residual={"target": lambda x: jnp.float32(1e30) + 0 * x[0]})
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), NETWORK.init(key))
    points = {name: x.astype(jnp.float32) for name, x in POINTS.items()}
    with pytest.raises(DivergedError, match="cannot be trained as it is.*1e[+]30 in 'residual'.*Nondimensionalise"):
        train(large, NETWORK, key=key, steps=5, points=points, params=params, progress=False)


def test_a_solution_that_is_not_finite_somewhere_does_not_stop_training(key):
    sinc = PROBLEM._replace(solution=lambda x: jnp.sin(jnp.pi * x[0]) * x[0] / x[0])
    with pytest.warns(UserWarning, match=r"solution of 'poisson_1d' is not finite at 1 of 1000.*\[0.0\]"):
        run = train(sinc, NETWORK, key=key, steps=1, batch_size=4, progress=False)
    plain = short(key=key, steps=1, test_points=grid(PROBLEM, 1000)[1:])
    np.testing.assert_allclose(run.history["error"][-1], plain.history["error"][-1], rtol=1e-8)


def test_the_error_of_a_solution_that_is_zero_is_absolute_by_name(key):
    zero = PROBLEM._replace(solution=lambda x: 0 * x[0])
    run = train(zero, NETWORK, key=key, steps=1, batch_size=4, progress=False)
    u = jax.vmap(NETWORK.apply, (None, 0))(run.params, grid(PROBLEM, 1000))
    assert "error" not in run.history
    np.testing.assert_allclose(run.history["absolute_error"][-1], np.sqrt(np.mean(u**2)), rtol=1e-10)


def test_a_network_with_more_than_floats_among_its_parameters_is_refused_at_the_door(key):
    counted = NETWORK._replace(init=lambda key: (NETWORK.init(key), jnp.zeros((), int)))
    with pytest.raises(ValueError, match="Parameters must be floating-point arrays"):
        train(PROBLEM, counted, key=key, steps=1, progress=False)


# Full batches.


def test_following_a_stepper_is_training_on_fixed_points(key):
    params, weights = NETWORK.init(key), {"boundary": 3.0, "residual": 0.1}
    optimizer = optax.adam(1e-2)
    step = stepper(PROBLEM, NETWORK.apply, POINTS, optimizer, weights)
    measure = lambda state: PROBLEM.losses(functools.partial(NETWORK.apply, state[0]), POINTS)
    assert_close(follow(lambda x: x + 2, lambda x: -x, [0, 1, 4])(1.0), (9.0, np.array([-1.0, -3.0, -9.0])), 0)
    (last, _), measured = follow(step, measure, [0, 10, 25])((params, optimizer.init(params)))
    run = short(key=key, steps=25, points=POINTS, optimizer=optimizer, weighting=fixed(**weights), params=params)
    assert_close(last, run.params, 1e-10)
    for name in POINTS:
        np.testing.assert_allclose(measured[name], run.history[f"loss/{name}"][[0, 1, 3]], rtol=1e-9)


@pytest.mark.parametrize("at", [[], [3, 3], [-1, 2], [5, 2]])
def test_step_numbers_that_do_not_ascend_are_an_error(at):
    with pytest.raises(ValueError, match="step numbers that ascend"):
        follow(lambda x: x + 1, lambda x: x, at)
