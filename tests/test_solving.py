"""The solvers against numpy on explicit matrices, manufactured solutions, and what theory says of their rates."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from pinn_analysis import Condition, Network, Problem, identity, mlp, partial, solving, standardized
from pinn_analysis.networks import linearized
from pinn_analysis.problems import box, faces, helmholtz_2d, poisson_1d, relative_l2_error, test_points
from pinn_analysis.solving._linear import least_squares as minimum_norm
from pinn_analysis.solving._optimizer import damped
from pinn_analysis.solving._steps import factored
from pinn_analysis.training import train

INTERVAL = jnp.zeros(1), jnp.ones(1)
INSIDE = box(*INTERVAL)
RNG = np.random.default_rng(0)
POISSON_POINTS = {"boundary": jnp.array([[0.0], [1.0]]), "residual": jnp.linspace(0, 1, 120)[:, None]}


def waves(problem, width=60, scale=5.0, key=0, dtype=None):
    """One hidden layer of sines, linearised at its start."""
    d = len(problem.domain[0])
    network = mlp((d, width, 1), "sin", parameterization="ntk", weight_std=scale, bias_std=1.0)
    network = standardized(network, *problem.domain)
    params = network.init(jax.random.key(key))
    if dtype is not None:
        params = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    return linearized(network, params, centered=True)


def polynomial(degree):
    return Network(lambda key: jnp.zeros(degree + 1), lambda c, x: jnp.polyval(c[::-1], x[0]), None)


def error(solution, problem):
    return float(relative_l2_error(solution.field, problem.solution, test_points(problem)))


def cubic():
    """``u'' - u³ = f`` on [0, 1] with solution ``2 sin 4x``."""
    solution = lambda x: 2 * jnp.sin(4 * x[0])
    operator = lambda u: lambda x: partial(0, 0)(u)(x) - u(x) ** 3
    return Problem(
        "cubic",
        {
            "boundary": Condition(identity, solution, faces(*INTERVAL)),
            "residual": Condition(operator, operator(solution), INSIDE),
        },
        INTERVAL,
        solution,
    )


def test_the_tangent_of_a_network_is_its_taylor_polynomial(key):
    network = mlp((2, 5, 5, 1))
    start, other = network.init(key), network.init(jax.random.key(1))
    tangent, x = linearized(network, start), jnp.array([0.3, -0.2])
    move = lambda h: jax.tree.map(lambda a, b: a + h * (b - a), start, other)
    gaps = [float(abs(network.apply(move(h), x) - tangent.apply(move(h), x))) for h in (1e-2, 1e-3)]
    assert 80 < gaps[0] / gaps[1] < 125  # Second order.
    assert tangent.init(key) is start and tangent.apply(start, x) == network.apply(start, x)
    assert linearized(network, start, centered=True).apply(start, x) == 0


def test_no_digit_is_lost_over_fourteen_decades_and_the_rank_is_found():
    left, right = (np.linalg.qr(RNG.standard_normal((n, 300)))[0] for n in (1500, 1100))
    a = left * np.logspace(0, -14, 300) @ right.T
    x = right @ (np.logspace(0, -2, 300) * RNG.standard_normal(300))
    found = minimum_norm(a, a @ x, cut=1e-15)
    assert 290 <= found.rank <= 310
    assert np.linalg.norm(a @ found.x - a @ x) <= 1e-14 * np.linalg.norm(a @ x)


@pytest.mark.parametrize("n, p, rank", [(60, 40, 20), (20, 40, 20), (40, 40, 40), (60, 40, 40), (30, 50, 7)])
def test_the_shortest_solution_is_that_of_the_pseudoinverse(n, p, rank):
    a, b = RNG.standard_normal((n, rank)) @ RNG.standard_normal((rank, p)), RNG.standard_normal(n)
    found = minimum_norm(a.copy(), b, cut=1e-12)
    assert found.rank == rank
    np.testing.assert_allclose(found.x, np.linalg.pinv(a, rcond=1e-12) @ b, rtol=1e-9, atol=1e-12)


def test_a_polynomial_network_gets_the_coefficients_that_numpy_finds():
    problem, network, x = poisson_1d(a=1), polynomial(6), np.linspace(0, 1, 120)
    k = np.arange(7)
    ends = np.array([0.0**k, 1.0**k])
    inside = k * (k - 1) * np.where(k > 1, x[:, None] ** np.maximum(k - 2, 0), 0)
    a, b = np.concatenate([ends, inside]), np.concatenate([[0, 0], -(np.pi**2) * np.sin(np.pi * x)])
    scale = 1 / np.linalg.norm(a, axis=1)
    expected = np.linalg.lstsq(a * scale[:, None], b * scale, rcond=None)[0]
    solution = solving.least_squares(problem, linearized(network, jnp.zeros(7)), POISSON_POINTS)
    np.testing.assert_allclose(solution.params, expected, rtol=1e-9, atol=1e-12)
    assert solution.iterations == 1 and solution.rank == 7
    damped = solving.least_squares(problem, network, POISSON_POINTS)
    np.testing.assert_allclose(damped.params, expected, rtol=1e-6, atol=1e-9)


def test_a_linear_problem_is_solved_in_one_step_and_the_error_is_known(key):
    problem = poisson_1d()
    points = problem.sample(key, {"boundary": 2, "residual": 300})
    solution = solving.least_squares(problem, waves(problem), points)
    true = error(solution, problem)
    assert true < 1e-12
    assert true / 3 < solution.error_estimate < 300 * true
    assert solution.iterations == 1
    assert solution.rank < 50 < 181 and solution.condition < 1e15
    assert set(solution.residuals) == set(problem.conditions)
    assert f"rank {solution.rank}" in str(solution)


def test_the_field_takes_every_operator(key):
    problem = poisson_1d()
    points = problem.sample(key, {"boundary": 2, "residual": 300})
    field = solving.least_squares(problem, waves(problem), points).field
    x = jnp.array([0.3])
    expected = jnp.stack([partial(*[0] * n)(problem.solution)(x) for n in (1, 3)])
    np.testing.assert_allclose([partial(0)(field)(x), partial(0, 0, 0)(field)(x)], expected, rtol=1e-9)


def test_newton_converges_quadratically(key):
    problem = cubic()
    points = problem.sample(key, {"boundary": 2, "residual": 300})
    errors = [error(solving.least_squares(problem, waves(problem), points, steps=n), problem) for n in (1, 2, 3, 4)]
    orders = [np.log(errors[i + 1] / errors[i]) / np.log(errors[i] / errors[i - 1]) for i in (1, 2)]
    assert errors[0] > 1e-2 and errors[3] < 1e-5
    assert all(1.6 < order < 2.5 for order in orders)
    final = solving.least_squares(problem, waves(problem), points)
    assert error(final, problem) < 1e-12 and final.iterations <= 7


def test_units_of_rows_do_not_matter(key):
    problem = cubic()
    points = problem.sample(key, {"boundary": 2, "residual": 300})
    c = problem.conditions
    scaled = problem.replaced(
        boundary=c["boundary"].scaled(1e-8), residual=c["residual"].scaled(lambda x: 1e5 * (1 + x[0]))
    )
    for network in (waves(problem), mlp((1, 12, 1))):
        plain, other = (solving.least_squares(p, network, points, steps=3) for p in (problem, scaled))
        np.testing.assert_allclose(other.history, plain.history, rtol=1e-6)


def test_weights_are_those_of_squares():
    """Two readings that disagree, weights 1 and 3: their weighted mean."""
    one = lambda x: 1.0
    conditions = {
        "a": Condition(identity, lambda x: jnp.zeros(()), INSIDE),
        "b": Condition(identity, lambda x: jnp.ones(()), INSIDE),
    }
    problem = Problem("two", conditions, INTERVAL, one)
    constant = Network(lambda key: jnp.zeros(1), lambda c, x: c[0] * jnp.cos(0 * x[0]), None)
    points = {"a": [[0.5]], "b": [[0.5]]}
    solution = solving.least_squares(problem, constant, points, weights={"a": 1.0, "b": 3.0})
    np.testing.assert_allclose(solution.params, [0.75], rtol=1e-9)
    assert solution.error_estimate > 0.1  # The system is inconsistent, and nothing hides it.
    with pytest.raises(ValueError, match="missing: \\['b'\\]"):
        solving.least_squares(problem, constant, points, weights={"a": 1.0})


def test_damped_steps_are_those_of_the_augmented_system():
    a, b = RNG.standard_normal((30, 8)), RNG.standard_normal(30)
    solved, _ = factored(a, b, 1e-15)
    augmented = np.concatenate([a, np.sqrt(0.3) * np.linalg.norm(a, 2) * np.eye(8)])
    expected = np.linalg.lstsq(augmented, np.concatenate([b, np.zeros(8)]), rcond=None)[0]
    np.testing.assert_allclose(solved(b, 0.3), expected, rtol=1e-10)


@pytest.mark.parametrize("n", [30, 5])
def test_damped_steps_by_qr_are_those_of_the_augmented_system(n):
    a, b = RNG.standard_normal((n, 8)), RNG.standard_normal(n)
    augmented = np.concatenate([a, np.sqrt(0.3) * np.eye(8)])
    expected = np.linalg.lstsq(augmented, np.concatenate([b, np.zeros(8)]), rcond=None)[0]
    np.testing.assert_allclose(damped(jnp.asarray(a), jnp.asarray(b), 0.3), expected, rtol=1e-10)


def test_gauss_newton_trains_on_batches_where_adam_has_hardly_begun(key):
    problem, network = poisson_1d(a=1), mlp((1, 15, 1), "tanh", weight_std=2.0, bias_std=1.0)
    options = {"steps": 60, "batch_size": 40, "record_every": 60, "key": key}
    last = lambda optimizer: train(problem, network, optimizer=optimizer, **options).history["error"][-1]
    assert last(solving.gauss_newton()) < 1e-3 < 1e-1 < last(optax.adam(1e-2))


def test_the_optimizer_takes_no_step_to_what_is_not_a_number_and_damps_until_it_finds_one():
    """``log u = log 0.01`` from u = 3: the whole step goes to -14."""
    optimizer, u = solving.gauss_newton(1e-6), jnp.array([3.0])
    residuals = lambda u: jnp.log(u / 0.01)
    step = jax.jit(lambda u, state: optimizer.update(u, state, u, residuals_fn=residuals))
    state, whole = optimizer.init(u), 3 * np.log(300)
    change, state = step(u, state)
    assert change == 0 and state.damping == pytest.approx(1e-6 * 2**12)  # Tried twelve times.
    change, state = step(u, state)
    assert -3 < change[0] < 0
    np.testing.assert_allclose(change, -whole / (1 + 3 * state.damping), rtol=1e-9)  # It took three times that.
    for _ in range(30):
        u = u + change
        change, state = step(u, state)
    np.testing.assert_allclose(u, 0.01, rtol=1e-9)
    with pytest.raises(ValueError, match="residuals_fn"):
        optimizer.update(u, state, u)
    with pytest.raises(ValueError, match="positive"):
        solving.gauss_newton(0.0)


def test_the_network_itself_is_solved_by_damped_steps(key):
    problem = poisson_1d(a=1)
    network = mlp((1, 15, 1), "tanh", weight_std=2.0, bias_std=1.0)
    solution = solving.least_squares(problem, network, POISSON_POINTS, key=key, steps=100)
    assert np.all(np.diff(solution.history) < 0)
    assert error(solution, problem) < 1e-7  # Without geodesic acceleration it is 1e-4 to 1e-6 by then.
    assert error(solution, problem) < 10 * solution.error_estimate


def test_a_trial_step_that_is_not_a_number_is_rejected():
    """Newton's step for ``log u = log 0.01`` from u = 3 goes to where there is no logarithm."""
    log = lambda u: lambda x: jnp.log(u(x))
    problem = Problem(
        "log",
        {"data": Condition(log, lambda x: jnp.log(0.01), INSIDE)},
        INTERVAL,
    )
    constant = Network(lambda key: jnp.full(1, 3.0), lambda c, x: c[0] * jnp.cos(0 * x[0]), None)
    for network in (constant, linearized(constant, jnp.full(1, 3.0))):
        solution = solving.least_squares(problem, network, {"data": [[0.1], [0.2]]})
        np.testing.assert_allclose(solution.params, [0.01], rtol=1e-10)
    with pytest.raises(ValueError, match="not finite at the start"):
        solving.least_squares(problem, constant, {"data": [[0.1]]}, params=jnp.full(1, -1.0))


