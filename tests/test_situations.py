"""Situations that users of such tools meet, from public reports: the right number, or an error that helps.

Row by row, the numbers are those of the reports' table.  Rows about optimisers, checkpoints, spectra
and the limit of infinite width stand in the tests of those modules.
"""

import functools
import re

import equinox as eqx
import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.flatten_util import ravel_pytree

from pinn_analysis import convergence, curvature, gradients, ntk, solving, training, weighting
from pinn_analysis.networks import Network, linearized, mlp
from pinn_analysis.operators import identity, laplacian, partial
from pinn_analysis.problems import (
    Condition,
    Problem,
    box,
    check,
    data,
    explain_not_finite,
    faces,
    grid,
    poisson_1d,
    relative_l2_error,
    test_points,
)

UNIT = jnp.zeros(1), jnp.ones(1)
SQUARE = jnp.zeros(2), jnp.ones(2)
POISSON = poisson_1d(a=1)
POINTS = {"boundary": jnp.array([[0.0], [1.0]]), "residual": jnp.array([[0.2], [0.4], [0.7]])}
NETWORK = mlp((1, 8, 1), bias_std=0.5)
PARAMS = NETWORK.init(jax.random.key(0))


def zero(x):
    return jnp.zeros((), x.dtype)


def problem_of(operator, target=zero, domain=UNIT):
    return Problem("mine", {"term": Condition(operator, target, box(*domain))}, domain)


def train(problem, apply, params, points):
    network = Network(lambda key: params, apply, None)
    return training.train(problem, network, key=jax.random.key(0), steps=1, points=points, progress=False)


def annealed(problem, apply, params, points):
    rule = weighting.grad_norm()
    return rule.update(rule.init(problem), problem, apply, params, points)[0]


def solved(problem, apply, params, points, steps=1):
    return solving.least_squares(problem, Network(lambda key: params, apply, None), points, steps=steps)


# Every entry that takes a problem and a network.
DOORS = {
    "check": check,
    "residuals": lambda problem, apply, params, points: problem.residuals(functools.partial(apply, params), points),
    "empirical": ntk.empirical,
    "traces": ntk.traces,
    "operator": ntk.operator,
    "by_term": gradients.by_term,
    "hessian": curvature.hessian,
    "matvecs": curvature.matvecs,
    "weighting": annealed,
    "train": train,
    "least_squares": solved,
}
every_door = pytest.mark.parametrize("door", DOORS.values(), ids=DOORS)

# Every entry that takes a problem and the kernel of a network.


def LIMIT(x, y, get):
    """A kernel in closed form, which compiles in a moment; `test_ntk_limit` has those of networks."""
    return jnp.exp(-jnp.sum((x[:, None] - y[None]) ** 2, -1) / 2)


without_network = pytest.mark.parametrize("door", [ntk.infinite, solving.limit])


class Dense(linen.Module):
    @linen.compact
    def __call__(self, x):
        return linen.Dense(1, param_dtype=float)(jnp.tanh(linen.Dense(8, param_dtype=float)(x)))


def flax_dense():
    model = Dense()
    return model.apply, model.init(jax.random.key(0), jnp.ones(1))


def equinox_out_size():
    model = eqx.nn.MLP(1, 1, 8, 1, activation=jnp.tanh, key=jax.random.key(0))
    params, static = eqx.partition(model, eqx.is_inexact_array)
    return lambda params, x: eqx.combine(params, static)(x), params


# 1


@pytest.mark.parametrize("make", [flax_dense, equinox_out_size])
def test_a_network_with_a_value_of_one_component_is_a_scalar_one_everywhere(make):
    apply, params = make()
    scalar = lambda params, x: apply(params, x)[0]
    assert apply(params, jnp.ones(1)).shape == (1,)
    for door in ("residuals", "traces", "by_term"):
        one, other = (DOORS[door](POISSON, f, params, POINTS) for f in (apply, scalar))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)
    x = grid(POISSON, 50)
    field, exact = functools.partial(apply, params), functools.partial(scalar, params)
    for u, v in ((field, exact), (exact, field), (field, field)):
        assert relative_l2_error(u, v, x) == 0
    off = relative_l2_error(field, POISSON.solution, x)
    np.testing.assert_allclose(off, relative_l2_error(exact, POISSON.solution, x), rtol=1e-12)


