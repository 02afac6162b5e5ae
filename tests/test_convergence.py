"""Predictions against what happens: gradient descent itself, matrix exponentials, brute force.

The model is linear in its parameters, random cosines of fixed frequency, so that its kernel is
constant and nothing is left to approximate.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from pinn_analysis import _neural_tangents, convergence, networks, ntk, spectra
from pinn_analysis.ntk import KernelBlocks
from pinn_analysis.problems import helmholtz_2d, poisson_1d

PROBLEM = poisson_1d(a=1)
POINTS = {"boundary": jnp.array([[0.0], [1.0]]), "residual": jnp.linspace(0.05, 0.9, 5)[:, None]}
START = jax.random.normal(jax.random.key(0), (6,))
WEIGHTS = {
    "equal": None,
    "unequal": {"boundary": 3.0, "residual": 0.02},
    "no boundary": {"boundary": 0.0, "residual": 0.1},
    "no residual": {"boundary": 2.0, "residual": 0.0},
}


def apply(params, x):
    k = jnp.arange(6.0)
    return params @ jnp.cos(k * x[0] + k**2)


def residuals(params):
    return PROBLEM.residuals(functools.partial(apply, params), POINTS)


def stack(parts):
    return np.concatenate([parts[name] for name in PROBLEM.conditions], -1)


@pytest.fixture(scope="module")
def kernel():
    return ntk.empirical(PROBLEM, apply, START, POINTS)


@pytest.fixture(scope="module")
def r0():
    return residuals(START)


def descend(learning_rate, steps, weights, start=START):
    """Residuals after 0, 1, ... steps of gradient descent on the weighted losses."""
    weights = weights or dict.fromkeys(PROBLEM.conditions, 1.0)

    def loss(params):
        losses = PROBLEM.losses(functools.partial(apply, params), POINTS)
        return sum(weights[name] * value for name, value in losses.items())

    def step(params, _):
        return params - learning_rate * jax.grad(loss)(params), residuals(params)

    return jax.jit(lambda params: jax.lax.scan(step, params, length=steps + 1)[1])(start)


def generator(kernel, weights):
    """``2 K D``, the matrix of the equation, which is not symmetric."""
    weights = weights or {"boundary": 1, "residual": 1}
    return 2 * np.asarray(kernel.matrix) * np.repeat([weights["boundary"] / 2, weights["residual"] / 5], [2, 5])


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_predicted_descent_is_what_gradient_descent_does(kernel, r0, weights):
    learning_rate = 0.9 * convergence.max_learning_rate(kernel, weights)
    descent = convergence.gradient_descent(kernel, learning_rate, weights)
    steps = np.array([0, 1, 2, 7, 100, 300])
    run = {name: r[steps] for name, r in descend(learning_rate, 300, weights).items()}
    predicted = descent.residuals(r0, steps)
    for name in PROBLEM.conditions:
        np.testing.assert_allclose(predicted[name], run[name], atol=1e-10 * np.abs(stack(r0)).max())
        np.testing.assert_allclose(descent.losses(r0, steps)[name], np.mean(run[name] ** 2, -1), rtol=1e-8, atol=1e-20)
    other = convergence.gradient_descent(kernel, 0.8 * learning_rate, weights).residuals(r0, steps)
    assert max(np.abs(other[name] - run[name]).max() for name in run) > 1e-3


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_gradient_flow_is_the_matrix_exponential(kernel, r0, weights):
    flow, a = convergence.gradient_flow(kernel, weights), generator(kernel, weights)
    times = np.array([0, 0.3, 5]) / np.linalg.eigvals(a).real.max()
    exact = np.stack([scipy.linalg.expm(-a * t) @ stack(r0) for t in times])
    np.testing.assert_allclose(stack(flow.residuals(r0, times)), exact, atol=1e-11 * np.abs(exact).max())
    np.testing.assert_allclose(flow.losses(r0, times[1])["residual"], np.mean(exact[1, 2:] ** 2), rtol=1e-10)


@pytest.mark.parametrize("weights", [WEIGHTS["unequal"], WEIGHTS["no boundary"]], ids=["unequal", "no boundary"])
def test_rates_and_modes_are_those_of_the_equation(kernel, weights):
    flow, a = convergence.gradient_flow(kernel, weights), generator(kernel, weights)
    exact = np.sort(np.linalg.eigvals(a).real)
    np.testing.assert_allclose(flow.rates, exact, atol=1e-12 * exact[-1])
    np.testing.assert_allclose(flow.modes.T @ flow.modes, np.eye(7), atol=1e-12)
    descent = convergence.gradient_descent(kernel, 0.5 / exact[-1], weights)
    np.testing.assert_allclose(descent.factors, 1 - 0.5 * exact / exact[-1], atol=1e-12)


def test_descent_approaches_the_flow_at_first_order(kernel, r0):
    time, steps = 4 / convergence.gradient_flow(kernel).rates[-1], np.array([32, 64, 128, 256])
    exact = stack(convergence.gradient_flow(kernel).residuals(r0, time))
    errors = [
        np.linalg.norm(stack(convergence.gradient_descent(kernel, float(time / n)).residuals(r0, n)) - exact)
        for n in steps
    ]
    order = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert abs(order - 1) < 0.1, f"order {order:.2f}, errors {errors}"


@pytest.mark.parametrize("weights", [WEIGHTS["equal"], WEIGHTS["unequal"]], ids=["equal", "unequal"])
def test_descent_converges_below_the_largest_learning_rate_and_diverges_above(kernel, weights):
    largest = convergence.max_learning_rate(kernel, weights)
    below, above = (np.abs(stack(descend(factor * largest, 2000, weights))).max(-1) for factor in (0.99, 1.01))
    assert below[-1] < below[0]
    assert above[-1] > 1e6 * above[0]  # The top mode alone grows like 1.02^2000 = 1e17.
    convergence.gradient_descent(kernel, 0.99 * largest, weights)
    with pytest.raises(ValueError, match=f"at most {largest:.6g}, .* stops converging; got"):
        convergence.gradient_descent(kernel, 1.01 * largest, weights)


@pytest.mark.parametrize("tolerance", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("weights", [WEIGHTS["equal"], {"boundary": 300.0, "residual": 1.0}], ids=["equal", "unequal"])
def test_steps_to_a_tolerance_are_the_first_at_which_it_holds(kernel, r0, tolerance, weights):
    learning_rate = 0.5 * convergence.max_learning_rate(kernel, weights)
    count = 20_000
    power, r, norms = np.eye(7) - learning_rate * generator(kernel, weights), stack(r0), []
    for _ in range(count):
        norms.append([np.linalg.norm(r[:2]), np.linalg.norm(r[2:])])
        r = power @ r
    norms = np.array(norms)
    steps = convergence.steps_to(kernel, r0, tolerance, learning_rate=learning_rate, weights=weights)
    for name, norm in zip(PROBLEM.conditions, norms.T, strict=True):
        holds = norm <= tolerance * norm[0]
        assert steps[name] == (np.argmax(holds) if holds.any() else np.inf) or steps[name] > count
        if np.isfinite(steps[name]) and steps[name] < count:
            assert holds[int(steps[name])] and not holds[int(steps[name]) - 1]


def test_steps_to_what_is_never_reached_are_infinite():
    kernel = KernelBlocks(jnp.diag(jnp.array([1.0, 1.0, 0.0])), ("u", "r"), (1, 2))
    r0 = {"u": jnp.array([1.0]), "r": jnp.array([1.0, 1.0])}  # A third of the kernel's rows never move.
    steps = convergence.steps_to(kernel, r0, 0.5, learning_rate=0.1)
    assert steps["u"] == np.ceil(np.log(0.5) / np.log(0.8)) and steps["r"] == np.inf
    assert np.isfinite(convergence.steps_to(kernel, r0, 0.71, learning_rate=0.1)["r"])  # 1 / √2 is.


def test_average_rates_are_traces_over_rows(kernel):
    rates = convergence.rates(kernel)
    np.testing.assert_allclose(rates["boundary"], np.diag(kernel.matrix)[:2].mean(), rtol=1e-14)
    np.testing.assert_allclose(rates["residual"], np.diag(kernel.matrix)[2:].mean(), rtol=1e-14)


def test_a_kernel_that_is_zero_moves_nothing():
    kernel, r0 = KernelBlocks(jnp.zeros((2, 2)), ("u",), (2,)), {"u": jnp.array([1.0, 2.0])}
    assert convergence.max_learning_rate(kernel) == np.inf
    np.testing.assert_array_equal(convergence.gradient_flow(kernel).residuals(r0, 3.0)["u"], r0["u"])
    np.testing.assert_array_equal(convergence.gradient_descent(kernel, 0.1).residuals(r0, 3)["u"], r0["u"])


@pytest.mark.parametrize(
    "weights, message",
    [
        ({"boundary": -1.0, "residual": 1.0}, "not negative, got -1.0 for 'boundary'"),
        ({"boundary": 1.0, "residual": np.nan}, "finite"),
        ({"boundary": 1.0, "residual": np.inf}, "finite"),
        ({"boundary": 1.0}, r"\['boundary', 'residual'\]; got \['boundary'\]"),
        ({"boundary": 1.0, "residual": 1.0, "bulk": 1.0}, "'bulk'"),
    ],
)
def test_weights_that_do_not_fit_are_an_error(kernel, r0, weights, message):
    for call in (
        lambda: convergence.gradient_flow(kernel, weights),
        lambda: convergence.gradient_descent(kernel, 1e-6, weights),
        lambda: convergence.max_learning_rate(kernel, weights),
        lambda: convergence.steps_to(kernel, r0, 0.1, learning_rate=1e-6, weights=weights),
    ):
        with pytest.raises(ValueError, match=message):
            call()


def test_times_and_rates_out_of_range_are_an_error(kernel, r0):
    with pytest.raises(ValueError, match="time cannot be negative or NaN, got -1"):
        convergence.gradient_flow(kernel).residuals(r0, jnp.array([0.0, -1.0]))
    with pytest.raises(ValueError, match="time cannot be negative or NaN"):
        convergence.gradient_flow(kernel).losses(r0, jnp.nan)
    with pytest.raises(ValueError, match="number of steps cannot be negative"):
        convergence.gradient_descent(kernel, 1e-6).residuals(r0, -1)
    with pytest.raises(ValueError, match="must be whole"):
        convergence.gradient_descent(kernel, 1e-6).losses(r0, 2.5)
    for learning_rate in (0, -1e-6, np.nan):
        with pytest.raises(ValueError, match="`learning_rate` must be positive"):
            convergence.gradient_descent(kernel, learning_rate)
    for tolerance in (0, 1, -0.1, np.nan):
        with pytest.raises(ValueError, match="`tolerance` is relative"):
            convergence.steps_to(kernel, r0, tolerance, learning_rate=1e-6)


def test_residuals_that_do_not_fit_the_kernel_are_an_error(kernel, r0):
    with pytest.raises(ValueError, match="one vector per term"):
        convergence.gradient_flow(kernel).residuals({"boundary": r0["boundary"]}, 1.0)
    with pytest.raises(ValueError, match="one vector per term"):
        convergence.steps_to(kernel, {"boundary": r0["residual"], "residual": r0["boundary"]}, 0.1, learning_rate=1e-6)


EXTENDED = convergence.with_output(PROBLEM)
WITH_TEST = POINTS | {"output": jnp.linspace(0, 1, 11)[:, None]}


@pytest.fixture(scope="module")
def extended():
    return ntk.empirical(EXTENDED, apply, START, WITH_TEST)


def descend_and_look(learning_rate, steps, weights):
    """The error of the solution at the test points after ``steps`` steps, from the parameters themselves."""
    weights = weights or dict.fromkeys(PROBLEM.conditions, 1.0)

    def loss(params):
        losses = PROBLEM.losses(functools.partial(apply, params), POINTS)
        return sum(weights[name] * value for name, value in losses.items())

    params = jax.lax.fori_loop(0, steps, lambda _, params: params - learning_rate * jax.grad(loss)(params), START)
    return jax.vmap(lambda x: apply(params, x) - PROBLEM.solution(x))(WITH_TEST["output"])


@pytest.mark.parametrize("weights", WEIGHTS.values(), ids=WEIGHTS)
def test_the_output_at_test_points_is_predicted_exactly(extended, kernel, r0, weights):
    learning_rate = 0.9 * convergence.max_learning_rate(kernel, weights)
    start = EXTENDED.residuals(functools.partial(apply, START), WITH_TEST)
    descent = convergence.gradient_descent(extended, learning_rate, weights)
    predicted = descent.residuals(start, jnp.array([0, 1, 40, 300]))
    measured = np.stack([descend_and_look(learning_rate, steps, weights) for steps in (0, 1, 40, 300)])
    assert np.abs(measured[-1] - measured[0]).max() > 0.1
    np.testing.assert_allclose(predicted["output"], measured, atol=1e-10 * np.abs(measured[0]).max())
    # The terms that are trained on do not notice.
    alone = convergence.gradient_descent(kernel, learning_rate, weights).residuals(r0, 300)
    for name in PROBLEM.conditions:
        np.testing.assert_allclose(predicted[name][-1], alone[name], atol=1e-10 * np.abs(stack(r0)).max())


@pytest.mark.parametrize("weights", [None, {"boundary": 30.0, "residual": 0.5}], ids=["equal", "unequal"])
def test_residuals_and_output_are_those_of_neural_tangents(weights):
    """A nonlinear network's infinite kernel; neural-tangents has ``½ mean(s²)``, so whitened rows at rate ``2 n``."""
    problem = helmholtz_2d()
    both = convergence.with_output(problem)
    points = both.sample(jax.random.key(1), {"boundary": 6, "residual": 9, "output": 7})
    network = networks.mlp((2, 32, 1), "erf", parameterization="ntk", bias_std=1.0)
    field = functools.partial(network.apply, network.init(jax.random.key(2)))
    kernel, start = ntk.infinite(both, network.kernel_fn, points), both.residuals(field, points)

    d = np.repeat([(weights or {"boundary": 1})["boundary"] / 6, (weights or {"residual": 1})["residual"] / 9], [6, 9])
    whitened = np.sqrt(d)[:, None] * kernel.matrix[:15, :15] * np.sqrt(d)
    s0 = np.sqrt(d) * np.concatenate([start["boundary"], start["residual"]])
    theirs = _neural_tangents.load().predict.gradient_descent_mse(whitened, jnp.zeros((15, 1)), 2 * 15)
    flow = convergence.gradient_flow(kernel, weights)
    for t in np.array([0.3, 5, 1000]) / flow.rates[-1]:
        s, error = theirs(t, s0[:, None], start["output"][:, None], kernel.matrix[15:, :15] * np.sqrt(d))
        ours = flow.residuals(start, t)
        trained = np.sqrt(d) * np.concatenate([ours["boundary"], ours["residual"]])
        np.testing.assert_allclose(trained, s[:, 0], atol=1e-10 * np.abs(s0).max())
        np.testing.assert_allclose(ours["output"], error[:, 0], atol=1e-9 * np.abs(start["output"]).max())


