"""`weighting.lr_annealing`, `grad_norm` and `ntk_trace`: where they come to rest, and what they do not touch."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pinn_analysis import convergence, gradients, mlp, ntk, problems, weighting


@pytest.fixture(scope="module")
def setting():
    problem, network = problems.poisson_1d(4), mlp((1, 8, 1))
    points = problem.sample(jax.random.key(1), {"boundary": 2, "residual": 9})
    return problem, network.apply, network.init(jax.random.key(0)), points


def rest(rule, setting, state=None, updates=400):
    """Weights after many updates with nothing else moving."""
    problem, apply, params, points = setting
    update = jax.jit(lambda state: rule.update(state, problem, apply, params, points)[1])
    state = rule.init(problem) if state is None else state
    for _ in range(updates):
        state = update(state)
    return rule.update(state, problem, apply, params, points)[0]


def ratio(setting):
    problem, apply, params, points = setting
    grads = gradients.by_term(problem, apply, params, points)
    return gradients.statistics(grads["residual"]).max / gradients.statistics(grads["boundary"]).mean


def test_the_arxiv_rule_rests_at_max_over_mean(setting):
    weights = rest(weighting.lr_annealing("arxiv", every=1), setting)
    np.testing.assert_allclose(weights["boundary"], ratio(setting), rtol=1e-10)
    assert weights["residual"] == 1


def test_the_siam_rule_rests_at_its_square_root(setting):
    weights = rest(weighting.lr_annealing("siam", every=1), setting)
    np.testing.assert_allclose(weights["boundary"], jnp.sqrt(ratio(setting)), rtol=1e-10)
    assert abs(weights["boundary"] / ratio(setting) - 1) > 0.5  # The two rules are different rules.


def test_grad_norm_makes_all_gradients_equally_long(setting):
    problem, apply, params, points = setting
    weights = rest(weighting.grad_norm(every=1), setting)
    grads = gradients.by_term(problem, apply, params, points)
    lengths = [float(weights[name] * gradients.statistics(g).norm) for name, g in grads.items()]
    np.testing.assert_allclose(lengths, sum(float(gradients.statistics(g).norm) for g in grads.values()), rtol=1e-10)


def test_one_update_is_a_moving_average_with_decay_on_the_old_weight(setting):
    problem, apply, params, points = setting
    rule = weighting.lr_annealing("arxiv", decay=0.75)
    weights, _ = rule.update(rule.init(problem), problem, apply, params, points)
    np.testing.assert_allclose(weights["boundary"], 0.75 + 0.25 * ratio(setting), rtol=1e-12)


def test_weights_stay_between_two_updates(setting):
    problem, apply, params, points = setting
    rule = weighting.lr_annealing(every=3)
    state, seen = rule.init(problem), []
    for _ in range(7):
        weights, state = rule.update(state, problem, apply, params, points)
        seen.append(float(weights["boundary"]))
    assert len(set(seen[:3])) == len(set(seen[3:6])) == 1
    assert seen[2] != seen[3] and seen[5] != seen[6]


def test_a_term_without_gradient_keeps_its_weight(setting):
    problem, apply, params, _ = setting
    params = jax.tree.map(jnp.zeros_like, params)  # u = 0, and so is sin(4πx) at the ends.
    points = {"boundary": jnp.zeros((1, 1)), "residual": jnp.array([[0.3]])}
    rule = weighting.lr_annealing()
    weights, _ = rule.update(rule.init(problem), problem, apply, params, points)
    assert weights["boundary"] == 1


def scaled(problem, c):
    """The boundary loss times ``c``: its residuals times the root."""
    boundary = problem.conditions["boundary"]
    times = boundary._replace(operator=lambda u: lambda x: c**0.5 * u(x), target=lambda x: c**0.5 * boundary.target(x))
    return problem._replace(conditions=problem.conditions | {"boundary": times})


@pytest.mark.parametrize("name, power", [("arxiv", 0.0), ("siam", 0.5)])
def test_what_adding_four_edges_does_to_the_weight_that_counts(setting, name, power):
    """A sum of four means is the loss times 4: no change by one rule, a factor 2 by the other."""
    rule, (problem, *rest_of_setting) = weighting.lr_annealing(name, every=1), setting
    once = rest(rule, setting)["boundary"]
    four = rest(rule, (scaled(problem, 4.0), *rest_of_setting))["boundary"]
    np.testing.assert_allclose(4 * four / once, 4**power, rtol=1e-8)


@pytest.mark.parametrize("name", ["siam", "arxiv"])
def test_a_residual_without_gradient_sends_weights_down_and_they_recover(setting, name):
    problem, apply, params, points = setting
    residual = problem.conditions["residual"]._replace(operator=lambda u: lambda x: jnp.zeros(()))
    silent = problem._replace(conditions=problem.conditions | {"residual": residual})
    rule = weighting.lr_annealing(name, every=1)
    state = rule.init(problem)
    for n in range(1, 4):
        weights, state = rule.update(state, silent, apply, params, points)
        decay = 0.9 if name == "siam" else 0.1
        np.testing.assert_allclose(weights["boundary"], decay**n, rtol=1e-10)
    np.testing.assert_allclose(rest(rule, setting, state)["boundary"], rest(rule, setting)["boundary"], rtol=1e-8)


def test_a_ratio_that_overflows_changes_nothing(setting):
    problem, apply, params, points = setting
    rule = weighting.lr_annealing("siam", every=1)
    start = rule.init(problem)
    tiny = start._replace(weights=start.weights | {"boundary": jnp.asarray(0.0)})
    weights, _ = rule.update(tiny, problem, apply, params, points)
    assert weights["boundary"] == 0  # Where the rule stays: its docstring says so.


def test_three_lines_in_a_loop_of_ones_own_with_flax():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(1)(jnp.tanh(nn.Dense(16)(x)))[0]

    net, problem = Net(), problems.poisson_1d(1)
    params, points = net.init(jax.random.key(0), jnp.zeros(1)), problem.sample(jax.random.key(1), 16)
    optimizer, rule = optax.adam(1e-2), weighting.lr_annealing()

    def step(carry, _):
        params, optimizer_state, state = carry
        weights, state = rule.update(state, problem, net.apply, params, points)

        def loss(params):
            losses = problem.losses(functools.partial(net.apply, params), points)
            return sum(weights[name] * value for name, value in losses.items())

        updates, optimizer_state = optimizer.update(jax.grad(loss)(params), optimizer_state)
        return (optax.apply_updates(params, updates), optimizer_state, state), problem.losses(
            functools.partial(net.apply, params), points
        )["boundary"]

    start = params, optimizer.init(params), rule.init(problem)
    _, boundary = jax.jit(lambda start: jax.lax.scan(step, start, length=300))(start)
    assert boundary[-1] < 1e-2 * boundary[0]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: weighting.lr_annealing("journal"), 'must be "siam" or "arxiv"'),
        (lambda: weighting.lr_annealing(decay=1.0), "share of the old weight"),
        (lambda: weighting.grad_norm(every=0), "at least 1"),
        (lambda: weighting.lr_annealing(reference="pde").init(problems.poisson_1d()), "one of the conditions"),
    ],
)
def test_bad_settings_say_what_is_wanted(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_traces_of_the_kernel_give_every_term_the_same_sum_of_rates():
    problem, network = problems.wave_1d(), mlp((2, 8, 8, 1))
    params = network.init(jax.random.key(0))
    sizes = {"boundary": 4, "initial": 7, "initial_velocity": 5, "residual": 9}
    points = problem.sample(jax.random.key(1), sizes)
    rule = weighting.ntk_trace()
    weights, _ = rule.update(rule.init(problem), problem, network.apply, params, points)
    rates = convergence.rates(ntk.empirical(problem, network.apply, params, points))
    np.testing.assert_allclose([weights[name] * rates[name] for name in sizes], sum(rates.values()), rtol=1e-10)


def test_with_equally_many_points_they_are_the_papers_ratios_of_traces(setting):
    problem, apply, params, _ = setting
    points = {"boundary": jnp.array([[0.0], [1.0], [0.0], [1.0]]), "residual": jnp.linspace(0, 1, 4)[:, None]}
    rule = weighting.ntk_trace()
    weights, _ = rule.update(rule.init(problem), problem, apply, params, points)
    matrix = ntk.empirical(problem, apply, params, points).matrix
    for name, where in {"boundary": slice(0, 4), "residual": slice(4, 8)}.items():
        np.testing.assert_allclose(weights[name], jnp.trace(matrix) / jnp.trace(matrix[where, where]), rtol=1e-10)


def test_a_term_that_no_parameter_can_change_has_an_infinite_weight(setting):
    problem, _, params, points = setting
    rule = weighting.ntk_trace()
    weights, _ = rule.update(rule.init(problem), problem, lambda params, x: params[0]["weight"][0, 0], params, points)
    assert weights["residual"] == jnp.inf and weights["boundary"] == 1
