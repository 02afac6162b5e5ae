import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pinn_analysis.operators import identity, partial
from pinn_analysis.problems import (
    Condition,
    Problem,
    allen_cahn,
    box,
    burgers,
    check,
    convection,
    faces,
    grid,
    helmholtz_2d,
    klein_gordon,
    poisson_1d,
    relative_l2_error,
    test_points,
    wave_1d,
)

# Each with a problem that differs in one number, whose solution must not do.
MANUFACTURED = {
    "poisson": (poisson_1d(), poisson_1d(a=4.01)),
    "klein-gordon": (klein_gordon(), wave_1d()),
    "poisson a=1": (poisson_1d(a=1), poisson_1d(a=1.01)),
    "helmholtz": (helmholtz_2d(), helmholtz_2d(a2=4.01)),
    "helmholtz k=2.5": (helmholtz_2d(2, 3, k=2.5), helmholtz_2d(2, 3.01, k=2.5)),
    "wave": (wave_1d(), wave_1d(c=2.01)),
    "burgers": (burgers(), burgers(0.0033)),
    "convection": (convection(), convection(30.01)),
    "wave c=3": (wave_1d(a=1, c=3), wave_1d(a=1.01, c=3)),
}


UNIT_INTERVAL = jnp.zeros(1), jnp.ones(1)


def largest(residuals):
    return max(float(jnp.abs(r).max()) for r in residuals.values())


@pytest.mark.parametrize("problem, other", MANUFACTURED.values(), ids=MANUFACTURED)
def test_manufactured_solutions_have_no_residual(problem, other, key):
    points = problem.sample(key, 64)
    scale = jnp.abs(jax.vmap(partial(0, 0)(problem.solution))(points["residual"])).max()
    assert largest(problem.residuals(problem.solution, points)) <= 1e-13 * scale
    assert largest(problem.residuals(other.solution, points)) > 1e-5 * scale


def test_the_data_are_those_of_the_papers():
    x = jnp.array([0.31, 0.77])
    poisson, helmholtz, wave = (p.conditions for p in (poisson_1d(), helmholtz_2d(), wave_1d()))
    f = -16 * np.pi**2 * np.sin(4 * np.pi * x[0])
    q = (1 - 17 * np.pi**2) * np.sin(np.pi * x[0]) * np.sin(4 * np.pi * x[1])
    g = np.sin(np.pi * x[0]) + np.sin(4 * np.pi * x[0]) / 2
    np.testing.assert_allclose(poisson["residual"].target(x[:1]), f, rtol=1e-12)
    np.testing.assert_allclose(helmholtz["residual"].target(x), q, rtol=1e-12)
    np.testing.assert_allclose(wave["initial"].target(x.at[1].set(0)), g, rtol=1e-12)
    for condition in (helmholtz["boundary"], wave["boundary"], wave["initial_velocity"], wave["residual"]):
        assert condition.target(x) == 0
    np.testing.assert_allclose(wave["residual"].operator(lambda y: y[0] ** 2 + y[1] ** 2)(x), 2 - 4 * 2)


def test_losses_are_mean_squares_of_the_residuals(key):
    problem = poisson_1d(a=1)
    points = problem.sample(key, {"boundary": 2, "residual": 5})
    losses = problem.losses(lambda x: x[0] ** 2, points)  # u'' = 2, and u is 0 and 1 at the ends.
    np.testing.assert_allclose(losses["boundary"], 0.5, rtol=1e-12)
    x = points["residual"][:, 0]
    np.testing.assert_allclose(losses["residual"], np.mean((2 + np.pi**2 * np.sin(np.pi * x)) ** 2), rtol=1e-12)


def test_residuals_of_a_vector_valued_condition_are_flattened_point_by_point():
    def value_and_slope(u):
        return lambda x: jnp.stack([u(x), partial(0)(u)(x)])

    both = Condition(value_and_slope, lambda x: jnp.array([1.0, 2.0]), box(*UNIT_INTERVAL))
    problem = Problem("both", {"both": both}, UNIT_INTERVAL)
    r = problem.residuals(lambda x: x[0] ** 2, {"both": jnp.array([[0.5], [1.0]])})["both"]
    np.testing.assert_allclose(r, [0.25 - 1, 1 - 2, 1 - 1, 2 - 2], atol=1e-15)


@pytest.mark.parametrize("n", [1, 4, 130])
def test_points_are_dealt_equally_to_the_faces_of_a_box(n, key):
    low, high = jnp.array([-1.0, 0.0]), jnp.array([1.0, 3.0])
    x = faces(low, high)(key, n)
    assert x.shape == (n, 2) and bool(((x >= low) & (x <= high)).all())
    counts = np.concatenate([(x == low).sum(0), (x == high).sum(0)])
    assert counts.sum() == n and np.ptp(counts) <= 1