def test_the_output_after_very_many_steps_is_that_of_the_least_squares_solution(extended, kernel):
    """Modes that rounding alone makes must not drag the output away, however long they have."""
    start = EXTENDED.residuals(functools.partial(apply, START), WITH_TEST)
    learning_rate = 0.5 * convergence.max_learning_rate(kernel)
    jacobian = jax.jacobian(lambda params: stack_of(EXTENDED, params))(START)
    scale = np.sqrt(np.repeat([1 / 2, 1 / 5], [2, 5]))
    moved = -np.linalg.pinv(scale[:, None] * jacobian[:7]) @ (scale * stack(start))
    end = start["output"] + jacobian[7:] @ moved
    for predicted in (
        convergence.gradient_descent(extended, learning_rate).residuals(start, 2**50),
        convergence.gradient_flow(extended).residuals(start, 1e15 * learning_rate),
    ):
        np.testing.assert_allclose(predicted["output"], end, atol=1e-6 * np.abs(start["output"]).max())


def stack_of(problem, params):
    return jnp.concatenate(list(problem.residuals(functools.partial(apply, params), WITH_TEST).values()))


def test_steps_until_the_error_of_the_solution_is_small(extended, kernel):
    start = EXTENDED.residuals(functools.partial(apply, START), WITH_TEST)
    learning_rate = 0.5 * convergence.max_learning_rate(kernel)
    steps = int(convergence.steps_to(extended, start, 0.5, learning_rate=learning_rate)["output"])
    before, at = (np.linalg.norm(descend_and_look(learning_rate, k, None)) for k in (steps - 1, steps))
    assert at <= 0.5 * np.linalg.norm(start["output"]) < before