@pytest.mark.parametrize("shape", [(2,), (1, 1), (50,)])
def test_an_error_between_values_of_different_shapes_is_refused(shape):
    field = lambda x: jnp.broadcast_to(POISSON.solution(x), shape)
    with pytest.raises(ValueError, match=rf"got \({', '.join(map(str, shape))},?\) and \(\)"):
        relative_l2_error(field, POISSON.solution, grid(POISSON, 50))


# 2


@every_door
def test_a_target_with_more_components_than_its_operator_is_refused_with_both_shapes(door):
    problem = problem_of(partial(0), target=lambda x: jnp.zeros(2))
    with pytest.raises(ValueError, match=r"'term' has values of shape \(\).*its target of shape \(2,\)"):
        door(problem, NETWORK.apply, PARAMS, {"term": POINTS["residual"]})


@every_door
@pytest.mark.parametrize(
    "term, message",
    [
        ((identity, 1.0), "target of 'term' must be a function of a point, `lambda x: 1.0`; got 1.0"),
        ((identity, jnp.ones(3)), r"target of 'term' must be a function.*`problems.data`"),
        ((None, zero), "operator of 'term' must be a function of the field"),
    ],
    ids=["number", "array", "None"],
)
def test_an_operator_or_a_target_that_is_no_function_of_the_kind_is_refused(door, term, message):
    with pytest.raises(ValueError, match=message):
        door(problem_of(*term), NETWORK.apply, PARAMS, {"term": POINTS["residual"]})


@pytest.mark.parametrize("door", [door for name, door in DOORS.items() if name != "residuals"])
def test_an_operator_without_a_derivative_is_refused(door):
    message = "operator of 'term' has values of type bool, which have no derivative"
    with pytest.raises(ValueError, match=message):
        door(problem_of(lambda u: lambda x: u(x) > 0), NETWORK.apply, PARAMS, {"term": POINTS["residual"]})


@without_network
@pytest.mark.parametrize(
    "operator, message",
    [
        (None, "operator of 'term' must be a function of the field"),
        (lambda u: lambda x: 1j * u(x), r"operator of 'term' has complex values; return \(re, im\)"),
        (lambda u: lambda x: u(x) > 0, "operator of 'term' has values of type bool"),
        (lambda u: lambda x: (u(x), u(x)), "operator of 'term' must return one array at a point, got tuple"),
    ],
    ids=["None", "complex", "whole numbers", "tuple"],
)
def test_a_kernel_of_an_operator_with_values_of_another_kind_is_refused(door, operator, message):
    with pytest.raises(ValueError, match=message):
        door(problem_of(operator), LIMIT, {"term": POINTS["residual"]})


@pytest.mark.parametrize(
    "term, message",
    [
        ((identity, 1.0), "target of 'term' must be a function of a point"),
        ((laplacian, lambda x: jnp.zeros((2, 2))), r"values of shape \(\) .* its target of shape \(2, 2\)"),
        ((identity, lambda x: 1j * x[0]), "target of 'term' has complex values"),
    ],
    ids=["number", "two components", "complex"],
)
def test_a_target_that_does_not_fit_is_refused_by_the_limit_of_training(term, message):
    with pytest.raises(ValueError, match=message):
        solving.limit(problem_of(*term), LIMIT, {"term": POINTS["residual"]})


def test_the_limit_of_training_finds_the_number_of_components():
    target = lambda x: jnp.stack([jnp.sin(x[0]), jnp.cos(x[0])])
    field = solving.limit(problem_of(identity, target), LIMIT, {"term": POINTS["residual"]}).field
    x = jnp.asarray(POINTS["residual"])[0]
    assert jnp.allclose(field(x), target(x), atol=1e-6)


@pytest.mark.parametrize(
    "field, points, message",
    [
        (lambda x: x[:, 0], [[0.0], [1.0]], r"The field .*takes a batch.*a function of one point"),
        (lambda x: (x[0], {}), [[0.0], [1.0]], "The field must return one array at a point, got tuple"),
        (lambda x: x[0], [0.0, 1.0], r"must have shape \(n, d\), n at least 1; got \(2,\)"),
        (lambda x: x[0], np.zeros((0, 1)), r"n at least 1; got \(0, 1\)"),
        (lambda x: x[0], [[0.0], [np.nan]], "`points` contain NaN"),
        (lambda x: x[0], [["here"]], "`points` must be numbers"),
    ],
    ids=["batch", "tuple", "one axis", "none", "NaN", "words"],
)
def test_what_an_error_cannot_be_taken_of_is_refused(field, points, message):
    with pytest.raises(ValueError, match=message):
        relative_l2_error(field, lambda x: 1 + x[0], points)


