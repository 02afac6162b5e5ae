"""Dense spectra: of a kernel, of its blocks, and of a kernel as weighted training sees it."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Float

from pinn_analysis._functions import fails
from pinn_analysis.ntk import KernelBlocks, KernelOperator
from pinn_analysis.ntk._blocks import Rows
from pinn_analysis.problems import check_weights
from pinn_analysis.problems._core import is_finite


class Eigenvalues(NamedTuple):
    """Eigenvalues, descending.

    Attributes:
        terms: of the block ``K_ii`` of each term.
        whole: of the whole kernel, ``(n,)``.
    """

    terms: dict[str, Array]
    whole: Float[Array, " n"]


def eigenvalues(kernel: KernelBlocks) -> Eigenvalues:
    """Eigenvalues, descending, of the block of each term and of the whole, in float64 where x64 is on.  O(n³).

    The kernel of infinitely many points is an integral operator; its eigenvalues are about
    those of ``K_ii / n_i``.

    Raises:
        ValueError: a kernel in half precision, or one that is not finite.
    """
    values = lambda matrix: jnp.linalg.eigvalsh(_exact(matrix))[::-1]
    return Eigenvalues({name: values(kernel[name, name]) for name in kernel.names}, values(kernel.matrix))


def modes(kernel: KernelBlocks, name: str) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Eigenvalues of the block ``K_ii``, descending, and their eigenvectors, one per column.

    Raises:
        ValueError: as `eigenvalues`.
    """
    values, vectors = jnp.linalg.eigh(_exact(kernel[name, name]))
    return values[::-1], vectors[:, ::-1]


