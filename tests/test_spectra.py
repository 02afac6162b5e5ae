import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pinn_analysis import convergence, mlp, ntk, spectra
from pinn_analysis.ntk import KernelBlocks
from pinn_analysis.problems import poisson_1d

KEY = jax.random.key(7)


@pytest.fixture(scope="module")
def kernel():
    j = jax.random.normal(jax.random.key(0), (7, 5))  # Rank 5 of 7.
    return KernelBlocks(j @ j.T, ("u", "r"), (3, 4))


def test_eigenvalues_are_squared_singular_values_of_the_jacobian(kernel):
    j = np.asarray(jax.random.normal(jax.random.key(0), (7, 5)))
    values = spectra.eigenvalues(kernel)
    assert list(values.terms) == ["u", "r"]
    for found, rows in ((values.terms["u"], j[:3]), (values.terms["r"], j[3:]), (values.whole, j)):
        exact = np.linalg.svd(rows, compute_uv=False) ** 2
        np.testing.assert_allclose(found[: len(exact)], exact, rtol=1e-12)  # Descending, both.
    np.testing.assert_allclose(values.whole[5:], 0, atol=1e-13 * values.whole[0])


def test_no_name_of_a_term_is_lost():
    kernel = KernelBlocks(jnp.diag(jnp.array([1.0, 2.0, 3.0])), ("all", "output"), (1, 2))
    values = spectra.eigenvalues(kernel)
    assert values.terms["all"].tolist() == [1.0] and values.terms["output"].tolist() == [3.0, 2.0]
    assert values.whole.tolist() == [3.0, 2.0, 1.0]
    np.testing.assert_allclose(spectra.spectrum(kernel).max_learning_rate, 2 / 3)  # Both are trained, 3 over 2 rows.


def test_modes_diagonalise_the_block(kernel):
    values, vectors = spectra.modes(kernel, "r")
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(4), atol=1e-13)
    np.testing.assert_allclose(kernel["r", "r"] @ vectors, vectors * values, atol=1e-12)
    assert (jnp.diff(values) <= 0).all()


def test_eigenvalues_of_more_points_approach_those_of_the_integral_operator():
    def relative_errors(n):  # min(x, y) on [0, 1] has the eigenvalues 1 / ((k - ½)² π²).
        x = (np.arange(n) + 0.5) / n
        kernel = KernelBlocks(jnp.minimum(x[:, None], x), ("u",), (n,))
        exact = 1 / ((np.arange(1, 4) - 0.5) ** 2 * np.pi**2)
        return np.abs(spectra.eigenvalues(kernel).terms["u"][:3] / n - exact) / exact

    assert (relative_errors(128) < 0.003).all()
    assert (relative_errors(128) < relative_errors(32) / 3).all()


def test_effective_rank_counts_equal_eigenvalues():
    assert spectra.effective_rank(jnp.array([2.0, 2.0, 2.0, 0.0])) == 3
    assert spectra.effective_rank(jnp.array([5.0, 0.0, 0.0])) == 1


def test_few_products_give_bounds_that_hold():
    values = jnp.linspace(-1, 2, 100)
    for num_matvecs in (1, 5):
        ends = spectra.extreme_eigenvalues(lambda v: values * v, values, key=KEY, num_matvecs=num_matvecs)
        assert -1 - 1e-12 <= ends.smallest <= ends.largest <= 2 + 1e-12
        for found, bound in zip((ends.smallest, ends.largest), ends.errors, strict=True):
            assert jnp.abs(values - found).min() <= bound + 1e-12