@pytest.mark.parametrize("size, dtype", [(1e30, jnp.float32), (1e-30, jnp.float32), (1.0, jnp.bfloat16)])
def test_an_error_does_not_overflow_vanish_or_drown_in_rounding(size, dtype):
    """Squares of 1e30 and 1e-30 are no float32, and a bfloat16 sum of 10,000 ones is 256."""
    off = lambda x: (1.25 * size * jnp.ones(())).astype(dtype)
    exact = lambda x: (size * jnp.ones(())).astype(dtype)
    error = relative_l2_error(off, exact, jnp.zeros((10_000, 1), dtype))
    np.testing.assert_allclose(error, 0.25, rtol=1e-5)


# 4


def test_the_error_is_taken_on_a_domain_with_a_hole_where_the_solution_is_singular():
    low, high = -jnp.ones(2), jnp.ones(2)

    def ring(key, n):
        angle, radius = jax.random.uniform(
            key, (2, n), minval=jnp.array([[0.0], [0.5]]), maxval=jnp.array([[6.3], [1]])
        )
        return radius[:, None] * jnp.stack([jnp.cos(angle), jnp.sin(angle)], -1)

    def solution(x):
        return jnp.log(x @ x) / 2

    problem = Problem("ring", {"residual": Condition(laplacian, zero, ring)}, (low, high), solution, test=ring)
    x = test_points(problem)
    assert x.shape == (10_000, 2) and ((x**2).sum(1) > 0.24).all()
    np.testing.assert_allclose(relative_l2_error(lambda x: 1.25 * solution(x), solution, x), 0.25, rtol=1e-12)
    with pytest.raises(ValueError, match=r"not finite at point 4, x = \[0.0, 0.0\]"):
        relative_l2_error(solution, solution, grid(problem, 3))


# 5


def wave_function(params, x):
    """Schroedinger's field as a complex number."""
    both = jnp.tanh(x @ params["w"]) @ params["v"]
    return both[0] + 1j * both[1]


COMPLEX = {"w": jax.random.normal(jax.random.key(0), (1, 6)), "v": jax.random.normal(jax.random.key(1), (6, 2))}


@every_door
def test_complex_residuals_are_refused_with_the_way_to_write_them(door):
    with pytest.raises(ValueError, match=r"operator of 'term' has complex values; return \(re, im\)"):
        door(problem_of(identity), wave_function, COMPLEX, {"term": POINTS["residual"]})


def test_real_and_imaginary_part_as_components_give_the_kernel_and_the_loss_of_the_modulus():
    def as_two(params, x):
        z = wave_function(params, x)
        return jnp.stack([z.real, z.imag])

    def modulus(u):  # |u|² of a complex field is real, and welcome.
        return lambda x: jnp.abs(u(x)) ** 2

    x = POINTS["residual"]
    problem = problem_of(identity, target=lambda x: jnp.zeros(2))
    flat, unravel = ravel_pytree(COMPLEX)
    z = lambda flat: jax.vmap(lambda x: wave_function(unravel(flat), x))(x)
    jac = jnp.stack([jax.jvp(z, (flat,), (e,))[1] for e in jnp.eye(flat.size)], -1)
    K = ntk.empirical(problem, as_two, COMPLEX, {"term": x}).matrix.reshape(3, 2, 3, 2)
    np.testing.assert_allclose(jnp.einsum("iaja->ij", K), (jac @ jac.conj().T).real, rtol=1e-10)
    loss = problem.losses(functools.partial(as_two, COMPLEX), {"term": x})["term"]
    np.testing.assert_allclose(2 * loss, jnp.mean(jnp.abs(z(flat)) ** 2), rtol=1e-12)
    real = problem_of(modulus).losses(functools.partial(wave_function, COMPLEX), {"term": x})["term"]
    np.testing.assert_allclose(real, jnp.mean(jnp.abs(z(flat)) ** 4), rtol=1e-12)


# 7


def test_a_term_that_is_not_trained_is_not_solved_for():
    alone = problem_of(partial(0), jnp.sum)
    beside = convergence.with_output(alone)
    points = {"term": POINTS["residual"], "output": POINTS["boundary"]}
    tangent = linearized(NETWORK, PARAMS)
    for solve in (
        lambda problem, points: solving.least_squares(problem, tangent, points),
        lambda problem, points: solving.limit(problem, LIMIT, points),
    ):
        one, other = solve(alone, {"term": points["term"]}), solve(beside, points)
        x = jnp.array([0.4])
        assert other.field(x) == one.field(x) and other.rank == one.rank
        assert other.residuals.keys() == {"term"}