def test_a_start_that_cannot_be_improved_says_so():
    square = lambda u: lambda x: u(x) ** 2 + 1.0
    problem = Problem("no solution", {"data": Condition(square, lambda x: jnp.zeros(()), INSIDE)}, INTERVAL)
    constant = Network(lambda key: jnp.full(1, 1e-9), lambda c, x: c[0] * jnp.cos(0 * x[0]), None)
    for network in (constant, linearized(constant, jnp.full(1, 1e-9))):
        assert "no step lowers" in solving.least_squares(problem, network, {"data": [[0.1]]}).reason


def test_duplicates_and_too_few_rows_give_the_shortest_solution():
    problem, network = poisson_1d(a=1), linearized(polynomial(6), jnp.zeros(7))
    few = {"boundary": [[0.0], [1.0], [1.0]], "residual": [[0.2], [0.2], [0.7]]}
    k = np.arange(7)
    inside = np.array([k * (k - 1) * np.where(k > 1, x ** np.maximum(k - 2.0, 0), 0) for x in (0.2, 0.7)])
    a = np.concatenate([[0.0**k, 1.0**k], inside])
    b = np.concatenate([[0, 0], -(np.pi**2) * np.sin(np.pi * np.array([0.2, 0.7]))])
    solution = solving.least_squares(problem, network, few)
    np.testing.assert_allclose(solution.params, np.linalg.pinv(a) @ b, rtol=1e-10, atol=1e-12)
    assert solution.rank == 4
    assert solution.error_estimate > 1e-2


