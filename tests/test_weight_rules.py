"""`weight_rules`: every formula by hand on a linear problem, what it scales with, and training with it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pinn_analysis import convergence, mlp, ntk, problems, weight_rules, weighting
from pinn_analysis.operators import identity, partial
from pinn_analysis.problems import Condition, Problem
from pinn_analysis.weight_rules import FORMULAS

# u = a + b x at x = ±1 should be 0, and 2 u' = -1 at three points; a = 1, b = -2.  Then
#   J_b = [[1, -1], [1, 1]], r_b = (3, -1), L_b = 5, g_b = (2, -4),    K_bb = 2 I,
#   J_r = 3 rows (0, 2),     r_r = -3,      L_r = 9, g_r = (0, -12),   K_rr = 4 in all entries.
ROOT_20 = np.sqrt(20)
BY_HAND = {
    "NTK paper": (16 / 4, 16 / 12),
    "jaxpi ntk": (3 / 2, 3 / 4),
    "largest eigenvalue": (5 / 1, 5 / 4),
    "PINNacle NTK": (40 / 4, 40 / 36),
    "PhysicsNeMo NTK": (3 / 1, 3 / 2),
    "PaddleScience NTK": ((ROOT_20 + np.sqrt(260)) / ROOT_20, (ROOT_20 + np.sqrt(260)) / np.sqrt(260)),
    "PINA NTK": (ROOT_20 / (ROOT_20 + 12), 12 / (ROOT_20 + 12)),
    "jaxpi grad_norm": ((ROOT_20 + 12) / 2 / ROOT_20, (ROOT_20 + 12) / 2 / 12),
    "annealing, arXiv": (12 / 3, 1),
    "annealing, SIAM": (2, 1),
    "annealing, PhysicsNeMo": (6 / 3, 1),
    "annealing, jinns": (12 / 1, 1),
}


def linear():
    def operator(u):
        return lambda x: 2 * partial(0)(u)(x)

    def no_sampler(key, n):
        raise AssertionError("not sampled")

    conditions = {
        "boundary": Condition(identity, lambda x: 0 * x[0], no_sampler),
        "residual": Condition(operator, lambda x: -1 + 0 * x[0], no_sampler),
    }
    points = {"boundary": jnp.array([[-1.0], [1.0]]), "residual": jnp.array([[-0.5], [0.0], [0.5]])}
    problem = Problem("line", conditions, (-jnp.ones(1), jnp.ones(1)))
    return problem, lambda params, x: params[0] + params[1] * x[0], jnp.array([1.0, -2.0]), points


def test_every_formula_is_pinned_by_hand():
    assert set(BY_HAND) == set(FORMULAS)


@pytest.mark.parametrize("name", FORMULAS)
def test_the_weights_of_a_linear_problem_are_those_found_by_hand(name):
    weights = weight_rules.table(weight_rules.measure(*linear()))[name]
    np.testing.assert_allclose((weights["boundary"], weights["residual"]), BY_HAND[name], rtol=1e-12)


# What the ratio of the weights of boundary and residual is multiplied by.


@pytest.fixture(scope="module")
def setting():
    problem, network = problems.poisson_1d(1), mlp((1, 8, 1))
    points = problem.sample(jax.random.key(1), {"boundary": 4, "residual": 6})
    return problem, network.apply, network.init(jax.random.key(0)), points


def change(setting, **conditions):
    """The same with other conditions, in the order in which they are given."""
    problem, *rest = setting
    return problem._replace(conditions=problem.conditions | conditions), *rest


def ratios(setting):
    problem, apply, *arrays = setting
    table = jax.jit(lambda *arrays: weight_rules.table(weight_rules.measure(problem, apply, *arrays)))(*arrays)
    return {name: float(weights["boundary"] / weights["residual"]) for name, weights in table.items()}


def assert_multiplied(setting, changed, factors):
    before, after = ratios(setting), ratios(changed)
    for name in FORMULAS:
        factor = factors.get(name, factors["others"])
        if factor is not None:
            assert after[name] / before[name] == pytest.approx(factor, rel=1e-8), name


def times(condition, factor):
    """Both sides of a condition multiplied by a function of the point."""

    def operator(u):
        return lambda x: factor(x) * condition.operator(u)(x)

    return condition._replace(operator=operator, target=lambda x: factor(x) * condition.target(x))


def test_an_equation_times_c_should_weigh_c_to_the_minus_2(setting):
    changed = change(setting, residual=times(setting[0].conditions["residual"], lambda x: 3.0))
    odd = {"PhysicsNeMo NTK": 3, "annealing, SIAM": 3, "PINA NTK": 3**-2, "PaddleScience NTK": None}
    assert_multiplied(setting, changed, odd | {"others": 3**2})
    assert not 8.9 < ratios(changed)["PaddleScience NTK"] / ratios(setting)["PaddleScience NTK"] < 9.1


def test_points_listed_twice_should_change_nothing(setting):
    *rest, points = setting
    twice = *rest, points | {"residual": jnp.concatenate([points["residual"]] * 2)}
    assert_multiplied(setting, twice, {"NTK paper": 2, "PINNacle NTK": 4, "others": 1})


def test_kernels_do_not_see_the_size_of_the_residual_and_gradients_do(setting):
    problem, apply, params, _ = setting
    boundary = problem.conditions["boundary"]

    def further(x):  # Three times as far from the network as the target is.
        return apply(params, x) - 3 * (apply(params, x) - boundary.target(x))

    seen = {
        name: 1 / 3 for name in ("jaxpi grad_norm", "annealing, arXiv", "annealing, jinns", "annealing, PhysicsNeMo")
    }
    seen |= {"annealing, SIAM": 3**-0.5, "PINA NTK": 3, "PaddleScience NTK": None}
    assert_multiplied(setting, change(setting, boundary=boundary._replace(target=further)), seen | {"others": 1})


def test_the_sign_of_an_equation_should_not_matter_and_does_for_a_sum_of_residuals(setting):
    flipped = times(setting[0].conditions["residual"], lambda x: jnp.where(x[0] < 0.5, -1.0, 1.0))
    changed = change(setting, residual=flipped)
    assert_multiplied(setting, changed, {"PINNacle NTK": None, "others": 1})
    assert abs(ratios(changed)["PINNacle NTK"] / ratios(setting)["PINNacle NTK"] - 1) > 0.1


def test_the_order_of_terms_should_not_matter_and_does_where_gradients_add_up(setting):
    problem, *rest = setting
    changed = problem._replace(conditions=dict(reversed(problem.conditions.items()))), *rest
    assert_multiplied(setting, changed, {"PaddleScience NTK": None, "others": 1})
    before, after = ratios(setting)["PaddleScience NTK"], ratios(changed)["PaddleScience NTK"]
    assert max(before / after, after / before) > 2


def test_turning_the_sign_of_a_hidden_unit_changes_only_the_mean_without_absolute_values(setting):
    problem, apply, params, points = setting
    sign = jnp.ones(8).at[:4].set(-1)
    first, last = params
    turned = [{"weight": first["weight"] * sign, "bias": first["bias"] * sign}]
    turned.append(last | {"weight": last["weight"] * sign[:, None]})
    np.testing.assert_allclose(apply(turned, points["residual"][0]), apply(params, points["residual"][0]))
    changed = problem, apply, turned, points
    assert_multiplied(setting, changed, {"annealing, jinns": None, "others": 1})
    assert abs(ratios(changed)["annealing, jinns"] / ratios(setting)["annealing, jinns"] - 1) > 0.01


# Against other ways to the same quantity, with four terms of different sizes.


@pytest.fixture(scope="module")
def wave():
    problem, network = problems.wave_1d(), mlp((2, 6, 1))
    sizes = {"boundary": 3, "initial": 5, "initial_velocity": 2, "residual": 7}
    return problem, network.apply, network.init(jax.random.key(3)), problem.sample(jax.random.key(4), sizes)


def inverse(values, total):
    return {name: total(list(values.values())) / value for name, value in values.items()}


def assert_same(got, want):
    for name, weight in want.items():
        np.testing.assert_allclose(got[name], weight, rtol=1e-10)


def test_traces_without_a_matrix_give_the_same_weights(wave):
    state, traces = weight_rules.measure(*wave), ntk.traces(*wave)
    assert_same(weight_rules.trace_ratio(state), inverse(traces, np.sum))
    means = {name: trace / len(wave[3][name]) for name, trace in traces.items()}
    assert_same(weight_rules.mean_diagonal(state), inverse(means, np.mean))


def test_the_gradient_of_the_root_and_of_the_sum_give_the_same_weights(wave):
    problem, apply, params, points = wave

    def norm(f):
        leaves = jax.tree.leaves(jax.grad(lambda params: f(functools.partial(apply, params)))(params))
        return jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in leaves))

    state = weight_rules.measure(*wave)
    roots = {name: norm(lambda u, name=name: jnp.sqrt(problem.losses(u, points)[name])) for name in points}
    assert_same(weight_rules.root_gradient(state), inverse(roots, np.sum))

    others = [name for name in points if name != "residual"]
    s_r = norm(lambda u: problem.residuals(u, points)["residual"].sum()) ** 2
    s_b = norm(lambda u: sum(problem.residuals(u, points)[name].sum() for name in others)) ** 2
    assert_same(
        weight_rules.summed_kernel(state),
        {"residual": (s_r + s_b) / s_r} | dict.fromkeys(others, (s_r + s_b) / s_b),
    )


def test_the_sum_of_rates_is_the_same_for_all_terms_and_does_not_depend_on_their_numbers(wave):
    problem, apply, params, points = wave
    twice = points | {"residual": jnp.concatenate([points["residual"]] * 2)}
    rates = {}
    for kind, x in {"once": points, "twice": twice}.items():
        state = weight_rules.measure(problem, apply, params, x)
        for formula in (weight_rules.trace_ratio, weight_rules.mean_diagonal):
            weights = formula(state)
            sums = []
            for name in state.kernel.names:  # Each term by itself.
                block = ntk.KernelBlocks(state.kernel[name, name], (name,), (len(x[name]),))
                sums.append(convergence.gradient_flow(block, {name: weights[name]}).rates.sum())
            flow = convergence.gradient_flow(state.kernel, weights)
            rates[kind, formula.__name__] = np.array(sums), np.asarray(flow.rates[-17:])
    sums, flow = rates["once", "mean_diagonal"]
    np.testing.assert_allclose(sums, sums[0], rtol=1e-10)
    assert np.ptp(rates["once", "trace_ratio"][0]) > 0.1 * rates["once", "trace_ratio"][0].max()
    np.testing.assert_allclose(rates["twice", "mean_diagonal"][1], flow, rtol=1e-9, atol=1e-12 * flow.max())
    ratio = rates["twice", "trace_ratio"][1].max() / rates["once", "trace_ratio"][1].max()
    assert abs(ratio - 1) > 0.1


# Training.


def test_weights_start_at_1_and_move_every_so_many_steps(setting):
    problem, apply, params, points = setting
    rule = weighting.moving(weight_rules.mean_diagonal, every=3, decay=0.75)
    target = float(weight_rules.mean_diagonal(weight_rules.measure(*setting))["boundary"])
    update = jax.jit(lambda state: rule.update(state, problem, apply, params, points))
    state, seen = rule.init(problem), []
    for _ in range(4):
        weights, state = update(state)
        seen.append(float(weights["boundary"]))
    once = 0.75 + 0.25 * target
    np.testing.assert_allclose(seen, [once] * 3 + [0.75 * once + 0.25 * target], rtol=1e-10)


def test_every_formula_is_the_same_under_jit(setting):
    problem, apply, params, points = setting

    def table(*now):
        return weight_rules.table(weight_rules.measure(problem, apply, *now))

    want, got = table(params, points), jax.jit(table)(params, points)
    for name in FORMULAS:
        assert_same(got[name], want[name])
    # In training too, for the one that goes by the order of the terms, which jit sorts.
    rule = weighting.moving(weight_rules.accumulated_norm, every=100, decay=0.0)
    weights, _ = jax.jit(lambda state: rule.update(state, problem, apply, params, points))(rule.init(problem))
    assert_same(weights, want["PaddleScience NTK"])


def test_a_weight_that_is_not_finite_keeps_its_old_value():
    problem, apply, _, points = linear()
    params = jnp.array([0.0, -0.5])
    state = weight_rules.measure(problem, apply, params, points)
    assert not np.isfinite(weight_rules.grad_norm(state)["residual"])  # 2 u' = -1 holds exactly.
    rule = weighting.moving(weight_rules.grad_norm, every=100, decay=0.9)
    weights, _ = rule.update(rule.init(problem), problem, apply, params, points)
    assert weights["residual"] == 1


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: weighting.moving(weight_rules.trace_ratio, every=100, decay=1.0), "share of the old weight"),
        (lambda: weighting.moving(weight_rules.trace_ratio, every=0, decay=0.9), "at least 1"),
        (lambda: weight_rules.annealing_arxiv(weight_rules.measure(*linear()), "pde"), "one of the terms"),
    ],
)
def test_bad_settings_say_what_is_wanted(make, message):
    with pytest.raises(ValueError, match=message):
        make()