@every_door
def test_a_problem_without_a_term_is_refused(door):
    with pytest.raises(ValueError, match="has no conditions, or none|No term of 'empty' is trained"):
        door(Problem("empty", {}, UNIT), NETWORK.apply, PARAMS, {})


# 9


def field_of(params, x):
    return params["c"] * (1 + x[0] * x[1])


CENTRE = jnp.array([[0.5, 0.5], [0.0, 0.25], [0.0, 0.0], [1.0, 1.0]])


@pytest.mark.parametrize(
    "operator, target, apply, c, message",
    [
        (
            lambda u: lambda x: u(x) / jnp.linalg.norm(x),
            zero,
            field_of,
            1.0,
            r"point 2 \(x = \[0.0, 0.0\]\), the operator .* inf; so at 1 of 4",
        ),
        (lambda u: lambda x: jnp.sqrt(u(x)), zero, field_of, -1.0, r"point 0 .*the operator .* nan; so at 4 of 4"),
        (identity, lambda x: jnp.log(x[1]), field_of, 1.0, r"point 2 .*the target .* -inf; so at 1 of 4"),
        (identity, zero, lambda p, x: p["c"] / x[0], 1.0, r"point 1 .*the value of the network .* inf; so at 2 of 4"),
        (lambda u: lambda x: jnp.sqrt(u(x) - 1), zero, field_of, 1.0, r"point 1 .*the gradient .* inf; so at 2 of 4"),
        (lambda u: lambda x: 1e200 * u(x), zero, field_of, 1.0, "finite at all points, up to 2e.200 and 2e.200"),
    ],
    ids=["1/r", "root of a negative field", "target", "network", "root of zero", "overflow of a sum"],
)
def test_what_is_not_finite_is_found_with_its_term_and_its_point(operator, target, apply, c, message):
    problem = problem_of(operator, target, SQUARE)
    found = explain_not_finite(problem, apply, {"c": jnp.array(c)}, {"term": CENTRE})
    assert re.search(message, found), found


@pytest.mark.parametrize(
    "door",
    [gradients.by_term, curvature.hessian, lambda *a: ntk.operator(*a).mv(jnp.ones(4)), ntk.traces, ntk.empirical],
)
def test_derivatives_that_are_not_finite_name_the_point(door):
    root = problem_of(lambda u: lambda x: jnp.sqrt(u(x) - 1), zero, SQUARE)
    with pytest.raises(ValueError, match=r"\[0.0, 0.25\]"):
        door(root, field_of, {"c": jnp.array(1.0)}, {"term": CENTRE})


# 10


def test_gradients_and_hessians_of_half_precision_are_those_of_float32():
    low = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), PARAMS)
    high = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), low)
    points = {name: x.astype(jnp.bfloat16) for name, x in POINTS.items()}
    single = {name: x.astype(jnp.float32) for name, x in points.items()}
    for door in (
        gradients.by_term,
        curvature.hessian,
        lambda *a: curvature.max_learning_rate(*a, key=jax.random.key(0)),
    ):
        one, other = (door(POISSON, NETWORK.apply, *of) for of in ((low, points), (high, single)))
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
            assert jnp.result_type(a) != jnp.bfloat16
            np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("weight", [-1.0, jnp.nan, jnp.array([1.0, -1.0, 1.0])])
def test_a_stepper_refuses_weights_that_are_negative_or_not_finite(weight):
    weights = {"boundary": 1.0, "residual": weight}
    with pytest.raises(ValueError, match="Weights must be finite and not negative.* for 'residual'"):
        training.stepper(POISSON, NETWORK.apply, POINTS, optax.sgd(0.1), weights)


# 16


@every_door
def test_a_network_that_takes_a_batch_is_refused_with_the_mend(door):
    def batched(params, x):
        n, d = x.shape
        return jax.vmap(functools.partial(NETWORK.apply, params))(x)

    with pytest.raises(ValueError, match=r"takes a batch.*apply\(params, x\[None\]\)\[0\]"):
        door(POISSON, batched, PARAMS, POINTS)
    mended = lambda params, x: batched(params, x[None])[0]
    assert check(POISSON, mended, PARAMS, POINTS).keys() == POINTS.keys()