@pytest.mark.parametrize("diagonal", [[2.0, 2.0, 2.0, 2.0], [0.0, 0.0, 0.0], [5.0], [3.0, 3.0, 0.0, 0.0, 0.0]], ids=str)
def test_few_distinct_eigenvalues_are_no_obstacle(diagonal):
    diagonal = jnp.array(diagonal)

    def product(v):  # One for both, so that it compiles once.
        return diagonal * v

    ends = spectra.extreme_eigenvalues(product, diagonal, key=KEY)
    np.testing.assert_allclose([ends.smallest, ends.largest], [diagonal.min(), diagonal.max()], atol=1e-12)
    assert (ends.errors <= 1e-12).all()
    spectrum = spectra.density(product, diagonal, key=KEY, samples=1)
    np.testing.assert_allclose(spectrum.counts.sum(), diagonal.size)
    np.testing.assert_allclose((spectrum.counts * spectrum.values).sum(), diagonal.sum(), atol=1e-12)


def test_the_ends_of_a_kernel_need_no_matrix_and_compile_once_for_all_parameters():
    problem, network = poisson_1d(4), mlp((1, 16, 1), bias_std=0.5)
    points = problem.sample(jax.random.key(1), {"boundary": 2, "residual": 9})
    counts = []
    for key in jax.random.split(KEY, 3):
        kernel = ntk.operator(problem, network.apply, network.init(key), points)
        ends = spectra.extreme_eigenvalues(kernel, jnp.zeros(11), key=KEY)
        exact = jnp.linalg.eigvalsh(kernel.dense().matrix)
        np.testing.assert_allclose(ends.largest, exact[-1], rtol=1e-10)
        counts.append(spectra._lanczos.ritz._cache_size())
    assert counts[0] == counts[-1]
    dense = spectra.extreme_eigenvalues(kernel.dense(), jnp.zeros(11), key=KEY)
    np.testing.assert_allclose(dense.largest, exact[-1], rtol=1e-10)


def test_each_sample_is_a_quadrature_of_its_own_vector():
    diagonal = jnp.linspace(-1, 2, 50)  # For which every vector of signs sees all eigenvalues alike.
    spectrum = spectra.density(lambda v: diagonal * v, diagonal, key=KEY, num_matvecs=6, samples=3)
    for power in range(12):
        moments = (3 * spectrum.counts * spectrum.values**power).sum(1)
        np.testing.assert_allclose(moments, (diagonal**power).sum(), rtol=1e-12)