def test_samplers_stay_on_their_faces_and_in_the_box(key):
    sizes = {"boundary": 7, "initial": 5, "initial_velocity": 6, "residual": 9}
    points = wave_1d().sample(key, sizes)
    assert {name: x.shape for name, x in points.items()} == {name: (n, 2) for name, n in sizes.items()}
    assert set(points["boundary"][:, 0].tolist()) == {0.0, 1.0}
    assert (points["initial"][:, 1] == 0).all() and (points["initial_velocity"][:, 1] == 0).all()
    free = points["residual"].ravel(), points["boundary"][:, 1], points["initial"][:, 0]
    assert all(((x > 0) & (x < 1)).all() for x in free)


def test_points_are_uniform_independent_and_repeatable(key):
    problem, n = helmholtz_2d(), 4096
    points = problem.sample(key, n)
    x = points["residual"]
    np.testing.assert_allclose(x.mean(0), 0, atol=4 / np.sqrt(3 * n))  # 4 deviations of the mean.
    np.testing.assert_allclose((x**2).mean(0), 1 / 3, atol=4 * np.sqrt(4 / 45 / n))
    assert jnp.array_equal(x, problem.sample(key, n)["residual"])
    assert not jnp.array_equal(x, problem.sample(jax.random.key(1), n)["residual"])
    start = wave_1d().sample(key, 8)
    assert not jnp.array_equal(start["initial"], start["initial_velocity"])


def test_the_grid_has_the_corners_and_varies_its_last_axis_first():
    x = grid(wave_1d(), 3)
    assert x.shape == (9, 2)
    assert x[:4].tolist() == [[0, 0], [0, 0.5], [0, 1], [0.5, 0]] and x[-1].tolist() == [1, 1]
    assert grid(poisson_1d(), 5)[:, 0].tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_the_error_is_measured_on_a_grid_in_low_dimensions_and_at_random_points_above():
    unit = {d: Problem("unit", {}, (jnp.zeros(d), jnp.full(d, 2.0))) for d in (1, 2, 3, 100)}
    assert jnp.array_equal(test_points(unit[1]), grid(unit[1], 1000))
    assert jnp.array_equal(test_points(unit[2]), grid(unit[2], 100))
    for d in (3, 100):
        x = test_points(unit[d])
        assert x.shape == (10_000, d) and jnp.array_equal(x, test_points(unit[d]))
        np.testing.assert_allclose(x.mean(0), 1, atol=5 * np.sqrt(4 / 12 / 10_000))  # 5 deviations.


def test_the_error_is_measured_where_the_problem_says(key):
    low, high = -jnp.ones(2), jnp.ones(2)

    def in_the_l(key, n):  # Without the upper right quarter.
        x = box(low, high)(key, n)
        return jnp.where((x > 0).all(1, keepdims=True), x - 1, x)

    def solution(x):  # Undefined in the quarter that is cut out.
        return jnp.sqrt(-x.min())

    problem = Problem("L", {"inside": Condition(identity, solution, in_the_l)}, (low, high), solution, in_the_l)
    x = test_points(problem)
    assert x.shape == (10_000, 2) and not (x > 0).all(1).any()
    with pytest.raises(ValueError, match="exact solution is not finite at point"):
        relative_l2_error(solution, solution, grid(problem, 100))
    np.testing.assert_allclose(relative_l2_error(lambda x: 0.9 * solution(x), solution, x), 0.1)
    assert test_points(problem._replace(test=np.array([[0, 1]]))).tolist() == [[0.0, 1.0]]
    for wrong, message in ((jnp.ones(2), r"shape \(n, 2\), got \(2,\)"), (jnp.full((1, 2), jnp.nan), "NaN")):
        with pytest.raises(ValueError, match=message):
            test_points(problem._replace(test=wrong))


def test_relative_error_of_a_scaled_solution_is_the_scale_less_one():
    problem = poisson_1d()
    error = relative_l2_error(lambda x: 1.1 * problem.solution(x), problem.solution, grid(problem, 50))
    np.testing.assert_allclose(error, 0.1, rtol=1e-12)


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"boundary": 2}, r"missing: \['residual'\]"),
        ({"boundary": 2, "residual": 3, "inital": 4}, r"unknown: \['inital'\]"),
        ({"boundary": 0, "residual": 3}, "at least 1, got 0 for 'boundary'"),
        (-1, "at least 1, got -1"),
    ],
)
def test_sizes_that_do_not_fit_the_conditions_are_an_error(sizes, message, key):
    with pytest.raises(ValueError, match=message):
        poisson_1d().sample(key, sizes)


GOOD = jnp.linspace(0, 1, 3)[:, None]