@every_door
@pytest.mark.parametrize(
    "value, message",
    [
        (lambda u: jnp.stack([u, u]), r"of shape \(2,\), its target of shape \(\).*apply\(params, x\)\[0\]"),
        (lambda u: u[None, None], r"of shape \(1, 1\), its target of shape \(\).*\.reshape"),
        (lambda u: (u, {}), "network must return one array at a point, got tuple"),
    ],
    ids=["two outputs", "one in a matrix", "with a state"],
)
def test_a_network_with_a_value_of_another_kind_is_refused_with_the_mend(door, value, message):
    with pytest.raises(ValueError, match=message):
        door(problem_of(identity), lambda p, x: value(NETWORK.apply(p, x)), PARAMS, {"term": POINTS["residual"]})


@every_door
def test_an_operator_that_wants_more_components_than_there_are_says_whose_they_are(door):
    with pytest.raises(ValueError, match=r"operator of 'term' cannot .* network with values of shape \(\)"):
        door(problem_of(lambda u: lambda x: u(x)[1]), NETWORK.apply, PARAMS, {"term": POINTS["residual"]})


# 17


@pytest.mark.parametrize("whole", [[[0], [1]], np.array([[0], [1]]), jnp.array([[False], [True]])])
def test_points_as_whole_numbers_and_as_lists_are_floats(whole):
    points = check(POISSON, NETWORK.apply, PARAMS, {"residual": whole, "boundary": whole})
    for x in points.values():
        assert x.dtype == float and x.tolist() == [[0.0], [1.0]]
    single = jnp.ones((1, 1), jnp.float32)  # Floats keep their precision.
    assert check(POISSON, NETWORK.apply, PARAMS, POINTS | {"boundary": single})["boundary"].dtype == jnp.float32
    assert relative_l2_error(lambda x: 2 * x[0], lambda x: x[0], [[0], [1]]) == 1


@pytest.mark.parametrize("door", ["residuals", "traces", "by_term"])
def test_points_as_lists_of_whole_numbers_give_what_floats_give(door):
    got = DOORS[door](POISSON, NETWORK.apply, PARAMS, {"boundary": POINTS["boundary"], "residual": [[0], [1]]})
    want = DOORS[door](POISSON, NETWORK.apply, PARAMS, dict.fromkeys(POINTS, POINTS["boundary"]))
    leaves = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    assert all(np.allclose(a, b, rtol=1e-12) for a, b in leaves)


@pytest.mark.parametrize("points", [[[0], [1, 2]], [["here"]], [[1j]], [0.0, 1.0]])
def test_points_that_are_no_table_of_numbers_are_refused(points):
    with pytest.raises(ValueError, match=r"'boundary' .*\(n, 1\)"):
        check(POISSON, NETWORK.apply, PARAMS, POINTS | {"boundary": points})


# 18


class WithDropout(nnx.Module):
    def __init__(self):
        self.first = nnx.Linear(1, 8, rngs=nnx.Rngs(0))
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(1))  # A key, and how often it was used.

    def __call__(self, x):
        return self.drop(jnp.tanh(self.first(x)), deterministic=True).sum()


def test_keys_and_counters_among_the_parameters_are_refused_with_the_word_for_each_library():
    graph, state = nnx.split(WithDropout())
    apply = lambda params, x: nnx.merge(graph, params)(x)
    for door in (check, train, solved, ntk.empirical):
        with pytest.raises(ValueError, match=r"nnx.split\(model, nnx.Param, ...\)"):
            door(POISSON, apply, state, POINTS)
    graph, params, rest = nnx.split(WithDropout(), nnx.Param, ...)
    run = train(POISSON, lambda params, x: nnx.merge(graph, params, rest)(x), params, POINTS)
    assert run.history["loss/residual"][-1] < run.history["loss/residual"][0]
    assert jax.tree.structure(run.params) == jax.tree.structure(params)
    with pytest.raises(ValueError, match="has none"):
        check(POISSON, lambda params, x: x[0], {}, POINTS)


# 20