def test_what_does_not_fit_into_memory_is_refused_with_the_size_that_does():
    problem, network = poisson_1d(), waves(poisson_1d())
    with pytest.raises(ValueError, match="122 rows by 181 parameters need 0.0 GB.*at most 25 parameters"):
        solving.least_squares(problem, network, POISSON_POINTS, memory=1e5)


def test_more_rows_than_memory_holds_are_solved_from_products_as_well_as_from_the_jacobian(key):
    problem, points = poisson_1d(2), {
        "boundary": jnp.array([[0.0], [1.0]]),
        "residual": jnp.linspace(0, 1, 1500)[:, None],
    }  # fmt: skip
    network = waves(problem)
    with pytest.raises(ValueError, match="`solving.iterative` needs no Jacobian of all rows"):
        solving.least_squares(problem, network, points, memory=3e6)
    direct = solving.least_squares(problem, network, points)
    found = solving.iterative(problem, network, points, memory=3e6)
    assert error(direct, problem) < 1e-10
    assert error(found, problem) < 10 * error(direct, problem) + 1e-12
    assert found.history[-1] < 2 * direct.history[-1]
    assert error(found, problem) / 30 < found.error_estimate < 1e-8
    assert found.settings["sampled rows"] < 600 and found.rank > 0.9 * direct.rank
    few = solving.iterative(problem, network, points, sampled=20)  # The best fit within the span of twenty rows.
    assert few.rank <= 20 and few.history[-1] < 0.1 * few.history[0]
    assert 0.1 * error(few, problem) < few.error_estimate


