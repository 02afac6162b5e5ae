"""The kernel of infinite width against quadratures, against itself, and as the limit of finite ones."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import quadrature

from pinn_analysis import ntk
from pinn_analysis.networks import mlp, standardized
from pinn_analysis.operators import identity, laplacian, partial
from pinn_analysis.problems import Condition, Problem, box, data, helmholtz_2d, klein_gordon, poisson_1d


def network(d, depth, activation, **options):
    return mlp((d,) + (64,) * depth + (1,), activation, parameterization="ntk", **({"bias_std": 1.0} | options))


def problem_of(d=1, solution=None, **operators):
    """A problem on the unit cube with these operators, and targets that do not matter."""
    corners = jnp.zeros(d), jnp.ones(d)
    conditions = {name: Condition(operator, lambda x: 0 * x[0], box(*corners)) for name, operator in operators.items()}
    return Problem("test", conditions, corners, solution)


def worst(kernel, exact):
    """Largest error of each block, relative to its largest entry."""
    exact = ntk.KernelBlocks(jnp.asarray(exact), kernel.names, kernel.sizes)
    pairs = [(a, b) for a in kernel.names for b in kernel.names]
    return {pair: float(jnp.abs(kernel[pair] - exact[pair]).max() / jnp.abs(exact[pair]).max()) for pair in pairs}


POINTS = {"boundary": jnp.array([[0.0], [1.0]]), "residual": jnp.array([[0.0], [0.5]])}

# Against quadrature, for variances up to 2: rounding alone.
TOLERANCE = 1e-13


@pytest.mark.parametrize(
    "activation, depth, options",
    [
        ("tanh", 1, {}),
        ("tanh", 3, {}),
        ("erf", 1, {}),
        ("erf", 3, {"weight_std": 1.2, "bias_std": 0.7}),
        ("sin", 1, {}),
        ("gelu", 1, {}),
    ],
)
def test_the_kernel_of_poisson_equals_its_quadrature(activation, depth, options):
    points = {"boundary": np.array([[0.0], [1.0]]), "residual": np.array([[0.0], [0.4], [0.7]])}  # Some meet.
    kernel = ntk.infinite(poisson_1d(), network(1, depth, activation, **options).kernel_fn, points)
    rows = [(0, 1, x) for x in points["boundary"]] + [(1, 0, x) for x in points["residual"]]
    exact = quadrature.kernel(rows, activation, depth, **options)
    errors = worst(kernel, exact)
    assert max(errors.values()) <= TOLERANCE, errors


def test_the_kernel_of_helmholtz_equals_its_quadrature():
    points = {"boundary": np.array([[-1.0, 0.3], [0.5, 1.0]]), "residual": np.array([[0.2, -0.4], [0.5, 0.9]])}
    kernel = ntk.infinite(helmholtz_2d(k=2), network(2, 1, "tanh").kernel_fn, points)
    rows = [(0, 1, x) for x in points["boundary"]] + [(1, 4, x) for x in points["residual"]]
    errors = worst(kernel, quadrature.kernel(rows, "tanh", 1))
    assert max(errors.values()) <= TOLERANCE, errors


@pytest.mark.parametrize("activation", ["tanh", "erf", "sin", "gelu"])
def test_the_kernel_of_five_hidden_layers_in_two_dimensions_equals_its_quadrature(activation):
    x = np.array([[-1.0, 0.3], [0.5, 1.0]])
    problem = problem_of(2, u=identity, u_xx=partial(0, 0))
    kernel = ntk.infinite(problem, network(2, 5, activation).kernel_fn, {"u": x, "u_xx": x}).matrix
    e = np.array([1.0, 0.0])
    thetas = np.array([[quadrature.theta(activation, 5, p, q, e, e) for q in x] for p in x])
    for i, j in itertools.product((0, 1), repeat=2):  # Of u and of u_xx; coefficients are by h² / 2!.
        ours, theirs = kernel[2 * i : 2 * i + 2, 2 * j : 2 * j + 2], thetas[:, :, 2 * i, 2 * j] * 2 ** (i + j)
        assert jnp.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()
    assert jnp.array_equal(kernel, kernel.T) and jnp.linalg.eigvalsh(kernel)[0] > 0


def test_standardised_variances_are_within_reach_of_the_series():
    x = np.sqrt(3) * np.array([[-1.0], [0.4], [1.0]])  # Of variance up to 4 in the first layer.
    kernel = ntk.infinite(problem_of(residual=laplacian), network(1, 1, "tanh").kernel_fn, {"residual": x})
    errors = worst(kernel, quadrature.kernel([(1, 0, row) for row in x], "tanh", 1))
    assert max(errors.values()) <= 1e-11, errors  # The series ends, which shows at its largest variance.


def test_one_hidden_layer_is_the_formula_of_the_paper():
    """NTK paper, Lemma 3.1 and App. C: an expectation over the weight and the bias of one neuron."""
    x = np.array([[0.0], [0.4], [1.0]])
    z, weight = quadrature.nodes(200)
    w, b = (a.ravel() for a in np.meshgrid(z, z))
    root = np.sqrt(np.multiply.outer(weight, weight).ravel())
    s = quadrature.ACTIVATIONS["tanh"](w * x + b, 4)  # s[k] is the k-th derivative, (points, neurons).

    def gram(*features):  # Derivatives by the outer weight, the inner weight and the inner bias.
        return sum((root * left) @ (root * right).T for left, right in features)

    u = (s[0], s[1] * x, s[1])
    r = (w**2 * s[2], w**2 * s[3] * x + 2 * w * s[2], w**2 * s[3])
    k_uu, k_ru, k_rr = gram(*zip(u, u, strict=True)) + 1, gram(*zip(r, u, strict=True)), gram(*zip(r, r, strict=True))
    kernel = ntk.infinite(problem_of(u=identity, r=laplacian), network(1, 1, "tanh").kernel_fn, {"u": x, "r": x})
    errors = worst(kernel, np.block([[k_uu, k_ru.T], [k_ru, k_rr]]))
    assert max(errors.values()) <= TOLERANCE, errors


def biharmonic(u):
    return laplacian(laplacian(u))


def kuramoto_sivashinsky(u):
    x, xx, xxx, xxxx = (partial(*[1] * k)(u) for k in range(1, 5))
    return lambda p: partial(0)(u)(p) + u(p) * x(p) + xx(p) + 4 * xxx(p) + xxxx(p)


def wave(p):
    return jnp.sin(2 * p[1] - p[0])


def at_wave(p):
    """The linearised equation of Kuramoto and Sivashinsky: by direction, what multiplies each ``h⁽ᵏ⁾ / k!``."""
    phase = 2 * p[1] - p[0]
    return [([1.0, 0.0], [0, 1, 0, 0, 0]), ([0.0, 1.0], [2 * np.cos(phase), np.sin(phase), 2, 24, 24])]


# Δ² = 2/3 (∂_x⁴ + ∂_y⁴) + 1/6 ((∂_x + ∂_y)⁴ + (∂_x - ∂_y)⁴).
FOURTH = [0, 0, 0, 0, 24.0]
SQUARED_LAPLACIAN = [([1.0, 0], 2 / 3), ([0, 1.0], 2 / 3), ([1.0, 1], 1 / 6), ([1.0, -1], 1 / 6)]


@pytest.mark.parametrize(
    "operator, d, depth, field, lines",
    [
        (partial(0, 0, 0, 0), 1, 2, None, lambda p: [([1.0], FOURTH)]),
        (biharmonic, 2, 1, None, lambda p: [(v, w * np.array(FOURTH)) for v, w in SQUARED_LAPLACIAN]),
        (kuramoto_sivashinsky, 2, 1, wave, at_wave),
    ],
    ids=["beam", "biharmonic", "Kuramoto-Sivashinsky"],
)
def test_the_kernel_of_a_fourth_order_equation_equals_its_quadrature(operator, d, depth, field, lines):
    x = np.array([[0.3, -0.4], [0.8, 0.6]])[:, :d]
    kernel = ntk.infinite(problem_of(d, r=operator), network(d, depth, "tanh").kernel_fn, {"r": x}, field=field)
    exact = [
        [
            sum(
                np.array(a) @ quadrature.theta("tanh", depth, p, q, np.array(v), np.array(w), degree=4) @ b
                for (v, a), (w, b) in itertools.product(lines(p), lines(q))
            )
            for q in x
        ]
        for p in x[:1]
    ]
    assert jnp.abs(kernel.matrix[:1] - np.array(exact)).max() <= 1e-9 * np.abs(exact).max()


# Against itself.


def test_the_kernel_is_symmetric_and_positive_semidefinite():
    points = {"boundary": jnp.array([[0.0], [1.0]]), "residual": jnp.linspace(0, 1, 100)[:, None]}
    problem = poisson_1d()
    standard = standardized(network(1, 1, "tanh"), *problem.domain)  # Variances up to 4.
    kernel = ntk.infinite(problem, standard.kernel_fn, points)
    assert kernel.names == ("boundary", "residual") and kernel.sizes == (2, 100)
    assert jnp.array_equal(kernel.matrix, kernel.matrix.T)
    values = jnp.linalg.eigvalsh(kernel.matrix)
    # Rounding: the series is a sum of squares, and no derivatives cancel.
    assert values[0] >= -10 * jnp.finfo(float).eps * values[-1]


def test_the_kernel_of_many_points_has_that_of_a_few_of_them_in_it():
    def gradient(u):  # Two components per point.
        return lambda x: jnp.stack([partial(0)(u)(x), partial(1)(u)(x)])

    problem, kernel_fn = problem_of(2, gradient=gradient, value=identity), network(2, 1, "erf").kernel_fn
    x, few = jax.random.uniform(jax.random.key(0), (190, 2)), np.array([0, 63, 64, 130, 189])  # In three tiles.
    whole = ntk.infinite(problem, kernel_fn, {"gradient": x, "value": x[:70]})
    part = ntk.infinite(problem, kernel_fn, {"gradient": x[few], "value": x[few[:3]]})
    rows = np.concatenate([np.stack([2 * few, 2 * few + 1], 1).ravel(), 380 + few[:3]])
    assert whole.sizes == (380, 70) and jnp.array_equal(whole.matrix, whole.matrix.T)
    np.testing.assert_allclose(whole.matrix[np.ix_(rows, rows)], part.matrix, rtol=1e-12, atol=1e-14)


def test_the_order_of_the_conditions_permutes_the_blocks():
    problem, kernel_fn = poisson_1d(), network(1, 1, "erf").kernel_fn
    kernel = ntk.infinite(problem, kernel_fn, POINTS)
    other = ntk.infinite(problem._replace(conditions=dict(reversed(problem.conditions.items()))), kernel_fn, POINTS)
    assert other.names == ("residual", "boundary")
    for pair in [("residual", "boundary"), ("boundary", "residual"), ("residual", "residual")]:
        # What is computed below the diagonal here is the transpose of a block there.
        np.testing.assert_allclose(other[pair], kernel[pair], rtol=1e-13)


def test_a_nonlinear_operator_has_the_kernel_of_its_hand_made_linearisation():
    def burgers(u):
        return lambda x: u(x) * partial(0)(u)(x) + partial(0, 0)(u)(x)

    def field(x):
        return jnp.sin(3 * x[0])

    def linearised(h):
        return lambda x: h(x) * 3 * jnp.cos(3 * x[0]) + field(x) * partial(0)(h)(x) + partial(0, 0)(h)(x)

    points, kernel_fn = {"r": jnp.linspace(0, 1, 4)[:, None]}, network(1, 1, "erf").kernel_fn
    kernel = ntk.infinite(problem_of(r=burgers), kernel_fn, points, field=field)
    exact = ntk.infinite(problem_of(r=linearised), kernel_fn, points)
    assert jnp.abs(kernel.matrix - exact.matrix).max() <= 1e-13 * jnp.abs(exact.matrix).max()
    rows = [np.array([3 * np.cos(3 * x), np.sin(3 * x), 2]) for x in points["r"][:, 0]]  # By h⁽ᵏ⁾ / k!.
    e = np.ones(1)
    thetas = [[quadrature.theta("erf", 1, x, y, e, e) for y in points["r"]] for x in points["r"]]
    quad = np.array(
        [[a @ t @ b for t, b in zip(line, rows, strict=True)] for line, a in zip(thetas, rows, strict=True)]
    )
    assert jnp.abs(kernel.matrix - quad).max() <= TOLERANCE * np.abs(quad).max()
    elsewhere = ntk.infinite(problem_of(r=burgers), kernel_fn, points, field=lambda x: jnp.cos(3 * x[0]))
    assert jnp.abs(kernel.matrix - elsewhere.matrix).max() > 0.01 * jnp.abs(exact.matrix).max()


def test_the_kernel_of_the_divergence_adds_up_the_components():
    def divergence(u):
        return lambda x: partial(0)(u)(x)[0] + partial(1)(u)(x)[1]

    x = np.array([[0.2, 0.7], [0.9, 0.1]])
    problem = problem_of(2, solution=lambda x: x, all=identity, div=divergence)
    kernel = ntk.infinite(problem, network(2, 1, "erf").kernel_fn, {"all": x, "div": x})
    axes = np.eye(2)
    value = np.array([[quadrature.theta("erf", 1, p, q, axes[0], axes[0])[0, 0] for q in x] for p in x])
    both = np.array([[sum(quadrature.theta("erf", 1, p, q, e, e)[1, 1] for e in axes) for q in x] for p in x])
    mixed = np.array([[quadrature.theta("erf", 1, p, q, e, e)[0, 1] for q in x] for p in x for e in axes])
    assert kernel.sizes == (4, 2)
    np.testing.assert_allclose(kernel["all", "all"], np.kron(value, axes), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(kernel["div", "div"], both, rtol=1e-12)
    np.testing.assert_allclose(kernel["all", "div"], mixed, rtol=1e-12)


# As the limit of finite networks.


def test_finite_kernels_approach_it_like_one_over_the_root_of_the_width():
    problem = poisson_1d()
    points = {"boundary": jnp.array([[0.0], [1.0]]), "residual": jnp.linspace(0, 1, 6)[:, None]}
    limit = ntk.infinite(problem, network(1, 1, "tanh").kernel_fn, points).matrix
    widths, seeds = np.array([64, 512, 4096]), jax.random.split(jax.random.key(0), 32)

    def distance(width):
        finite = mlp((1, width, 1), parameterization="ntk", bias_std=1.0)
        kernels = jax.lax.map(lambda key: ntk.empirical(problem, finite.apply, finite.init(key), points).matrix, seeds)
        return float(jnp.sqrt(jnp.mean(jnp.sum((kernels - limit) ** 2, (1, 2)) / jnp.sum(limit**2))))

    distances = [distance(int(width)) for width in widths]
    slope = np.polyfit(np.log(widths), np.log(distances), 1)[0]
    assert abs(slope + 0.5) < 0.1, f"slope {slope:.2f}, distances {distances}"


# Bad input.


def test_a_network_without_a_limit_is_an_error():
    with pytest.raises(ValueError, match='no infinite-width kernel.*parameterization="ntk"'):
        ntk.infinite(poisson_1d(), mlp((1, 8, 1)).kernel_fn, POINTS)


def test_without_float64_the_error_says_the_line_that_mends_it():
    with jax.enable_x64(False), pytest.raises(ValueError, match=r'jax.config.update\("jax_enable_x64", True\)'):
        ntk.infinite(poisson_1d(), network(1, 1, "erf").kernel_fn, POINTS)


def test_a_variance_of_zero_is_an_error():
    with pytest.raises(ValueError, match="not finite.*bias_std > 0"):
        ntk.infinite(poisson_1d(), network(1, 1, "tanh", bias_std=0.0).kernel_fn, POINTS)


@pytest.mark.parametrize(
    "operator",
    [
        lambda u: lambda x: u(x) ** 2,
        lambda u: lambda x: x[0] * u(x) ** 2,  # Linear at the first point.
    ],
    ids=["square", "square away from 0"],
)
def test_a_nonlinear_operator_without_a_field_is_an_error(operator):
    with pytest.raises(ValueError, match="'r' is not linear.*`field=`"):
        points = {"r": jnp.array([[0.0], [1.0], [0.5]])}
        ntk.infinite(problem_of(r=operator), network(1, 1, "erf").kernel_fn, points)


@pytest.mark.parametrize("scale", [1.0, 5000.0])
def test_a_linear_operator_is_not_mistaken_for_a_nonlinear_one(scale):
    def transport(u):  # Its value on waves of frequency (1, 2, 3) is rounding.
        return lambda x: 0.3 * partial(0)(u)(x) - 0.1 * partial(2)(u)(x)

    points = {"r": scale * jnp.array([[0.2, 0.1, 0.9]])}
    assert ntk.infinite(problem_of(3, r=transport), network(3, 1, "erf").kernel_fn, points)["r", "r"] > 0


@pytest.mark.parametrize(
    "points, message",
    [
        ({"residual": POINTS["residual"]}, "missing: .'boundary'"),
        (POINTS | {"residual": jnp.ones((3, 2))}, r"must have shape \(n, 1\)"),
        (POINTS | {"residual": jnp.ones((0, 1))}, "empty"),
        (POINTS | {"residual": jnp.full((1, 1), jnp.nan)}, "NaN"),
    ],
)
def test_points_that_do_not_fit_are_an_error(points, message):
    with pytest.raises(ValueError, match=message):
        ntk.infinite(poisson_1d(), network(1, 1, "erf").kernel_fn, points)


# Right or refused.


def test_a_source_inside_the_operator_has_no_part_in_the_kernel():
    points, kernel_fn = {"r": jnp.linspace(0, 1, 4)[:, None]}, network(1, 1, "tanh").kernel_fn
    source = lambda x: jnp.sin(3 * x[0]) + 1e6
    inside = problem_of(r=lambda u: lambda x: partial(0, 0)(u)(x) - source(x))
    kernel, plain = (ntk.infinite(p, kernel_fn, points).matrix for p in (inside, problem_of(r=partial(0, 0))))
    np.testing.assert_allclose(kernel, plain, rtol=1e-13)


def test_measured_data_of_a_vector_field_are_a_term_at_their_places():
    def divergence(u):  # Affine, and nobody knows the solution.
        return lambda x: partial(0)(u)(x)[0] + partial(1)(u)(x)[1] - jnp.exp(x[0])

    second, x = lambda u: lambda x: u(x)[1], jnp.array([[0.2, 0.7], [0.9, 0.1]])
    readings = data(x, 1e4 * x[:, 0], operator=second, noise=0.5)  # Large values have no part in the variance.
    plain, kernel_fn = problem_of(2, sensors=second, div=divergence), network(2, 1, "tanh").kernel_fn
    measured = plain._replace(conditions=plain.conditions | {"sensors": readings})
    rows = jnp.column_stack([x, 1e4 * x[:, 0], jnp.full(2, 0.5)])
    kernel = ntk.infinite(measured, kernel_fn, {"sensors": rows, "div": x})
    exact = ntk.infinite(plain, kernel_fn, {"sensors": x, "div": x}, field=lambda x: x)
    scale = np.repeat([2.0, 1.0], 2)  # In units of the noise.
    np.testing.assert_allclose(kernel.matrix, scale[:, None] * exact.matrix * scale, rtol=1e-12)
    at = ntk.infinite(measured, kernel_fn, {"sensors": rows, "div": x}, field=lambda x: jnp.outer(x, x)[0])
    np.testing.assert_allclose(at.matrix, kernel.matrix, rtol=1e-12)


def test_an_operator_that_takes_the_field_elsewhere_has_the_kernel_of_both_places():
    periodic = lambda u: lambda x: u(x) - u(x + 1)
    x, kernel_fn = np.array([[0.0], [0.4]]), network(1, 1, "tanh").kernel_fn
    kernel = ntk.infinite(problem_of(jump=periodic, u=identity), kernel_fn, {"jump": x, "u": x + 1}).matrix
    both = np.asarray(kernel_fn(jnp.vstack([x, x + 1]), None, "ntk"))
    difference = np.kron([1, -1], np.eye(2))
    np.testing.assert_allclose(kernel[:2, :2], difference @ both @ difference.T, rtol=1e-12)
    np.testing.assert_allclose(kernel[:2, 2:], difference @ both[:, 2:], rtol=1e-12)


def test_components_follow_from_the_operators():
    stress = problem_of(2, x=lambda u: lambda x: u(x)[0], last=lambda u: lambda x: partial(1)(u)(x)[3])
    points = {"x": np.array([[0.2, 0.7]]), "last": np.array([[0.9, 0.1]])}
    kernel = ntk.infinite(stress, network(2, 1, "tanh").kernel_fn, points)
    exact = ntk.infinite(stress._replace(solution=lambda x: jnp.zeros(4)), network(2, 1, "tanh").kernel_fn, points)
    np.testing.assert_allclose(kernel.matrix, exact.matrix, rtol=1e-14)
    assert kernel["x", "last"][0, 0] == 0 and kernel["last", "last"][0, 0] > 0


def test_components_that_do_not_follow_are_an_error():
    with pytest.raises(ValueError, match="number of components.*`field=`"):
        sums = problem_of(2, sum=lambda u: lambda x: jnp.sum(u(x)) * u(x)[0] / u(x)[0] + 0 * u(x)[1])
        ntk.infinite(sums, network(2, 1, "tanh").kernel_fn, {"sum": np.array([[0.2, 0.7]])})


@pytest.mark.parametrize("kernel_of", [lambda k, x: k(x, None, "ntk"), lambda k, x: ntk.infinite(
    problem_of(r=laplacian), k, {"r": x})], ids=["kernel_fn", "infinite"])  # fmt: skip
def test_a_variance_beyond_the_series_is_refused_with_the_number(kernel_of):
    with pytest.raises(ValueError, match=r"variance of up to 4e\+04.*good up to a variance of .*`standardized`"):
        kernel_of(network(1, 1, "tanh").kernel_fn, jnp.array([[200.0], [1.0]]))


def test_a_kink_is_refused_and_says_so():
    with pytest.raises(ValueError, match="relu.*kink"):
        ntk.infinite(problem_of(r=laplacian), network(1, 1, jax.nn.relu).kernel_fn, POINTS_OF_R)


def test_traced_inputs_beyond_the_stated_variance_give_nan():
    kernel_fn = jax.jit(lambda x: network(1, 1, "tanh").kernel_fn(x, x, "ntk"))
    assert jnp.isfinite(kernel_fn(jnp.array([[1.7]]))).all() and jnp.isnan(kernel_fn(jnp.array([[1.8]]))).all()


POINTS_OF_R = {"r": jnp.array([[0.0], [0.5]])}


# By name: with a kink there is no series, whatever its share.
RANDOM = {
    "tanh": jnp.tanh,
    "erf": jax.scipy.special.erf,
    "sin": jnp.sin,
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "softplus": jax.nn.softplus,
    "kink": jnp.abs,
}


@pytest.mark.parametrize("seed", range(6))
def test_random_activations_scales_depths_and_points_are_right_or_refused(seed):
    """Values and Laplacians, steep, shifted and mixed activations, both kernels."""
    rng = np.random.default_rng(seed)
    names, shares = rng.choice(list(RANDOM), 2, p=[0.25, 0.15, 0.15, 0.2, 0.2, 0.05]), [1, rng.choice([0, 1e-6, 1])]
    scales, shifts = 10 ** rng.uniform(-1, 0.4, 2), rng.normal(size=2)
    depth, d, get = seed % 3 + 1, int(rng.integers(1, 3)), ["ntk", "nngp"][rng.integers(2)]
    options = {"weight_std": rng.uniform(0.4, 1.5), "bias_std": 10 ** rng.uniform(-1, 0.2)}
    x = rng.normal(size=(2, d)) * 10 ** rng.uniform(-0.7, 0.4)
    mixed = list(zip(shares, names, scales, shifts, strict=True))

    def phi(z):
        return sum(share * RANDOM[name](scale * z + shift) for share, name, scale, shift in mixed if share)

    def derivatives(z, count):
        of = lambda name, *line: quadrature.of_argument(quadrature.ACTIVATIONS[name], *line)(z, count)
        return sum(share * of(name, scale, shift) for share, name, scale, shift in mixed)

    problem = problem_of(d, u=identity, laplacian=laplacian)
    try:
        kernel = ntk.infinite(problem, network(d, depth, phi, **options).kernel_fn, {"u": x, "laplacian": x}, get=get)
    except ValueError as error:
        assert "Preactivations have a variance of up to" in str(error)
        return
    rows = [(0, 1, p) for p in x] + [(1, 0, p) for p in x]
    errors = worst(kernel, quadrature.kernel(rows, derivatives, depth, get=get, **options))
    assert max(errors.values()) <= 1e-9, errors


# Compilations.


def test_other_coefficients_points_and_equal_networks_compile_nothing():
    from pinn_analysis.ntk import _limit

    points = {"boundary": np.array([[-1.0, 0.3]]), "residual": np.array([[0.2, -0.4], [0.5, 0.9]])}
    first = ntk.infinite(helmholtz_2d(k=1), network(2, 1, "tanh").kernel_fn, points)
    count = _limit._block._cache_size()
    second = ntk.infinite(helmholtz_2d(a1=2, k=3), network(2, 1, "tanh").kernel_fn, points)
    assert _limit._block._cache_size() == count
    assert not np.allclose(first["residual", "residual"], second["residual", "residual"], rtol=0.1)
    ntk.infinite(poisson_1d(1), network(1, 1, "tanh").kernel_fn, POINTS)
    count = _limit._block._cache_size()
    ntk.infinite(poisson_1d(2), network(1, 1, "tanh").kernel_fn, {k: 0.9 * x for k, x in POINTS.items()})
    assert _limit._block._cache_size() == count


def test_another_field_of_the_same_network_compiles_nothing():
    from pinn_analysis.ntk import _limit

    trained, points = mlp((2, 4, 1)), {"residual": np.array([[0.2, 0.4], [0.5, 0.9]])}
    problem = klein_gordon()
    problem = problem._replace(conditions={"residual": problem.conditions["residual"]})
    kernels, counts = [], []
    for seed in (0, 1):
        field = functools.partial(trained.apply, trained.init(jax.random.key(seed)))
        kernels.append(ntk.infinite(problem, network(2, 1, "tanh").kernel_fn, points, field=field).matrix)
        counts.append(_limit._block._cache_size())
    assert counts[0] == counts[1] and not np.allclose(*kernels, rtol=1e-6)