@pytest.mark.parametrize("d, n", [(10, 16), (100, 128), (2, 6)])
def test_every_face_of_a_box_has_the_same_chance_whatever_the_batch(d, n):
    draws = 400
    sample = faces(jnp.zeros(d), jnp.ones(d))
    x = jax.vmap(lambda key: sample(key, n))(jax.random.split(jax.random.key(0), draws))
    counts = np.stack([(x == 0).sum(1), (x == 1).sum(1)])  # Side, draw, axis.
    assert counts.sum() == n * draws and counts.max() - counts.min() == 1
    mean, share = n / (2 * d), n / (2 * d) % 1  # In every draw the one number or the other.
    np.testing.assert_allclose(counts.mean(1), mean, atol=5 * np.sqrt(share * (1 - share) / draws))


# 21


def test_several_noisy_readings_at_one_place_are_fitted_by_their_weighted_mean():
    x = jnp.array([[0.0], [0.0], [0.0], [1.0]])
    y, sigma = jnp.array([1.0, 3.0, 5.0, 7.0]), jnp.array([1.0, 1.0, 2.0, 1.0])
    readings = data(x, y, noise=sigma)
    problem = Problem("readings", {"data": readings}, UNIT)
    points = problem.sample(jax.random.key(0), 4)
    assert sorted(points["data"].tolist()) == sorted(jnp.column_stack([x, y, sigma]).tolist())
    apply = lambda params, x: params[0] + params[1] * x[0]
    J = jax.jacobian(problem.rows(apply, points))(jnp.zeros(2))
    fit = jnp.linalg.lstsq(J, -problem.rows(apply, points)(jnp.zeros(2)))[0]
    at_zero = (1 / 1 + 3 / 1 + 5 / 4) / (1 + 1 + 1 / 4)  # Weights 1/σ².
    np.testing.assert_allclose(fit, [at_zero, 7 - at_zero], rtol=1e-10)
    np.testing.assert_allclose(ntk.empirical(problem, apply, fit, points).matrix, J @ J.T, rtol=1e-12)


@pytest.mark.parametrize("n, least", [(3, 0), (5, 1), (13, 2)])
def test_readings_are_dealt_out_in_random_order(n, least):
    readings = data(jnp.arange(5.0)[:, None], jnp.arange(5.0))
    for key in jax.random.split(jax.random.key(0), 3):
        x = readings.sample(key, n)
        counts = np.bincount(np.asarray(x[:, 0], int), minlength=5)
        assert counts.sum() == n and counts.min() == least and np.ptp(counts) == (n % 5 > 0)
        assert jnp.array_equal(x[:, 0], x[:, 1])


def test_what_was_measured_may_be_a_derivative_or_several_components():
    x, y = jnp.array([[0.5], [1.0]]), jnp.array([[1.0, 2.0], [3.0, 5.0]])
    both = lambda u: lambda x: jnp.stack([u(x), partial(0)(u)(x)])
    problem = Problem("probe", {"data": data(x, y, operator=both, noise=0.5)}, UNIT)
    rows = {"data": jnp.column_stack([x, y, jnp.full(2, 0.5)])}
    r = problem.residuals(lambda x: x[0] ** 2, rows)["data"]
    np.testing.assert_allclose(r, np.array([0.25 - 1, 1 - 2, 1 - 3, 2 - 5]) / 0.5, rtol=1e-12)


@pytest.mark.parametrize(
    "x, y, noise, message",
    [
        (jnp.ones(3), jnp.ones(3), None, r"`x` must have shape \(n, d\)"),
        (jnp.ones((3, 1)), jnp.ones(2), None, r"got \(3, 1\) and \(2,\)"),
        (jnp.ones((3, 1)), jnp.full(3, jnp.nan), None, "NaN"),
        (jnp.ones((3, 1)), jnp.ones(3) * 1j, None, "complex"),
        (jnp.ones((3, 1)), ["much"] * 3, None, "Readings must be numbers"),
        (jnp.ones((3, 1)), jnp.ones(3), 0.0, "positive"),
        (jnp.ones((3, 1)), jnp.ones((3, 2)), jnp.ones((3, 2)), r"of shape \(3,\)"),
    ],
)
def test_readings_that_do_not_fit_are_refused(x, y, noise, message):
    with pytest.raises(ValueError, match=message):
        data(x, y, noise=noise)


def test_points_of_measurements_without_their_values_are_refused():
    problem = Problem("readings", {"data": data(jnp.ones((3, 1)), jnp.ones(3))}, UNIT)
    with pytest.raises(ValueError, match=r"shape \(n, 2\), 1 inputs and 1 measured"):
        problem.residuals(lambda x: x[0], {"data": jnp.ones((3, 1))})


# 22


