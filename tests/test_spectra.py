import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pinn_analysis import spectra
from pinn_analysis.ntk import KernelBlocks


@pytest.fixture(scope="module")
def kernel():
    j = jax.random.normal(jax.random.key(0), (7, 5))  # Rank 5 of 7.
    return KernelBlocks(j @ j.T, ("u", "r"), (3, 4))


def test_eigenvalues_are_squared_singular_values_of_the_jacobian(kernel):
    j = np.asarray(jax.random.normal(jax.random.key(0), (7, 5)))
    values = spectra.eigenvalues(kernel)
    assert list(values) == ["u", "r", "all"]
    for name, rows in (("u", j[:3]), ("r", j[3:]), ("all", j)):
        exact = np.linalg.svd(rows, compute_uv=False) ** 2
        np.testing.assert_allclose(values[name][: len(exact)], exact, rtol=1e-12)  # Descending, both.
    np.testing.assert_allclose(values["all"][5:], 0, atol=1e-13 * values["all"][0])


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
        return np.abs(spectra.eigenvalues(kernel)["u"][:3] / n - exact) / exact

    assert (relative_errors(128) < 0.003).all()
    assert (relative_errors(128) < relative_errors(32) / 3).all()


def test_effective_rank_counts_equal_eigenvalues():
    assert spectra.effective_rank(jnp.array([2.0, 2.0, 2.0, 0.0])) == 3
    assert spectra.effective_rank(jnp.array([5.0, 0.0, 0.0])) == 1