def test_without_a_solution_the_output_itself_is_the_residual():
    unknown = convergence.with_output(PROBLEM._replace(solution=None))
    residuals = unknown.residuals(functools.partial(apply, START), WITH_TEST)["output"]
    np.testing.assert_array_equal(residuals, jax.vmap(lambda x: apply(START, x))(WITH_TEST["output"]))


def test_a_second_output_is_an_error():
    with pytest.raises(ValueError, match="has a condition 'output' already"):
        convergence.with_output(EXTENDED)


def test_a_condition_called_output_is_trained_like_any_other(kernel, r0):
    renamed = PROBLEM._replace(
        conditions={"output": PROBLEM.conditions["boundary"], "residual": PROBLEM.conditions["residual"]}
    )
    points = {"output": POINTS["boundary"], "residual": POINTS["residual"], "test": WITH_TEST["output"]}
    both = convergence.with_output(renamed, "test")
    assert [condition.trained for condition in both.conditions.values()] == [True, True, False]
    found = ntk.empirical(both, apply, START, points)
    assert convergence.max_learning_rate(found) == pytest.approx(convergence.max_learning_rate(kernel), rel=1e-12)
    start = both.residuals(functools.partial(apply, START), points)
    ours = convergence.gradient_flow(found).residuals(start, 0.01)
    np.testing.assert_allclose(ours["output"], convergence.gradient_flow(kernel).residuals(r0, 0.01)["boundary"])


