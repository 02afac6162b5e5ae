"""A kernel as weighted training sees it, as something that multiplies a vector; its effective rank."""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from pinn_analysis._functions import fails
from pinn_analysis.ntk import KernelBlocks, KernelOperator
from pinn_analysis.ntk._blocks import Rows
from pinn_analysis.spectra._lanczos import Estimate, extreme_eigenvalues
from pinn_analysis.spectra._spectrum import weight_scale


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["kernel", "scale"],
    meta_fields=["names", "sizes", "untrained"],
)
@dataclasses.dataclass(frozen=True)
class WeightedKernel(Rows):
    """``S = D^½ K D^½``, ``D = diag(λ_i / n_i)``, nothing of it formed; made by `weighted`.

    Attributes:
        kernel: the kernel ``K``.
        scale: diagonal of ``D^½``, ``(n,)``.
        names: the loss terms, in the order of the rows.
        sizes: number of rows of each term.
        untrained: the terms that training does not take in.
    """

    kernel: KernelOperator | KernelBlocks
    scale: Float[Array, " n"]
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    untrained: tuple[str, ...] = ()

    def linear(self) -> Callable[[Float[Array, " n"]], Float[Array, " n"]]:
        """``v -> S v``, linearised once where memory allows."""
        product = self.kernel.linear()
        return lambda v: (self.scale * product(self.scale * v)).astype(v.dtype)

    def diagonal(self) -> Float[Array, " n"]:
        """The entries ``S_kk``, ``λ_i / n_i`` times those of the kernel."""
        return self.scale**2 * self.kernel.diagonal()


def weighted(kernel: KernelOperator | KernelBlocks, weights: Mapping[str, ArrayLike] | None = None) -> WeightedKernel:
    """What `spectrum` diagonalises, without the matrix: for `largest_eigenpairs`, `density`, `effective_rank_of`.

    Args:
        kernel: `ntk.operator`, or a matrix.
        weights: as of `spectrum`.

    Raises:
        ValueError: weights that are negative or not finite, miss a term or name an unknown one.
    """
    scale, _ = weight_scale(kernel, weights, jnp.result_type(float))
    return WeightedKernel(kernel, scale, kernel.names, kernel.sizes, kernel.untrained)


def effective_rank_of(
    kernel: KernelOperator | KernelBlocks | WeightedKernel, *, key: Array, num_matvecs: int = 64
) -> Estimate:
    """`effective_rank`, ``tr K / max λ``, without the matrix: the trace is exact, the eigenvalue is Lanczos'.

    It is between ``value - error`` and ``value`` where the largest Ritz value is near the largest eigenvalue, as it
    is once ``error`` is small beside ``value``; while it is not, take more products.

    Args:
        kernel: `ntk.operator`, a matrix, or one of them `weighted`; of one term with ``only``.
        key: a random key, for the first vector.
        num_matvecs: products, at most.

    Raises:
        ValueError: as `extreme_eigenvalues`; no eigenvalue is positive.
    """
    diagonal = kernel.diagonal()
    ends = extreme_eigenvalues(kernel, diagonal, key=key, num_matvecs=num_matvecs)
    if fails(ends.largest > 0):
        raise ValueError(f"The rank is that of the largest eigenvalue, which must be positive; got {ends.largest}.")
    trace = jnp.sum(diagonal)
    return Estimate(trace / ends.largest, trace / ends.largest - trace / (ends.largest + ends.errors[1]))