def decay_with_unknown_rate():
    """``u' = -c u`` with readings of ``exp(-2 t)``: the rate is a second, constant component of the field."""

    def apply(params, x):
        return jnp.stack([NETWORK.apply(params["network"], x), params["rate"]])

    def decay(field):
        u = lambda x: field(x)[0]
        return lambda x: partial(0)(u)(x) + field(x)[1] * u(x)

    t = jnp.linspace(0, 1, 9)[:, None]
    readings = data(t, jnp.exp(-2 * t[:, 0]), operator=lambda field: lambda x: field(x)[0])
    conditions = {"readings": readings, "residual": Condition(decay, zero, box(*UNIT))}
    points = {"readings": jnp.column_stack([t, jnp.exp(-2 * t)]), "residual": jnp.linspace(0, 1, 20)[:, None]}
    return Problem("decay", conditions, UNIT), apply, {"network": PARAMS, "rate": jnp.array(0.5)}, points


def test_an_unknown_coefficient_adds_its_own_column_to_the_kernel():
    problem, apply, params, points = decay_with_unknown_rate()
    K = ntk.empirical(problem, apply, params, points)
    known = ntk.empirical(problem, lambda p, x: apply(params | {"network": p}, x), params["network"], points)
    u = jax.vmap(functools.partial(NETWORK.apply, params["network"]))(points["residual"])
    difference = K["residual", "residual"] - known["residual", "residual"]
    np.testing.assert_allclose(difference, jnp.outer(u, u), atol=1e-12)  # K_rr = J Jᵀ + u uᵀ.


def test_an_unknown_coefficient_is_recovered_from_readings():
    problem, apply, params, points = decay_with_unknown_rate()
    flat, unravel = ravel_pytree(params)
    rows = lambda flat: problem.rows(apply, points)(unravel(flat))

    @jax.jit
    def step(flat, damping):
        J, r = jax.jacobian(rows)(flat), rows(flat)
        trial = flat - J.T @ jnp.linalg.solve(J @ J.T + damping * jnp.eye(r.size), r)
        better = jnp.sum(rows(trial) ** 2) < jnp.sum(r**2)
        return jnp.where(better, trial, flat), jnp.where(better, damping / 3, damping * 3)

    state = flat, jnp.array(1.0)
    for _ in range(100):
        state = step(*state)
    np.testing.assert_allclose(unravel(state[0])["rate"], 2.0, rtol=1e-3)


# 23


def test_a_field_with_101_components_has_101_residuals_per_point():
    stages = jnp.arange(101.0)
    field = lambda x: jnp.sin(stages * x[0])
    problem = problem_of(partial(0), lambda x: jnp.zeros(101))
    x = jnp.array([[0.3], [0.7]])
    np.testing.assert_allclose(problem.residuals(field, {"term": x})["term"], (stages * jnp.cos(stages * x)).ravel())


# 25


def test_weights_per_point_are_a_factor_on_the_condition():
    slices = jnp.array([1.0, 0.5, 0.1])  # Causal weights of three slices of time.
    factor = lambda x: jnp.sqrt(slices[jnp.minimum((3 * x[0]).astype(int), 2)])
    x = jnp.array([[0.1], [0.3], [0.5], [0.9]])
    weight = np.array([1.0, 1.0, 0.5, 0.1])
    plain, points = POISSON.only("residual"), {"residual": x}
    weighted = plain.replaced(residual=plain.conditions["residual"].scaled(factor))
    field = functools.partial(NETWORK.apply, PARAMS)
    r = plain.residuals(field, points)["residual"]
    np.testing.assert_allclose(weighted.losses(field, points)["residual"], np.mean(weight * r**2), rtol=1e-12)
    K, other = (ntk.empirical(p, NETWORK.apply, PARAMS, points).matrix for p in (plain, weighted))
    np.testing.assert_allclose(other, np.sqrt(np.outer(weight, weight)) * K, rtol=1e-10)


# Solving


SINGULAR = problem_of(lambda u: lambda x: u(x) / x[0])
LOGARITHM = problem_of(identity, lambda x: jnp.log(x[0]))
FROM_ZERO = jnp.array([[0.5], [0.0], [1.0]])


