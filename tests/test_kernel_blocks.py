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