def test_a_nonlinear_equation_is_solved_from_products_by_newton_steps():
    problem = cubic()
    points = {"boundary": jnp.array([[0.0], [1.0]]), "residual": jnp.linspace(0, 1, 200)[:, None]}
    found = solving.iterative(problem, waves(problem, width=40), points)
    assert error(found, problem) < 1e-8 and 3 <= found.iterations <= 8


def test_what_the_iterative_solver_cannot_take_is_refused(key):
    problem = poisson_1d(2)
    with pytest.raises(ValueError, match="takes a network of `networks.linearized`"):
        solving.iterative(problem, mlp((1, 5, 1)), POISSON_POINTS)
    for bad in {"sampled": 0}, {"steps": 0}:
        with pytest.raises(ValueError, match="must be at least 1"):
            solving.iterative(problem, waves(problem), POISSON_POINTS, **bad)
    with pytest.raises(ValueError, match="100 sampled rows of 181 parameters .* which hold 17"):
        solving.iterative(problem, waves(problem), POISSON_POINTS, sampled=100, memory=1e5)


@pytest.mark.parametrize("solve", [solving.least_squares, solving.iterative])
def test_a_factor_common_to_all_weights_changes_no_estimate(solve):
    problem, points = poisson_1d(2), {"boundary": [[0.0], [1.0]], "residual": jnp.linspace(0, 1, 200)[:, None]}
    network = waves(problem, width=4)
    found = [solve(problem, network, points, weights=dict.fromkeys(points, w)).error_estimate for w in (1.0, 1e4)]
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_float32_gives_the_digits_it_can(key):
    problem = poisson_1d()
    points = problem.sample(key, {"boundary": 2, "residual": 300})
    solution = solving.least_squares(problem, waves(problem, dtype=jnp.float32), points)
    assert solution.params[0]["weight"].dtype == jnp.float32
    assert error(solution, problem) < 1e-4
    assert error(solution, problem) < 3 * solution.error_estimate < 1e-1