@pytest.mark.parametrize("problem, whose", [(SINGULAR, "the operator"), (LOGARITHM, "the target")])
def test_a_solver_names_the_point_at_which_something_is_not_finite(problem, whose):
    message = rf"In 'term', at point 1 \(x = \[0.0\]\), {whose} .*is not finite"
    with pytest.raises(ValueError, match=message):
        solved(problem, NETWORK.apply, PARAMS, {"term": FROM_ZERO})
    with pytest.raises(ValueError, match=message):
        solving.limit(problem, LIMIT, {"term": FROM_ZERO})


def test_an_operator_without_its_field_is_refused_by_the_solvers():
    nothing = problem_of(lambda u: lambda x: 0 * u(x), lambda x: jnp.ones(()))
    with pytest.raises(ValueError, match="No parameter changes any residual"):
        solved(nothing, NETWORK.apply, PARAMS, {"term": POINTS["residual"]})
    with pytest.raises(ValueError, match="No residual of 'mine' depends on the field"):
        solving.limit(nothing, LIMIT, {"term": POINTS["residual"]})


def test_data_that_contradict_each_other_are_fitted_by_their_mean_and_the_estimate_says_so():
    twice = Problem("twice", {"data": data([[0.5], [0.5]], [0.0, 1.0])}, UNIT)
    points = {"data": [[0.5, 0], [0.5, 1]]}
    for solution in (
        solving.least_squares(twice, linearized(NETWORK, PARAMS), points),
        solving.limit(twice, LIMIT, points),
    ):
        np.testing.assert_allclose(solution.field(jnp.array([0.5])), 0.5, rtol=1e-8)
        assert solution.error_estimate > 0.5  # Each reading is wrong by as much as the field.


def test_points_at_which_the_solution_vanishes_say_nothing_about_its_size():
    held_out = {"data": jnp.array([[0.5]])}
    problem = Problem("wave", {"data": Condition(identity, lambda x: jnp.sin(jnp.pi * x[0]), box(*UNIT))}, UNIT)
    assert solving.limit(problem, LIMIT, {"data": [[0]]}, held_out=held_out).error_estimate == np.inf


def test_a_row_that_no_field_changes_is_left_alone_by_the_limit():
    """``x u = x`` at x = 0, where any field will do."""
    problem = problem_of(lambda u: lambda x: x[0] * u(x), lambda x: x[0])
    x = jnp.linspace(0, 1, 6)[:, None]
    with_zero, without = (solving.limit(problem, LIMIT, {"term": y}) for y in (x, x[1:]))
    np.testing.assert_allclose(with_zero.field(x[0]), without.field(x[0]), rtol=1e-6)
    np.testing.assert_allclose(with_zero.field(x[3]), 1, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_solved_in_float32(dtype):
    low = jax.tree.map(lambda leaf: leaf.astype(dtype), PARAMS)
    tangent = linearized(Network(lambda key: low, NETWORK.apply, None), low)
    solution = solving.least_squares(POISSON, tangent, POINTS)
    assert {leaf.dtype for leaf in jax.tree.leaves(solution.params)} == {jnp.dtype("float32")}
    assert solution.history[-1] < 1e-5


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cut": -1.0}, "`cut` is a part"),
        ({"cut": np.nan}, "`cut` is a part"),
        ({"memory": 0}, "at most 0 parameters"),
        (
            {"weights": {"boundary": 1.0, "residual": np.ones(3)}},
            r"one number per term, got shape \(3,\) for 'residual'",
        ),
        ({"held_out": {"boundary": [[0]], "residual": [[np.nan]]}}, "Points of 'residual' contain NaN"),
    ],
    ids=["negative", "NaN", "no memory", "a weight per row", "held out"],
)
def test_options_of_least_squares_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        solving.least_squares(POISSON, linearized(NETWORK, PARAMS), POINTS, **options)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"cut": 1.0}, "`cut` is a part"),
        ({"steps": 0}, "`steps` and `components` must be at least 1"),
        ({"components": 0}, "`steps` and `components` must be at least 1"),
        ({"components": 2}, r"values of shape \(2,\)"),
    ],
)
def test_options_of_the_limit_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        solving.limit(POISSON, LIMIT, POINTS, **options)


def test_the_limit_takes_points_of_any_precision_in_float64():
    problem = problem_of(partial(0), lambda x: jnp.cos(x[0]))
    fields = [
        solving.limit(problem, LIMIT, {"term": x}, held_out={"term": x}).field(jnp.array([0.3]))
        for x in ([[0], [1]], jnp.array([[0.0], [1.0]], jnp.float32), np.array([[0.0], [1.0]]))
    ]
    assert fields[0] == fields[1] == fields[2]