def decaying(n, ratio=0.8):
    """A dense symmetric matrix of known eigenvalues ``ratio**i``, descending."""
    vectors = jnp.linalg.qr(jax.random.normal(jax.random.key(3), (n, n)))[0]
    values = ratio ** jnp.arange(n)
    return KernelBlocks((vectors * values) @ vectors.T, ("u", "r"), (n // 2, n - n // 2)), values, vectors


def test_the_largest_eigenpairs_are_within_their_errors_of_the_dense_ones():
    kernel, values, vectors = decaying(60)
    few, many = (
        spectra.largest_eigenpairs(kernel, jnp.zeros(60), 6, key=KEY, num_matvecs=products) for products in (9, 30)
    )
    for found in (few, many):
        assert (found.values <= values[:6] * (1 + 1e-12)).all()
        assert (jnp.abs(values[:, None] - found.values).min(0) <= found.errors + 1e-14).all()
        residuals = jnp.linalg.norm(kernel.matrix @ found.vectors - found.vectors * found.values, axis=0)
        np.testing.assert_allclose(found.errors, residuals, rtol=1e-6, atol=1e-13)
        np.testing.assert_allclose(found.vectors.T @ found.vectors, np.eye(6), atol=1e-12)
    assert few.errors[5] > 1e-3  # Has not converged, and it is known.
    np.testing.assert_allclose(many.values, values[:6], rtol=1e-10)
    np.testing.assert_allclose(jnp.abs(jnp.sum(many.vectors * vectors[:, :6], 0)), 1, rtol=1e-10)


def test_rounding_of_products_in_float32_is_in_the_errors():
    kernel, _, _ = decaying(60)
    single = dataclasses.replace(kernel, matrix=kernel.matrix.astype(jnp.float32))
    found = spectra.largest_eigenpairs(single, jnp.zeros(60, jnp.float32), 20, key=KEY, num_matvecs=60)
    exact = jnp.linalg.eigvalsh(single.matrix.astype(float))[::-1]
    assert found.values.dtype == jnp.float32
    assert (jnp.abs(found.values - exact[:20]) <= found.errors).all()
    assert (found.errors[:10] < 2e-6).all()


def test_more_eigenpairs_than_a_vector_sees_are_refused(kernel):
    with pytest.raises(ValueError, match="7 eigenvalues were asked for, and a random vector sees 6"):
        spectra.largest_eigenpairs(kernel, jnp.zeros(7), 7, key=KEY)
    for k in (0, 65):
        with pytest.raises(ValueError, match=f"`k` must be from 1 to `num_matvecs`, 64.* got {k}"):
            spectra.largest_eigenpairs(kernel, jnp.zeros(7), k, key=KEY)


def test_counts_from_the_density_are_within_a_few_standard_errors():
    kernel, values, _ = decaying(60, 0.9)
    found = spectra.density(kernel, jnp.zeros(60), key=KEY, num_matvecs=20, samples=30)
    for x in (0.5, 0.05):
        count, error = found.above(x)
        assert 0 < error < 1.5
        assert abs(count - (values > x).sum()) <= 3 * error + 0.5
    assert (jnp.abs(values[:, None, None] - found.values).min(0) <= found.errors + 1e-14).all()
    with pytest.raises(ValueError, match="scatter over samples"):
        spectra.density(kernel, jnp.zeros(60), key=KEY, num_matvecs=20, samples=1).above(0.5)


@pytest.mark.parametrize("weights", [None, {"u": 5.0, "r": 0.3}], ids=["equal", "unequal"])
def test_a_weighted_kernel_needs_no_matrix_and_has_the_eigenvalues_of_training(weights):
    kernel = training_kernel()
    exact = spectra.spectrum(kernel, weights)
    weighted = spectra.weighted(kernel, weights)
    found = spectra.largest_eigenpairs(weighted, jnp.zeros(10), 4, key=KEY)
    np.testing.assert_allclose(found.values, exact.values[::-1][:4], rtol=1e-10)
    np.testing.assert_allclose(sum(weighted.traces().values()), exact.values.sum(), rtol=1e-12)
    rank, error = spectra.effective_rank_of(weighted, key=KEY)
    np.testing.assert_allclose(rank, spectra.effective_rank(exact.values), rtol=1e-10)
    assert 0 <= error < 1e-10


def test_the_effective_rank_of_an_operator_says_how_far_it_has_converged():
    problem, network = poisson_1d(4), mlp((1, 16, 1), bias_std=0.5)
    points = problem.sample(jax.random.key(1), {"boundary": 2, "residual": 9})
    kernel = ntk.operator(problem, network.apply, network.init(KEY), points)
    exact = spectra.effective_rank(jnp.linalg.eigvalsh(kernel.dense().matrix))
    found = [spectra.effective_rank_of(kernel, key=KEY, num_matvecs=products) for products in (1, 3, 11)]
    assert found[0].error > 0.5 * found[0].value  # Has not converged.
    for rank, error in found[1:]:
        assert rank - error - 1e-12 <= exact <= rank + 1e-12
    assert 1e-8 < found[1].error < 0.1 and found[2].error < 1e-8


@pytest.mark.parametrize("call", [spectra.extreme_eigenvalues, spectra.density])
def test_a_number_of_products_below_one_is_an_error(call):
    with pytest.raises(ValueError, match="`num_matvecs` and `samples` must be at least 1, got 0"):
        call(abs, jnp.ones(3), key=KEY, num_matvecs=0)
    with pytest.raises(ValueError, match="`num_matvecs` and `samples` must be at least 1, got 64 and 0"):
        spectra.density(abs, jnp.ones(3), key=KEY, samples=0)


def training_kernel(dtype=float):
    """Ten rows of three terms, the last one not trained, of rank six."""
    j = jax.random.normal(jax.random.key(0), (10, 6), dtype)
    return KernelBlocks(j @ j.T, ("u", "r", "test"), (3, 4, 3), ("test",))


def test_a_spectrum_diagonalises_the_kernel_of_the_weighted_residuals():
    kernel, weights = training_kernel(), {"u": 5.0, "r": 0.3}
    spectrum = spectra.spectrum(kernel, weights)
    scaled = kernel.scaled({"u": np.sqrt(5 / 3), "r": np.sqrt(0.3 / 4), "test": 0.0}).matrix
    np.testing.assert_allclose(spectrum.modes * spectrum.values @ spectrum.modes.T, scaled, atol=1e-12)
    np.testing.assert_allclose(spectrum.rates, 2 * np.linalg.eigvalsh(scaled), atol=1e-12)
    assert spectrum.idle == ("test",)
    assert spectrum.lost == 1  # Seven rows are trained, of rank six.


def test_spectra_pass_through_jit_and_vmap():
    kernel = training_kernel()
    r0 = {name: jnp.cos(jnp.arange(n) * 1.0) for name, n in zip(kernel.names, kernel.sizes, strict=True)}

    def ask(kernel, weights):
        spectrum = spectra.spectrum(kernel, weights)
        rate = 0.4 * convergence.max_learning_rate(spectrum)
        return (
            spectrum.lost,
            convergence.gradient_flow(spectrum).residuals(r0, jnp.array([0.0, 0.7])),
            convergence.gradient_descent(spectrum, rate).losses(r0, 30),
            convergence.steps_to(spectrum, r0, 0.9, learning_rate=rate),
        )

    several = {"u": jnp.array([1.0, 5.0]), "r": jnp.array([0.2, 0.0])}
    together = jax.vmap(ask, (None, 0))(kernel, several)
    for i in range(2):
        weights = {name: float(values[i]) for name, values in several.items()}
        eager, compiled = ask(kernel, weights), jax.jit(ask)(kernel, weights)
        for other in (compiled, jax.tree.map(lambda leaf, i=i: leaf[i], together)):
            for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(other), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)
        assert eager[3]["u"] >= 1 and eager[3]["test"] == np.inf

    outside = spectra.spectrum(kernel)  # Known, in a function that is traced.
    inside = jax.jit(lambda scale: convergence.gradient_flow(outside).losses(r0, 0.7)["u"] * scale)(1.0)
    np.testing.assert_allclose(inside, convergence.gradient_flow(outside).losses(r0, 0.7)["u"], rtol=1e-12)


def test_one_spectrum_answers_what_the_kernel_does():
    kernel, weights = training_kernel(), {"u": 5.0, "r": 0.3}
    spectrum = spectra.spectrum(kernel, weights)
    assert convergence.max_learning_rate(spectrum) == convergence.max_learning_rate(kernel, weights)
    np.testing.assert_array_equal(convergence.gradient_flow(spectrum).rates, spectrum.rates)
    with pytest.raises(ValueError, match="A spectrum has its weights already"):
        convergence.max_learning_rate(spectrum, weights)


def test_eigenvalues_are_computed_in_float64_and_what_the_kernel_lost_is_said():
    exact = jnp.diag(jnp.array([1.0, 0.1, 1e-5, 1e-9]))
    double = spectra.spectrum(KernelBlocks(exact, ("u",), (4,)))
    single = spectra.spectrum(KernelBlocks(exact.astype(jnp.float32), ("u",), (4,)))
    assert single.values.dtype == jnp.float64
    assert (double.lost, single.lost) == (0, 1)
    with pytest.raises(ValueError, match="Eigenvalues of a kernel in bfloat16 are rounding"):
        spectra.spectrum(KernelBlocks(exact.astype(jnp.bfloat16), ("u",), (4,)))


def test_steps_that_float32_has_lost_are_refused_and_not_infinite():
    """Four hundred rows of min(x, y), whose smallest eigenvalues are 1e-6 of the largest."""
    x = (jnp.arange(400) + 0.5) / 400
    double = KernelBlocks(jnp.minimum(x[:, None], x), ("u",), (400,))
    single = KernelBlocks(double.matrix.astype(jnp.float32), ("u",), (400,))
    rate = 0.5 * convergence.max_learning_rate(double)
    rough, smooth = ({"u": r} for r in (jax.random.normal(KEY, (400,)), jnp.sin(np.pi * x / 2)))
    assert 1e5 < convergence.steps_to(double, rough, 0.1, learning_rate=rate)["u"] < np.inf
    with pytest.raises(ValueError, match=r"kernel in float32 leaves .*Make the kernel in float64"):
        convergence.steps_to(single, rough, 0.1, learning_rate=rate)
    assert spectra.spectrum(double).lost == 0 and spectra.spectrum(single).lost > 200
    steps = [convergence.steps_to(kernel, smooth, 0.1, learning_rate=rate) for kernel in (double, single)]
    assert steps[0] == steps[1] and steps[0]["u"] < 10  # Of the fastest mode alone.


@pytest.mark.parametrize(
    "like, message",
    [
        (jnp.zeros(3), r"cannot multiply a vector like `like`, float64\[3\]"),
        ([jnp.zeros(7)], r"cannot multiply a vector like `like`, \['float64\[7\]'\]"),
        (jnp.zeros(7, int), r"must consist of float32 or float64, got \['int64'\]"),
        (jnp.zeros(7, jnp.bfloat16), r"must consist of float32 or float64, got \['bfloat16'\]"),
    ],
    ids=["length", "structure", "whole numbers", "half precision"],
)
def test_a_vector_that_is_not_one_of_the_operator_is_refused(kernel, like, message):
    for function in (spectra.extreme_eigenvalues, spectra.density):
        with pytest.raises(ValueError, match=message):
            function(kernel, like, key=jax.random.key(0), num_matvecs=2)


def test_a_kernel_that_is_not_finite_has_no_spectrum():
    bad = KernelBlocks(jnp.full((2, 2), jnp.nan), ("u",), (2,))
    for call in (spectra.eigenvalues, spectra.spectrum, lambda kernel: spectra.modes(kernel, "u")):
        with pytest.raises(ValueError, match="contains NaN or infinity"):
            call(bad)
    with pytest.raises(ValueError, match="Products with this operator are not finite"):
        spectra.density(bad, jnp.zeros(2), key=jax.random.key(0), num_matvecs=2)
    with pytest.raises(ValueError, match="must be positive; got 0"):
        spectra.effective_rank(jnp.zeros(2))


def test_eigenvalues_of_blocks_are_computed_in_float64_or_refused_in_half_precision():
    matrix = jnp.diag(jnp.array([1.0, 1e-6])) @ jnp.ones((2, 2)) @ jnp.diag(jnp.array([1.0, 1e-6]))
    single = KernelBlocks(matrix.astype(jnp.float32), ("u",), (2,))
    exact = np.linalg.eigvalsh(np.asarray(single.matrix, float))[::-1]
    np.testing.assert_allclose(spectra.eigenvalues(single).whole, exact, rtol=1e-12, atol=1e-16)
    assert spectra.modes(single, "u")[1].dtype == jnp.float64
    half = KernelBlocks(matrix.astype(jnp.bfloat16), ("u",), (2,))
    for call in (spectra.eigenvalues, lambda kernel: spectra.modes(kernel, "u")):
        with pytest.raises(ValueError, match="kernel in bfloat16 are rounding"):
            call(half)


@pytest.mark.parametrize("bad", [jnp.nan, 1j])
def test_residuals_that_are_no_real_numbers_are_refused(kernel, bad):
    residuals = {"u": jnp.ones(3), "r": jnp.ones(4) * bad}
    flow, rate = convergence.gradient_flow(kernel), convergence.max_learning_rate(kernel) / 2
    for call in (
        lambda: flow.losses(residuals, 1.0),
        lambda: convergence.steps_to(kernel, residuals, 0.1, learning_rate=rate),
    ):
        with pytest.raises(ValueError, match="real and finite numbers; those of 'r'"):
            call()
