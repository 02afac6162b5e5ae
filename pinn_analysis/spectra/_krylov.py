"""What a kernel does to one vector of residuals, from products alone: Lanczos' method for functions of a matrix.

From ``s = D^½ r`` at the start, ``m`` products give an orthonormal basis ``Q`` and a tridiagonal ``T`` with
``S Q = Q T + β q e_mᵀ``, and ``f(S) s ≈ ‖s‖ Q f(T) e_1`` (Saad, 1992, doi:10.1137/0729014).  The approximation of
``exp(-2 t S) s`` misses the differential equation by ``2 β ‖s‖ e_mᵀ exp(-2 t T) e_1`` along ``q``.  ``S`` is
positive semidefinite, so its error is at most the integral of that, which has one sign, ``T`` having positive
numbers beside its diagonal.  The same holds for steps of gradient descent while no factor ``1 - 2 η θ`` is negative;
else absolute values are summed.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from pinn_analysis._functions import fails
from pinn_analysis.ntk import KernelBlocks, KernelOperator
from pinn_analysis.spectra._lanczos import lanczos
from pinn_analysis.spectra._spectrum import Spectrum, weight_scale
from pinn_analysis.spectra._weighted import weighted


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=[
        "kernel",
        "scale",
        "values",
        "modes",
        "start",
        "last",
        "rounding",
        "bound",
        "idle_parts",
        "idle_rates",
    ],
    meta_fields=["idle"],
)
@dataclasses.dataclass(frozen=True)
class KrylovSpectrum(Spectrum):
    """A `Spectrum` of ``m`` Ritz values and vectors, good for the residuals it was made from; see `krylov_spectrum`.

    Attributes:
        kernel: the kernel ``K``, as an operator or a matrix.
        scale: diagonal of ``D^½``, ``(n,)``.
        values: Ritz values of ``S``, ascending, ``(m,)``.
        modes: Ritz vectors, ``(n, m)``.
        idle: the terms whose weight is zero or, while a function is traced, unknown.
        start: amplitudes of the residuals at the start, ``(m,)``.
        last: ``β`` times the share of each Ritz vector in the last vector of the basis, ``(m,)``.
        rounding: of the products, as a norm.
        bound: of the distance of the largest Ritz value to the nearest eigenvalue.
        idle_parts: ``K D^½`` times the Ritz vectors in the rows of each idle term, ``(n_i, m)``.
        idle_rates: ``tr K_ii / n_i`` of each idle term.
    """

    kernel: KernelOperator | KernelBlocks
    values: Float[Array, " m"]
    modes: Float[Array, "n m"]
    start: Float[Array, " m"]
    last: Float[Array, " m"]
    rounding: Float[Array, ""]
    bound: Float[Array, ""]
    idle_parts: dict[str, Array]
    idle_rates: dict[str, Array]

    @property
    def lost(self) -> Array:
        """None: what rounding does is in `errors`."""
        return jnp.zeros((), int)

    @property
    def max_learning_rate(self) -> Float[Array, ""]:
        """``1 / (θ + bound)``, ``θ`` the largest Ritz value: not above ``1 / max Λ`` where ``θ`` is near ``max Λ``."""
        return 1 / (self.values[-1] + self.bound)

    def amplitudes(self, r: Mapping[str, ArrayLike]) -> Float[Array, "... m"]:
        """How much of each Ritz vector there is in the residuals it was made from.

        Raises:
            ValueError: as of `Spectrum`; other residuals, of which these vectors know nothing.
        """
        amplitudes = super().amplitudes(r)
        whole = jnp.sum((self.kernel.join(r) * self.scale) ** 2, -1)
        outside = whole - jnp.sum(amplitudes**2, -1)
        other = jnp.sum((amplitudes - self.start) ** 2, -1) + jnp.maximum(outside, 0)
        if fails((other <= 100 * jnp.finfo(whole.dtype).eps * jnp.sum(self.start**2)).all()):
            raise ValueError(
                "These residuals are not those that `spectra.krylov_spectrum` started from: a Krylov space is that of "
                "one vector; make another one for others."
            )
        return amplitudes

    def _dragged(self, amplitudes: Array, name: str) -> Array:
        return jnp.matmul(amplitudes, self.idle_parts[name].T, precision="highest")

    def errors(self, integral: Array, spent: Array, alternating: ArrayLike = False) -> dict[str, Array]:
        """Bounds on how much the root mean square of what `evolve` returns is off, by term.

        The rounding of products is estimated, and taken as a change of the kernel.  A term of weight zero is dragged
        by what the parameters miss, at most ``2 √(spent)`` times the error of the others.
        """
        missed = self.last * self.start * integral
        missed = jnp.where(alternating, jnp.abs(missed).sum(-1), jnp.abs(missed.sum(-1)))
        error = 2 * missed + 2 * self.rounding * (jnp.abs(self.start) * integral).sum(-1)

        def of(name: str, scale: Array) -> Array:
            root = scale[0] * len(scale) ** 0.5  # Of the weight.
            trained = error / jnp.where(root > 0, root, 1)
            if name not in self.idle:
                return trained
            return jnp.where(root > 0, trained, 2 * jnp.sqrt(spent * self.idle_rates[name]) * error)

        return {name: of(name, scale) for name, scale in self.kernel.split(self.scale).items()}


def krylov_spectrum(
    kernel: KernelOperator | KernelBlocks,
    residuals: Mapping[str, ArrayLike],
    weights: Mapping[str, ArrayLike] | None = None,
    *,
    num_matvecs: int = 64,
) -> KrylovSpectrum:
    """Takes the place of `spectrum` where no memory holds the kernel, for one vector of residuals.

    `convergence` predicts from it what training does to these residuals: ``gradient_flow``, ``gradient_descent`` and
    ``steps_to`` take it for a kernel, with ``errors`` beside the losses.  Early times need few products; a time
    ``t`` about ``√(t max Λ)`` of them at most.  Terms of weight zero, as of `convergence.with_output`, cost as many
    again.

    Args:
        kernel: `ntk.operator`, or a matrix.
        residuals: at time 0, by term.
        weights: as of `spectrum`.
        num_matvecs: products, at most; as many vectors of size ``n`` are kept.

    Raises:
        ValueError: as `spectrum`, for weights; residuals that do not fit the kernel or are not finite, or zero in
            all terms that are trained; ``num_matvecs`` below 1.
    """
    if num_matvecs < 1:
        raise ValueError(f"`num_matvecs` must be at least 1, got {num_matvecs}.")
    scale, idle = weight_scale(kernel, weights, jnp.result_type(float))
    start = scale * kernel.join(residuals)
    norm = jnp.linalg.norm(start)
    if fails(jnp.isfinite(norm) & (norm > 0)):
        raise ValueError(
            f"Residuals must be finite numbers, not all of them zero, in a term with a weight; got {norm}."
        )
    found = jax.tree.map(lambda leaf: leaf[0], lanczos(weighted(kernel, weights), start[None], num_matvecs, True))
    parts, where = {}, kernel.slices()
    if idle:
        rows = [np.arange(where[name].start, where[name].stop) for name in idle]
        both = _dragging(kernel, scale, found.vectors, np.concatenate(rows))
        parts = dict(zip(idle, jnp.split(both, np.cumsum([len(each) for each in rows])[:-1]), strict=True))
    rates = {name: jnp.mean(_diagonal(kernel, name)) for name in idle}
    values = jnp.maximum(found.values, 0)
    return KrylovSpectrum(
        kernel, scale, values, found.vectors, idle, norm * found.first, found.last, found.rounding,
        found.errors[found.end(largest=True)], parts, rates,
    )  # fmt: skip


@jax.jit
def _dragging(kernel: KernelOperator | KernelBlocks, scale: Array, modes: Array, rows: Array) -> Array:
    """``K D^½`` times the modes, in some rows, ``(rows, m)``."""
    with jax.default_matmul_precision("highest"):
        product = kernel.linear()
        return jax.lax.map(lambda v: product(scale * v)[rows], modes.T).T


def _diagonal(kernel: KernelOperator | KernelBlocks, name: str) -> Array:
    if isinstance(kernel, KernelBlocks):
        return jnp.diagonal(kernel[name, name])
    return kernel.only(name).diagonal()