@pytest.mark.parametrize(
    "points, message",
    [
        ({"residual": GOOD}, r"missing: \['boundary'\]"),
        ({"boundary": GOOD, "residual": GOOD, "bulk": GOOD}, r"unknown: \['bulk'\]"),
        ({"boundary": GOOD, "residual": GOOD.repeat(2, 1)}, r"'residual' must have shape \(n, 1\), got \(3, 2\)"),
        ({"boundary": GOOD[0], "residual": GOOD}, r"'boundary' must have shape .*`x\[None\]`"),
        ({"boundary": GOOD[:0], "residual": GOOD}, "'boundary' are empty"),
        ({"boundary": GOOD, "residual": GOOD.at[1].set(jnp.nan)}, "'residual' contain NaN"),
        ({"boundary": GOOD, "residual": GOOD / 0}, "'residual' contain NaN or infinity"),
    ],
)
def test_points_that_do_not_fit_the_conditions_are_an_error(points, message):
    for evaluate in (poisson_1d().residuals, poisson_1d().losses):
        with pytest.raises(ValueError, match=message):
            evaluate(lambda x: x[0], points)


def test_losses_can_be_compiled_and_differentiated(key):
    problem = poisson_1d(a=1)
    points = problem.sample(key, 4)

    def loss(a, points):
        return problem.losses(lambda x: a * problem.solution(x), points)["residual"]

    gradient = jax.jit(jax.grad(loss))(2.0, points)  # (a - 1)² L(0), so the derivative is 2 L(0) at a = 2.
    np.testing.assert_allclose(gradient, 2 * loss(0.0, points), rtol=1e-12)


def test_a_problem_needs_nothing_but_conditions_and_a_box(key):
    data = Condition(identity, lambda x: x[0], box(*UNIT_INTERVAL))
    mine = Problem("mine", {"data": data}, UNIT_INTERVAL)
    assert largest(mine.residuals(lambda x: x[0], mine.sample(key, 3))) == 0


def test_the_same_network_is_looked_at_once_whatever_its_numbers_and_the_number_of_points(key):
    problem, seen = poisson_1d(), []

    def apply(params, x):
        seen.append(x.shape)
        return params["c"] * x[0]

    check(problem, apply, {"c": jnp.ones(())}, problem.sample(key, 3))
    first = len(seen)
    points = check(problem, apply, {"c": jnp.full((), 2.0)}, problem.sample(key, 5))
    assert first == len(seen) > 0 and list(points) == list(problem.conditions)
    traced = jax.jit(lambda: check(problem, apply, {"c": np.float64(2)}, points))()  # Known while it is traced.
    assert jnp.array_equal(traced["residual"], points["residual"])
    with pytest.raises(ValueError, match=r"\['c'\] contains NaN"):
        jax.jit(lambda: check(problem, apply, {"c": np.float64("nan")}, points))()


def test_a_network_that_cannot_be_hashed_is_checked_all_the_same(key):
    class Unhashable(list):
        def __call__(self, params, x):
            return params * x[0] if len(self) == 1 else jnp.stack([params, params])

    problem = poisson_1d()
    points = problem.sample(key, 3)
    assert check(problem, Unhashable([1]), jnp.ones(()), points).keys() == points.keys()
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        check(problem, Unhashable([1, 2]), jnp.ones(()), points)


def test_terms_are_chosen_replaced_and_scaled_by_name(key):
    problem = wave_1d()
    assert list(problem.only("residual", "initial").conditions) == ["residual", "initial"]
    doubled = problem.replaced(initial=problem.conditions["initial"].scaled(2))
    assert list(doubled.conditions) == list(problem.conditions)
    points, field = problem.sample(key, 3), lambda x: x[0] * x[1]
    r, other = problem.residuals(field, points), doubled.residuals(field, points)
    for name in problem.conditions:
        np.testing.assert_allclose(other[name], (1 + (name == "initial")) * r[name], rtol=1e-12)
    for wrong in (lambda: problem.only("inital"), lambda: problem.replaced(inital=problem.conditions["initial"])):
        with pytest.raises(ValueError, match=r"not \['inital'\]"):
            wrong()


def test_the_shock_of_burgers_is_as_steep_as_the_literature_has_it():
    """Basdevant et al. (1986): the largest slope is 152.00516 at ``t = 1.6037/π``."""
    slope = partial(0)(burgers().solution)(jnp.array([0.0, 1.6037 / jnp.pi]))
    np.testing.assert_allclose(slope, -152.00516, rtol=1e-6)


def test_allen_cahn_is_periodic_and_at_rest_in_its_phases(key):
    problem = allen_cahn()
    points = problem.sample(key, 16)
    for phase in (-1.0, 0.0, 1.0):
        residuals = problem.residuals(lambda x, phase=phase: phase + 0 * x[0], points)
        assert float(jnp.abs(residuals["residual"]).max()) == 0
    wave = problem.residuals(lambda x: jnp.sin(3 * jnp.pi * x[0]), points)
    assert float(jnp.abs(wave["periodic"]).max()) < 1e-12
    x = points["residual"]
    u = jnp.sin(3 * jnp.pi * x[:, 0])
    np.testing.assert_allclose(wave["residual"], 1e-4 * 9 * jnp.pi**2 * u - 5 * (u - u**3), rtol=1e-10, atol=1e-12)