def test_average_rates_need_no_matrix(kernel):
    operator = ntk.operator(PROBLEM, apply, START, POINTS)
    exact = convergence.rates(kernel)
    for name, rate in convergence.rates(operator).items():
        np.testing.assert_allclose(rate, exact[name], rtol=1e-12)


@pytest.mark.parametrize("dtype, rounding", [(np.float64, 1e-15), (np.float32, 1e-6)])
def test_a_kernel_that_is_not_positive_semidefinite_beyond_rounding_is_an_error(dtype, rounding):
    def kernel(smallest):
        return KernelBlocks(jnp.diag(jnp.array([1.0, 2.0, smallest], dtype)), ("u", "r"), (1, 2))

    rates = convergence.gradient_flow(kernel(-rounding / 10)).rates
    assert rates[0] == 0 and np.allclose(rates[1:], 2)
    for call in (convergence.gradient_flow, convergence.max_learning_rate):
        with pytest.raises(ValueError, match="not positive semidefinite: its eigenvalues, weighted, go from -5e-0"):
            call(kernel(-1e-4))
    with pytest.raises(ValueError, match="not positive semidefinite"):
        convergence.gradient_flow(kernel(-100 * rounding))
    with pytest.raises(ValueError, match="contains NaN or infinity"):
        convergence.gradient_flow(kernel(np.nan))


