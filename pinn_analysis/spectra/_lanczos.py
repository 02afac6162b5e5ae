"""Spectra of what multiplies a vector, without the matrix: Lanczos' method."""

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, PyTree
from matfree import decomp, stochtrace

from pinn_analysis._functions import as_pytree, fails


@runtime_checkable
class Linear(Protocol):
    """A pytree with a method ``linear() -> (v -> A v)``, which does at once what does not depend on ``v``."""

    def linear(self) -> Callable[[PyTree], PyTree]:
        """``v -> A v``."""


Product = Linear | Callable[[PyTree], PyTree]


class Extremes(NamedTuple):
    """Both ends of a spectrum.

    Attributes:
        smallest: Ritz value, not below the smallest eigenvalue.
        largest: Ritz value, not above the largest eigenvalue.
        errors: bounds on the distance of both to the nearest eigenvalue, rounding apart.
    """

    smallest: Float[Array, ""]
    largest: Float[Array, ""]
    errors: Float[Array, "2"]


class Density(NamedTuple):
    """A spectrum as a sum of peaks, ``s`` samples of ``m`` each.

    ``counts[values > x].sum()`` is about the number of eigenvalues above ``x``.

    Attributes:
        values: where the peaks are, ``(s, m)``.
        counts: how many eigenvalues each stands for; the sum of all is ``p``.
    """

    values: Float[Array, "s m"]
    counts: Float[Array, "s m"]


def extreme_eigenvalues(product: Product, like: PyTree, *, key: Array, num_matvecs: int = 64) -> Extremes:
    """Smallest and largest eigenvalue without the matrix, by Lanczos' method.

    Isolated eigenvalues converge first, so the largest one of a Hessian takes a few dozen
    products; the smallest may need more.  ``errors`` says how far it has come.

    Args:
        product: `ntk.operator`, a kernel, one of `curvature.matvecs`, or any symmetric linear function of
            pytrees.  What it holds as a pytree is data: another one of the same kind compiles nothing.
        like: a pytree with the shapes and dtypes that it takes: a vector over the rows of a kernel, the
            parameters for a Hessian.
        key: a random key, for the first vector.
        num_matvecs: products, at most; as many vectors of size ``p`` are kept.

    Raises:
        ValueError: ``num_matvecs`` below 1; a product that does not take what is like ``like`` to what is like
            it, or is not finite.
    """
    values, _, errors = _lanczos(product, like, key, num_matvecs, 1)
    return Extremes(values[0, 0], values[0, -1], errors[0, jnp.array([0, -1])])


def density(product: Product, like: PyTree, *, key: Array, num_matvecs: int = 64, samples: int = 8) -> Density:
    """How many eigenvalues are where, without the matrix: stochastic Lanczos quadrature.

    Every sample is a Gauss quadrature of the spectrum, as a random vector sees it, which is
    right on average for all polynomials of degree below ``2 num_matvecs``.  Arguments are as of
    `extreme_eigenvalues`; ``samples`` is the number of random vectors, of ``num_matvecs`` products each.

    Raises:
        ValueError: as `extreme_eigenvalues`; ``samples`` below 1.
    """
    values, shares, _ = _lanczos(product, like, key, num_matvecs, samples)
    p = sum(jnp.size(leaf) for leaf in jax.tree.leaves(like))
    return Density(values, shares * (p / samples))


def _lanczos(product: Product, like: PyTree, key: Array, num_matvecs: int, samples: int) -> tuple[Array, Array, Array]:
    """Of each sample, ``(samples, num_matvecs)``: Ritz values, their shares of the first vector, error bounds."""
    if num_matvecs < 1 or samples < 1:
        raise ValueError(f"`num_matvecs` and `samples` must be at least 1, got {num_matvecs} and {samples}.")
    product = product if isinstance(product, Linear) else as_pytree(product)
    kinds = {jnp.result_type(leaf) for leaf in jax.tree.leaves(like)}
    if not all(jnp.issubdtype(kind, jnp.floating) and jnp.finfo(kind).bits >= 32 for kind in kinds):
        raise ValueError(f"`like` must consist of float32 or float64, got {sorted(map(str, kinds))}.")
    try:
        found = _ritz(product, stochtrace.sampler_signs(like, num=samples)(key), num_matvecs)
    except (TypeError, ValueError):
        _check(product, like)  # Raises what is wrong, if it knows.
        raise
    if fails(jnp.isfinite(found[0]).all()):
        raise ValueError("Products with this operator are not finite: it contains NaN or infinity, or overflows.")
    return found


def _check(product: Product, like: PyTree) -> None:
    """Raise `ValueError` unless the product takes what is like ``like`` to what is like it."""
    show = lambda tree: jax.tree.map(lambda leaf: f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}", tree)
    want = show(like)
    try:
        got = show(jax.eval_shape(_linear(product), like))
    except (TypeError, ValueError) as error:
        raise ValueError(f"`product` cannot multiply a vector like `like`, {want}: {str(error):.300}") from error
    if got != want:
        raise ValueError(f"`product` must take a vector like `like`, {want}, to another one, got {got}.")


def _linear(product: Product) -> Callable[[PyTree], PyTree]:
    return product.linear() if isinstance(product, Linear) else product


@functools.partial(jax.jit, static_argnums=2)
def _ritz(product: Product, starts: PyTree, num_matvecs: int) -> tuple[Array, Array, Array]:
    def ritz(start: PyTree) -> tuple[Array, Array, Array]:
        flat = ravel_pytree(start)[0]
        # Arnoldi's iteration is Lanczos' with full reorthogonalisation.
        depth = min(num_matvecs, flat.size)
        _, h, residual, _ = decomp.hessenberg(depth, reortho="full", custom_vjp=False)(linear, start)
        diagonal = jnp.diagonal(h)
        off = jnp.append(jnp.diagonal(h, -1), jnp.linalg.norm(ravel_pytree(residual)[0]))
        # When the vectors span all that the first one can reach, the next is rounding, or 0/0.
        # The remaining Ritz values are padding: inside the spectrum, with share zero.
        scale = jax.lax.cummax(jnp.maximum(jnp.abs(diagonal), jnp.abs(off)))
        over = jnp.cumsum(~(off > 10 * jnp.finfo(flat.dtype).eps * scale)) > 0
        diagonal = jnp.where(jnp.append(False, over[:-1]), diagonal[0], diagonal)
        off = jnp.where(over, 0, off)
        inner = off[:-1]
        values, vectors = jnp.linalg.eigh(jnp.diag(diagonal) + jnp.diag(inner, 1) + jnp.diag(inner, -1))
        return values, vectors[0] ** 2, off[-1] * jnp.abs(vectors[-1])

    with jax.default_matmul_precision("highest"):
        linear = _linear(product)
        return jax.lax.map(ritz, starts)