def _exact(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """A kernel in the precision in which its eigenvalues are computed: float64 where x64 is on."""
    precision = matrix.dtype
    if jnp.finfo(precision).bits < 32:
        raise ValueError(f"Eigenvalues of a kernel in {precision} are rounding; make it in float32 or float64.")
    if not is_finite(matrix):
        raise ValueError(
            "The kernel contains NaN or infinity; `ntk.empirical` and `ntk.infinite` say where they arise."
        )
    return matrix.astype(jnp.promote_types(precision, jnp.result_type(float)))


def effective_rank(values: Float[Array, " n"]) -> Float[Array, ""]:
    """``Σλ / max λ`` of the eigenvalues: how many modes share the trace, from 1 to ``n``.

    Raises:
        ValueError: no eigenvalue is positive.
    """
    if fails(values.max() > 0):
        raise ValueError(f"The rank is that of the largest eigenvalue, which must be positive; got {values.max()}.")
    return values.sum() / values.max()


@functools.partial(
    jax.tree_util.register_dataclass, data_fields=["kernel", "scale", "values", "modes"], meta_fields=["idle"]
)
@dataclasses.dataclass(frozen=True)
class Spectrum:
    """Eigendecomposition of ``S = D^½ K D^½``, ascending, ``D = diag(λ_i / n_i)``; made by `spectrum`.

    Attributes:
        kernel: the kernel ``K``.
        scale: diagonal of ``D^½``, ``(n,)``.
        values: eigenvalues ``Λ`` of ``S``; those within rounding of zero are zero.
        modes: orthonormal eigenvectors of ``S``, one per column: parts of ``D^½ r``.
        idle: the terms whose weight is zero or, while a function is traced, unknown.
    """

    kernel: KernelBlocks
    scale: Float[Array, " n"]
    values: Float[Array, " n"]
    modes: Float[Array, "n n"]
    idle: tuple[str, ...]

    @property
    def rates(self) -> Float[Array, " n"]:
        """Decay rate ``2 Λ`` of each mode under gradient flow, ascending, in 1/time."""
        return 2 * self.values

    @property
    def lost(self) -> Array:
        """How many modes are within rounding of zero, in the precision of the kernel.

        Such a mode counts as one that never moves.  Some do: where there are more rows than
        parameters, say.  What float32 loses and float64 does not, moves slowly.
        """
        return (self.values == 0).sum() - (self.scale == 0).sum()

    @property
    def max_learning_rate(self) -> Float[Array, ""]:
        """``1 / max Λ``: the largest step with which gradient descent does not diverge."""
        return jnp.where(self.values[-1] > 0, 1 / _positive(self.values[-1]), jnp.inf)

    def amplitudes(self, r: Mapping[str, ArrayLike]) -> Float[Array, "... n"]:
        """How much of each mode there is in residuals: ``Vᵀ D^½ r``, in the order of `values`.

        Raises:
            ValueError: residuals that do not fit the kernel, are complex, or not finite.
        """
        for name, part in r.items():
            if jnp.iscomplexobj(part) or not is_finite(jnp.asarray(part)):
                raise ValueError(f"Residuals must be real and finite numbers; those of {name!r} are not.")
        return jnp.matmul(self.kernel.join(r) * self.scale, self.modes, precision="highest")

    def evolve(
        self, r0: Mapping[str, ArrayLike], decay: Array, integral: Array, names: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Residuals, by term, when every mode has shrunk by a factor of its own.

        Args:
            r0: residuals at the start.
            decay: the factors, ``(..., n)``.
            integral: of the factors over time, ``(..., n)``, from which terms of weight zero are
                dragged; for steps, their sum times the learning rate.
            names: the terms wanted, by default all.

        Raises:
            ValueError: as `amplitudes`.
        """
        amplitudes, where = self.amplitudes(r0), self.kernel.slices()
        multiply = functools.partial(jnp.matmul, precision="highest")

        def part(name: str) -> Array:
            rows = where[name]
            scale = self.scale[rows]
            trained = multiply(decay * amplitudes, self.modes[rows].T) / _positive(scale)
            if name not in self.idle:
                return trained
            dragged = jnp.asarray(r0[name]) - 2 * self._dragged(integral * amplitudes, name)
            return jnp.where(scale > 0, trained, dragged)

        return {name: part(name) for name in names or where}

    def _dragged(self, amplitudes: Array, name: str) -> Array:
        """``K D^½ V a`` in the rows of an idle term."""
        multiply = functools.partial(jnp.matmul, precision="highest")
        moved = multiply(amplitudes, self.modes.T) * self.scale
        return multiply(moved, self.kernel.matrix[:, self.kernel.slices()[name]])

    def errors(self, integral: Array, spent: Array, alternating: ArrayLike = False) -> dict[str, Array]:
        """By how much the root mean square of what `evolve` returns may be off, by term: nothing, rounding apart.

        Args:
            integral: of the factors over time, ``(..., n)``, also of modes that do not move.
            spent: the time itself, ``(...,)``.
            alternating: whether a factor is negative; then ``integral`` is of their absolute values.
        """
        return dict.fromkeys(self.kernel.names, jnp.zeros(jnp.shape(spent)))


def spectrum(kernel: KernelBlocks | KernelOperator, weights: Mapping[str, ArrayLike] | None = None) -> Spectrum:
    """Diagonalise a kernel as training with ``Σ_i λ_i mean(r_i²)`` sees it.  O(n³), once.

    It computes in float64 where x64 is on, whatever the kernel's precision; what the kernel has lost
    to rounding (`Spectrum.lost`) does not come back.  Traceable, and so is all that is made of it.

    Args:
        kernel: of a network, finite or infinite.
        weights: ``λ_i`` by term, 1 if not given; 0 for terms that are not trained, unless given.

    Raises:
        ValueError: weights that are negative or not finite, miss a term or name an unknown one;
            a kernel in half precision, not finite, or not positive semidefinite beyond rounding.
    """
    if not hasattr(kernel, "dense"):
        raise ValueError(
            "`kernel` must say which rows belong to which term, as those of `ntk` do; of a matrix of your own make "
            f'`ntk.KernelBlocks(matrix, ("all",), (len(matrix),))`.  Got {type(kernel).__name__}.'
        )
    kernel = kernel.dense()
    matrix, precision = _exact(kernel.matrix), kernel.matrix.dtype
    scale, idle = weight_scale(kernel, weights, matrix.dtype)
    values, vectors, kept, rounding, semidefinite = _diagonalised(matrix, scale, float(jnp.finfo(precision).eps))
    if fails(semidefinite):
        raise ValueError(
            f"The kernel is not positive semidefinite: its eigenvalues, weighted, go from {values[0]:.3g} to "
            f"{values[-1]:.3g}, where rounding explains {-rounding:.1g} at most.  It should be J Jᵀ of one network "
            "at one set of points; `ntk.empirical` and `ntk.infinite` make such."
        )
    return Spectrum(kernel, scale, kept, vectors, idle)


@jax.jit
def _diagonalised(matrix: Array, scale: Array, unit: ArrayLike) -> tuple[Array, ...]:
    """Eigenvalues and eigenvectors; the values with 0 for those within rounding, where that ends, if none is below."""
    values, vectors = jnp.linalg.eigh(scale[:, None] * matrix * scale)
    # The customary bound, as in `numpy.linalg.matrix_rank`; 50 times what kernels of PINNs show.
    rounding = len(values) * unit * jnp.abs(values).max()
    return values, vectors, jnp.where(values > rounding, values, 0), rounding, values[0] >= -rounding


def weight_scale(
    kernel: Rows, weights: Mapping[str, ArrayLike] | None, dtype: DTypeLike
) -> tuple[Float[Array, " n"], tuple[str, ...]]:
    """The diagonal of ``D^½``, and the terms whose weight is zero or not known yet."""
    weights = {name: 1.0 for name in kernel.names if name not in kernel.untrained} if weights is None else weights
    weights = dict.fromkeys(kernel.untrained, 0.0) | dict(weights)
    if set(weights) != set(kernel.names):
        raise ValueError(f"`weights` must name the terms of the kernel, {list(kernel.names)}; got {list(weights)}.")
    check_weights(weights)
    squares = {name: jnp.asarray(weights[name], dtype) / n for name, n in zip(kernel.names, kernel.sizes, strict=True)}
    idle = tuple(name for name in kernel.names if isinstance(weights[name], jax.core.Tracer) or weights[name] == 0)
    return jnp.sqrt(kernel.repeat(squares)), idle


def _positive(x: Array) -> Array:
    """``x`` with 1 for 0, for the branch of a `where` that is not taken."""
    return jnp.where(x > 0, x, 1)
