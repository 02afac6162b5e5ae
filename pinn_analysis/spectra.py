"""Eigenvalues and eigenvectors of a kernel and of the diagonal block of each term."""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from pinn_analysis.ntk import KernelBlocks


def eigenvalues(kernel: KernelBlocks) -> dict[str, Array]:
    """Eigenvalues, descending, of the block ``K_ii`` of each term, and of all as ``"all"``.

    The kernel of infinitely many points is an integral operator; its eigenvalues are about
    those of ``K_ii / n_i``.  O(n³).
    """
    blocks = {name: kernel[name, name] for name in kernel.names} | {"all": kernel.matrix}
    return {name: jnp.linalg.eigvalsh(block)[::-1] for name, block in blocks.items()}


def modes(kernel: KernelBlocks, name: str) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Eigenvalues of the block ``K_ii``, descending, and their eigenvectors, one a column."""
    values, vectors = jnp.linalg.eigh(kernel[name, name])
    return values[::-1], vectors[:, ::-1]


def effective_rank(values: Float[Array, " n"]) -> Float[Array, ""]:
    """``Σλ / max λ`` of the eigenvalues: how many modes share the trace, from 1 to ``n``."""
    return values.sum() / values.max()