def slow(n=60, ratio=0.7):
    """A kernel of two terms and one that is not trained, with eigenvalues down to 1e-9, and residuals."""
    vectors = np.linalg.qr(np.asarray(jax.random.normal(jax.random.key(3), (n, n))))[0]
    kernel = KernelBlocks(jnp.asarray((vectors * 5 * ratio ** np.arange(n)) @ vectors.T), ("u", "r", "v"), (20, 30, 10))
    kernel = dataclasses.replace(kernel, untrained=("v",))
    return kernel, kernel.split(jax.random.normal(jax.random.key(4), (n,)))


@pytest.mark.parametrize("weights", [None, {"u": 3.0, "r": 0.5}], ids=["equal", "unequal"])
@pytest.mark.parametrize("fraction", [0.5, 0.97], ids=["half the largest step", "almost the largest"])
def test_predictions_without_the_matrix_are_within_their_errors_of_the_dense_ones(weights, fraction):
    kernel, start = slow()
    dense = spectra.spectrum(kernel, weights)
    rate = fraction * convergence.max_learning_rate(dense)
    steps, exact = jnp.array([0, 1, 7, 60, 1000, 30_000]), convergence.gradient_descent(dense, rate)
    sharp = []
    for products in (6, 20):
        krylov = spectra.krylov_spectrum(kernel, start, weights, num_matvecs=products)
        descent, flow = convergence.gradient_descent(krylov, rate), convergence.gradient_flow(krylov)
        for found, true, at in (
            (descent, exact, steps),
            (flow, convergence.gradient_flow(dense), steps * rate),
        ):
            errors, parts, wanted = found.errors(at), found.residuals(start, at), true.residuals(start, at)
            for name in kernel.names:
                off = jnp.sqrt(jnp.mean((parts[name] - wanted[name]) ** 2, -1))
                assert (off <= errors[name] + 1e-12).all(), (name, off, errors[name])
        sharp.append(flow.errors(60 * rate)["u"])
        assert errors["u"][-1] > 0 == errors["u"][0]
    assert sharp[1] < 1e-4 < sharp[0]  # More products reach further.
    assert convergence.gradient_flow(dense).errors(3.0)["u"] == 0