def test_components_are_solved_together(key):
    """``u' = 3v, v' = -3u``: sine and cosine."""
    exact = lambda x: jnp.stack([jnp.sin(3 * x[0]), jnp.cos(3 * x[0])])
    low, high = jnp.zeros(1), jnp.ones(1)
    rotation = lambda w: lambda x: partial(0)(w)(x) - 3 * jnp.stack([w(x)[1], -w(x)[0]])
    problem = Problem(
        "rotation",
        {
            "initial": Condition(identity, exact, faces(low, high, (0, 0))),
            "residual": Condition(rotation, lambda x: jnp.zeros(2), box(low, high)),
        },
        (low, high),
        exact,
    )
    network = standardized(mlp((1, 40, 2), "sin", parameterization="ntk", weight_std=3.0, bias_std=1.0), low, high)
    points = {"initial": low[None], "residual": jnp.linspace(0, 1, 150)[:, None]}
    solution = solving.least_squares(problem, linearized(network, network.init(key)), points)
    assert error(solution, problem) < 1e-12
    assert {name: r.shape for name, r in solution.residuals.items()} == {"initial": (2,), "residual": (150,)}


def sines(problem, scale=3.0):
    network = mlp((len(problem.domain[0]), 1, 1), "sin", parameterization="ntk", weight_std=scale, bias_std=1.0)
    return standardized(network, *problem.domain).kernel_fn


def test_the_limit_of_data_alone_is_regression_with_the_kernel():
    """Against the formulas of Rasmussen and Williams (2.23, 2.24), by numpy."""
    target = lambda x: jnp.exp(x[0])
    problem = Problem("regression", {"data": Condition(identity, target, INSIDE)}, INTERVAL, target)
    kernel_fn, x, z = sines(problem, 1.0), jnp.array([[0.1], [0.4], [0.9]]), jnp.array([[0.25], [0.7]])
    solution = solving.limit(problem, kernel_fn, {"data": x})
    k, kz, kzz = (np.asarray(kernel_fn(a, b, "ntk")) for a, b in ((x, x), (z, x), (z, z)))
    y = np.exp(np.asarray(x)[:, 0])
    np.testing.assert_allclose(jax.vmap(solution.field)(z), kz @ np.linalg.solve(k, y), rtol=1e-9)
    size = y @ np.linalg.solve(k, y) / 3
    variance = size * np.diag(kzz - kz @ np.linalg.solve(k, kz.T))
    np.testing.assert_allclose(jax.vmap(solution.variance)(z)[:, 0], variance, rtol=1e-6)
    np.testing.assert_allclose(solution.variance(x[1]), 0, atol=1e-12)


def test_the_limit_solves_a_linear_equation_and_knows_its_error():
    problem = poisson_1d()
    points = {"boundary": jnp.array([[0.0], [1.0]]), "residual": jnp.linspace(0, 1, 48)[:, None]}
    solution = solving.limit(problem, sines(problem), points)
    assert error(solution, problem) < 1e-6
    assert error(solution, problem) < 3 * solution.error_estimate < 1e-2
    assert solution.iterations == 1 and "linear" in solution.reason
    x = jnp.linspace(0.02, 0.98, 40)[:, None]
    field, variance = jax.lax.map(lambda x: (solution.field(x), solution.variance(x)[0]), x)
    deviations = np.abs(np.asarray(field) - np.asarray(jax.vmap(problem.solution)(x))) / np.sqrt(np.asarray(variance))
    assert deviations.max() < 4  # Of a normal distribution, once in 16,000.


def test_a_kernel_that_does_not_fit_into_memory_is_refused_with_the_size_that_does():
    problem = poisson_1d()
    with pytest.raises(ValueError, match="122 rows .* needs 0.0 GB.*at most 55 of them, which is 0.46 times"):
        solving.limit(problem, sines(problem), POISSON_POINTS, memory=1e5)


