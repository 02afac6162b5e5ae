import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pinn_analysis.ntk import KernelBlocks

MATRIX = jnp.arange(25.0).reshape(5, 5) + jnp.arange(25.0).reshape(5, 5).T
KERNEL = KernelBlocks(MATRIX, ("u", "r"), (2, 3))


def test_blocks_are_the_rows_and_columns_of_their_terms():
    assert jnp.array_equal(KERNEL["u", "u"], MATRIX[:2, :2])
    assert jnp.array_equal(KERNEL["r", "u"], MATRIX[2:, :2])
    assert jnp.array_equal(KERNEL["r", "u"], KERNEL["u", "r"].T)


def test_splitting_and_joining_are_inverse():
    vector = jnp.arange(5.0)
    parts = KERNEL.split(vector)
    assert {name: part.tolist() for name, part in parts.items()} == {"u": [0, 1], "r": [2, 3, 4]}
    assert jnp.array_equal(KERNEL.join(dict(reversed(parts.items()))), vector)  # Names count, not their order.
    assert KERNEL.split(jnp.ones((7, 5)))["r"].shape == (7, 3)


def test_kernels_pass_through_transformations():
    doubled = jax.jit(lambda kernel: jax.tree.map(lambda x: 2 * x, kernel))(KERNEL)
    assert jnp.array_equal(doubled["r", "r"], 2 * MATRIX[2:, 2:]) and doubled.names == KERNEL.names
    several = jax.vmap(lambda scale: jax.tree.map(lambda x: scale * x, KERNEL).matrix)(jnp.array([1.0, 3.0]))
    np.testing.assert_array_equal(several[1], 3 * MATRIX)


def test_a_block_that_does_not_exist_is_an_error_that_shows_how_to_ask():
    with pytest.raises(ValueError, match=r"pair of \['u', 'r'\], as in K\['r', 'u'\]; got \('u', 'v'\)"):
        KERNEL["u", "v"]


@pytest.mark.parametrize("sizes", [{"u": 2}, {"u": 3, "r": 2}, {"u": 2, "R": 3}, {"u": 2, "r": 3, "s": 1}])
def test_parts_that_do_not_fit_are_an_error(sizes):
    with pytest.raises(ValueError, match="`problem.residuals` makes them"):
        KERNEL.join({name: jnp.ones(n) for name, n in sizes.items()})


def test_products_diagonals_and_scaled_kernels_are_those_of_the_matrix():
    v = jnp.arange(5.0)
    np.testing.assert_allclose(KERNEL.mv(v), MATRIX @ v)
    np.testing.assert_allclose(KERNEL.linear()(v), MATRIX @ v)
    np.testing.assert_array_equal(KERNEL.diagonal(), jnp.diag(MATRIX))
    traces = {name: float(trace) for name, trace in KERNEL.traces().items()}
    assert traces == {"u": MATRIX[0, 0] + MATRIX[1, 1], "r": jnp.trace(MATRIX[2:, 2:])}
    scaled = KERNEL.scaled({"u": 2.0, "r": jnp.array([1.0, 0.0, 3.0])})
    by = jnp.array([2.0, 2.0, 1.0, 0.0, 3.0])
    np.testing.assert_array_equal(scaled.matrix, jnp.outer(by, by) * MATRIX)
    assert scaled.names == KERNEL.names


def test_draws_have_the_kernel_for_covariance():
    j = jax.random.normal(jax.random.key(0), (5, 2))  # Of rank two: it has no Cholesky factor.
    kernel = KernelBlocks(j @ j.T, ("u", "r"), (2, 3))
    draws = kernel.draw(jax.random.key(1), 40_000)
    assert draws["u"].shape == (40_000, 2) and draws["r"].shape == (40_000, 3)
    both = kernel.join(draws)
    # The standard deviation of a covariance from N draws is below √(2 / N) times the largest variance.
    np.testing.assert_allclose(both.T @ both / 40_000, kernel.matrix, atol=0.03 * kernel.diagonal().max())
