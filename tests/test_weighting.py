import doctest

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pinn_analysis import mlp, weight_rules, weighting
from pinn_analysis.operators import identity, partial
from pinn_analysis.problems import Condition, Problem, box, poisson_1d
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


@pytest.mark.parametrize("make", [weighting.lr_annealing, weighting.grad_norm, weighting.ntk_trace])
def test_a_rule_called_in_a_plain_loop_traces_its_network_at_the_first_call_only(make):
    """Calls of a network that is compiled already do not reach Python."""
    traced, network, problem, rule = [], mlp((1, 8, 1)), poisson_1d(), make(every=1)

    def apply(params, x):
        traced.append(None)
        return network.apply(params, x)

    state, counts = rule.init(problem), []
    for seed in range(3):
        params, points = network.init(jax.random.key(seed)), problem.sample(jax.random.key(seed), 6)
        weights, state = rule.update(state, problem, apply, params, points)
        counts.append(len(traced))
    assert 0 < counts[0] == counts[1] == counts[2]
    assert state.count == 3 and state.weights.keys() == weights.keys()


def test_a_formula_of_traces_needs_no_matrix():
    """Neither does its state: 40,000 rows would be a matrix of 12 GB."""
    problem, network = poisson_1d(), mlp((1, 4, 1))
    points = problem.sample(jax.random.key(0), {"boundary": 2, "residual": 40_000})
    params, rule = network.init(jax.random.key(1)), weighting.moving(weight_rules.trace_ratio, every=1, decay=0.0)
    weights, _ = rule.update(rule.init(problem), problem, network.apply, params, points)

    def row(x):  # By hand: u'' = sum_k v_k w_k² tanh''(w_k x + b_k).
        return jax.grad(lambda p: jax.grad(jax.grad(lambda t: network.apply(p, t[None])))(x[0]))(params)

    def norm(x):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(row(x)))

    residual = jnp.sum(jax.vmap(norm)(points["residual"]))
    boundary = sum(
        jnp.sum(leaf**2) for x in points["boundary"] for leaf in jax.tree.leaves(jax.grad(network.apply)(params, x))
    )
    np.testing.assert_allclose(weights["boundary"] / weights["residual"], residual / boundary, rtol=1e-8)


def test_a_term_that_is_not_trained_has_no_weight_and_no_part_in_those_of_others():
    problem, network = poisson_1d(), mlp((1, 8, 1))
    exact = Condition(identity, problem.solution, box(np.zeros(1), np.ones(1)), trained=False)
    extended = problem._replace(conditions={"exact": exact, **problem.conditions})
    params, points = network.init(jax.random.key(0)), problem.sample(jax.random.key(1), 5)
    dragged = points | {"exact": jnp.full((4, 1), 0.3)}
    for rule in (fixed(), weighting.lr_annealing(), weighting.grad_norm(), weighting.ntk_trace()):
        plain, _ = rule.update(rule.init(problem), problem, network.apply, params, points)
        with_it, _ = rule.update(rule.init(extended), extended, network.apply, params, dragged)
        assert list(plain) == list(with_it) == list(problem.conditions)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), plain, with_it)


def test_a_formula_that_misses_a_term_is_an_error():
    problem, network = poisson_1d(), mlp((1, 8, 1))
    wrong = weighting.moving(lambda state: {"boundary": jnp.ones(())}, every=1, decay=0.0)
    now = network.apply, network.init(jax.random.key(0)), problem.sample(jax.random.key(1), 5)
    with pytest.raises(ValueError, match=r"`weights` must name.*missing: \['residual'\]"):
        wrong.update(wrong.init(problem), problem, *now)


def test_the_causal_rule_of_the_docstring_trusts_a_time_when_those_before_it_are_learned():
    """u_t = 1 with u = t² has the residual 2 t - 1, so that all weights are known."""
    names = {}
    for example in doctest.DocTestParser().get_examples(weighting.__doc__):
        exec(example.source, names)
    sampler = box(np.zeros(1), np.ones(1))
    conditions = {
        "initial": Condition(identity, lambda x: 0 * x[0], sampler),
        "residual": Condition(partial(0), lambda x: 1 + 0 * x[0], sampler),
    }
    problem = Problem("clock", conditions, (jnp.zeros(1), jnp.ones(1)))
    t = (jnp.arange(10) + 0.5) / 10
    weights, _ = names["causal"].update(
        (), problem, lambda params, x: params[0] * x[0] ** 2, jnp.ones(1),
        {"initial": jnp.zeros((1, 1)), "residual": t[::-1, None]},
    )  # fmt: skip
    losses = np.square(2 * np.asarray(t) - 1)
    want = [np.exp(-sum(losses[:k])) for k in range(10)]
    np.testing.assert_allclose(weights["residual"][::-1], want, rtol=1e-10)
    assert weights["initial"] == 1