def test_the_limit_of_a_nonlinear_equation_is_a_fixed_point_of_its_linearisation():
    """With the kernel that `ntk.infinite` has at the field that was found."""
    problem, points = cubic(), {"boundary": jnp.array([[0.0], [1.0]]), "residual": jnp.linspace(0, 1, 24)[:, None]}
    solution = solving.limit(problem, sines(problem), points)
    assert error(solution, problem) < 1e-4
    assert solution.history[2] < 0.1 * solution.history[1] and solution.history[3] < 0.02 * solution.history[2]
    assert float(solution.variance(jnp.array([0.5]))[0]) > 0


def test_the_limit_refuses_what_it_cannot_take_apart():
    shifted = lambda u: lambda x: u(x) * u(x + 0.1)
    problem = Problem("delay", {"data": Condition(shifted, lambda x: jnp.ones(()), INSIDE)}, INTERVAL)
    with pytest.raises(ValueError, match="function of derivatives of the field at one point"):
        solving.limit(problem, sines(problem), {"data": jnp.linspace(0, 1, 5)[:, None]})


def test_points_cover_what_is_sampled_edges_at_half_the_distance(key):
    cover = solving._solve.cover(helmholtz_2d(), key, 800)
    points = cover.take(500)
    assert abs(sum(map(len, points.values())) - 500) < 20
    x = np.asarray(points["residual"])
    gaps = np.sort(np.linalg.norm(x[:, None] - x, axis=-1), 1)[:, 1]
    assert gaps.min() > 0.6 * np.sqrt(4 / len(x))  # Random points come a hundred times closer.
    edge = np.asarray(points["boundary"])
    closest = np.sort(np.linalg.norm(edge[:, None] - edge, axis=-1), 1)[:, 1].min()
    assert 1.8 < gaps.min() / closest < 2.2
    # Points on a line no closer than `h / 2`, with no room for another, are `h / 2` to `h` apart.
    assert 1.2 < len(points["boundary"]) / (8 / gaps.min()) < 2
    few = solving._solve.cover(poisson_1d(), key, 100).take(50)
    np.testing.assert_array_equal(np.sort(few["boundary"][:, 0]), [0, 1])


def test_an_estimate_that_another_solution_contradicts_is_their_difference():
    """Lines of slope ``c``, so that errors are known; an estimate may be five times too small."""
    found = lambda c, estimate: solving.Solution(
        functools.partial(lambda c, x: c * x[0], c), {}, estimate, (), 1, 1.0, "", c
    )
    x, one = jnp.linspace(0, 1, 9)[:, None], jnp.array(1.0)
    wrong = lambda *others: solving._solve.contradiction(found(1.5 * one, 0.01), [found(*each) for each in others], x)
    assert wrong((one, 0.1), (1.5 * one, 0.01)) == 0
    assert wrong((one, 0.01)) == pytest.approx(0.5 / 1.5)
    assert wrong((jnp.nan * one, jnp.inf), (1.2 * one, 0.02)) == pytest.approx(0.3 / 1.5)
    # One among three is taken to be wrong, and of two nobody knows.
    assert wrong((1.5 * one, 0.01), (one, 0.01)) == 0
    assert wrong((one, 0.01), (1.2 * one, 0.01)) == pytest.approx(0.5 / 1.5)
    assert wrong((100 * one, 1.0)) == 0  # An estimate is relative to the field that it is of.


@pytest.mark.parametrize("omega", [10, 100])
def test_everything_is_chosen_without_the_solution(omega):
    problem = poisson_1d(a=omega / np.pi)
    solution = solving.solve(problem._replace(solution=None), key=jax.random.key(3))
    assert error(solution, problem) < 1e-12
    assert solution.error_estimate < 1e-12
    assert {"width", "scales", "points", "trials"} == set(solution.settings)


def test_a_problem_without_a_solution_is_said_to_be_unsolved():
    """``u' = 1`` with u = 0 at both ends."""
    conditions = {
        "boundary": Condition(identity, lambda x: jnp.zeros(()), faces(*INTERVAL)),
        "residual": Condition(partial(0), lambda x: jnp.ones(()), INSIDE),
    }
    solution = solving.solve(Problem("none", conditions, INTERVAL), key=jax.random.key(0), memory=1e8)
    assert solution.error_estimate > 0.1
    assert "no scale resolves" in solution.reason