def test_steps_without_the_matrix_are_those_of_the_dense_kernel_or_refused():
    kernel, start = slow()
    kernel, start = KernelBlocks(kernel.matrix[:50, :50], ("u", "r"), (20, 30)), {"u": start["u"], "r": start["r"]}
    krylov = spectra.krylov_spectrum(kernel, start, num_matvecs=25)
    rate = 0.5 * convergence.max_learning_rate(kernel)
    np.testing.assert_allclose(convergence.max_learning_rate(krylov), 2 * rate, rtol=1e-6)
    found, late, early = (
        convergence.steps_to(kind, start, tolerance, learning_rate=rate)
        for kind, tolerance in ((krylov, 0.7), (kernel, 0.63), (kernel, 0.77))
    )
    exact = convergence.steps_to(kernel, start, 0.7, learning_rate=rate)
    for name in start:
        assert early[name] <= found[name] <= late[name]
        np.testing.assert_allclose(found[name], exact[name], rtol=0.01)
    with pytest.raises(ValueError, match="not decided by 25 products"):
        convergence.steps_to(krylov, start, 0.05, learning_rate=rate)
    with pytest.raises(ValueError, match="not those that `spectra.krylov_spectrum` started from"):
        convergence.steps_to(krylov, start | {"u": 2 * start["u"]}, 0.7, learning_rate=rate)
    one = kernel.split(spectra.spectrum(kernel).modes[:, -1] / spectra.spectrum(kernel).scale)  # A single mode.
    alone = spectra.krylov_spectrum(kernel, one, num_matvecs=5)
    np.testing.assert_allclose(convergence.max_learning_rate(alone), 2 * rate, rtol=1e-6)
    with pytest.raises(ValueError, match="not all of them zero, in a term with a weight"):
        spectra.krylov_spectrum(kernel, {name: 0 * r for name, r in start.items()})


def test_the_operator_of_a_network_predicts_without_the_matrix(kernel, r0):
    """As many products as rows: the Krylov space is the whole."""
    extended = convergence.with_output(PROBLEM)
    points = POINTS | {"output": jnp.linspace(0, 1, 3)[:, None]}
    start = extended.residuals(functools.partial(apply, START), points)
    whole = ntk.operator(extended, apply, START, points, batch_size=2)
    krylov = spectra.krylov_spectrum(whole, start)
    dense = convergence.gradient_flow(whole.dense())
    for name, r in convergence.gradient_flow(krylov).residuals(start, 0.1).items():
        np.testing.assert_allclose(r, dense.residuals(start, 0.1)[name], rtol=1e-7)
