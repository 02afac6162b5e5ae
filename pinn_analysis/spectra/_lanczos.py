"""Spectra of what multiplies a vector, without the matrix: Lanczos' method."""

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import Float, PyTree
from matfree import decomp, stochtrace

from pinn_analysis._functions import as_pytree, fails
from pinn_analysis.problems._core import is_finite


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


class Eigenpairs(NamedTuple):
    """The ``k`` largest eigenvalues, descending, and their vectors.

    Attributes:
        values: Ritz values, ``(k,)``; the i-th is not above the i-th eigenvalue.
        vectors: orthonormal, one per column, ``(n, k)``.
        errors: norms of the residuals ``A v - λ v``: an eigenvalue is within that of each value.
    """

    values: Float[Array, " k"]
    vectors: Float[Array, "n k"]
    errors: Float[Array, " k"]


class Estimate(NamedTuple):
    """A number and its error.

    Attributes:
        value: the number.
        error: how far off it may be; the function that returns it says in which sense.
    """

    value: Float[Array, ""]
    error: Float[Array, ""]


class Density(NamedTuple):
    """A spectrum as a sum of peaks, ``s`` samples of ``m`` each.

    ``counts[values > x].sum()`` is about the number of eigenvalues above ``x``.

    Attributes:
        values: where the peaks are, ascending in each sample, ``(s, m)``.
        counts: how many eigenvalues each stands for; the sum of all is ``p``.
        errors: bounds on the distance of each peak to the nearest eigenvalue, infinite where it stands for none.
    """

    values: Float[Array, "s m"]
    counts: Float[Array, "s m"]
    errors: Float[Array, "s m"]

    def above(self, x: ArrayLike) -> Estimate:
        """How many eigenvalues are above ``x``: mean of the samples, and its standard error.

        Between two peaks it is a step, whose place the error does not know: it is good to about one peak's count.

        Raises:
            ValueError: one sample, which has no scatter.
        """
        samples = len(self.counts)
        if samples < 2:
            raise ValueError("The error is the scatter over samples: `density` with `samples` of 2 or more.")
        each = samples * jnp.sum(jnp.where(self.values > x, self.counts, 0), 1)
        return Estimate(each.mean(), each.std(ddof=1) / samples**0.5)


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
    found = _lanczos(product, like, key, num_matvecs, 1)
    low, high = (found.end(largest)[0] for largest in (False, True))
    return Extremes(found.values[0, low], found.values[0, high], found.errors[0, jnp.array([low, high])])


def largest_eigenpairs(
    product: Product, like: Float[Array, " n"], k: int, *, key: Array, num_matvecs: int = 64
) -> Eigenpairs:
    """The ``k`` largest eigenvalues and their vectors without the matrix, by Lanczos' method.

    One sequence of products with full reorthogonalisation, as in `extreme_eigenvalues`; there are no restarts, so
    what has not converged after ``num_matvecs`` products has a large entry in ``errors``.  These are the residuals of
    the products as computed, rounding of the products included (in float32 some 1e-6 of the largest eigenvalue).
    An eigenvalue that several modes share exactly is found once: a single first vector sees one of them.

    Args:
        product: as of `extreme_eigenvalues`; `weighted` of a kernel has the eigenvalues that training sees.
        like: a vector of its shape and dtype.
        k: how many.
        key: a random key, for the first vector.
        num_matvecs: products, at most; as many vectors of size ``n`` are kept.

    Raises:
        ValueError: as `extreme_eigenvalues`; ``k`` below 1, above ``num_matvecs``, or more than there are distinct
            eigenvalues that the first vector sees.
    """
    if not 1 <= k <= num_matvecs:
        raise ValueError(f"`k` must be from 1 to `num_matvecs`, {num_matvecs}, better a third of it; got {k}.")
    found = _lanczos(product, like, key, num_matvecs, 1, keep=True)
    reached = jnp.isfinite(found.errors[0])
    if fails(reached.sum() >= k):
        raise ValueError(
            f"{k} eigenvalues were asked for, and a random vector sees {int(reached.sum())} distinct ones."
        )
    order = jnp.argsort(jnp.where(reached, found.values[0], -jnp.inf))[::-1][:k]
    return Eigenpairs(found.values[0, order], found.vectors[0][:, order], found.errors[0, order])


def density(product: Product, like: PyTree, *, key: Array, num_matvecs: int = 64, samples: int = 8) -> Density:
    """How many eigenvalues are where, without the matrix: stochastic Lanczos quadrature.

    Every sample is a Gauss quadrature of the spectrum, as a random vector sees it, which is
    right on average for all polynomials of degree below ``2 num_matvecs``.  Arguments are as of
    `extreme_eigenvalues`; ``samples`` is the number of random vectors, of ``num_matvecs`` products each.

    Raises:
        ValueError: as `extreme_eigenvalues`; ``samples`` below 1.
    """
    found = _lanczos(product, like, key, num_matvecs, samples)
    p = sum(jnp.size(leaf) for leaf in jax.tree.leaves(like))
    return Density(found.values, found.first**2 * (p / samples), found.errors)


class Ritz(NamedTuple):
    """What Lanczos' method finds from one vector, or several, stacked.

    Attributes:
        values: Ritz values, ascending, ``(m,)``.
        first: the share that each Ritz vector has in the first vector, ``(m,)``, of norm 1.
        last: the share that each has in the residual of the whole, times its norm, ``(m,)``.
        errors: norms of the residuals of each, rounding of the products included; infinite for padding.
        rounding: of the products, as a norm: what is not tridiagonal, or not symmetric.
        vectors: Ritz vectors, one per column, ``(n, m)``; zero for padding; None unless asked for.
    """

    values: Array
    first: Array
    last: Array
    errors: Array
    rounding: Array
    vectors: Array | None

    def end(self, largest: bool) -> Array:
        """Where the largest value is, or the smallest, that is no padding; along the last axis."""
        real = jnp.isfinite(self.errors)
        if largest:
            return jnp.argmax(jnp.where(real, self.values, -jnp.inf), -1)
        return jnp.argmin(jnp.where(real, self.values, jnp.inf), -1)


def _lanczos(product: Product, like: PyTree, key: Array, num_matvecs: int, samples: int, keep: bool = False) -> Ritz:
    """Of each sample, from a vector of random signs."""
    if num_matvecs < 1 or samples < 1:
        raise ValueError(f"`num_matvecs` and `samples` must be at least 1, got {num_matvecs} and {samples}.")
    kinds = {jnp.result_type(leaf) for leaf in jax.tree.leaves(like)}
    if not all(jnp.issubdtype(kind, jnp.floating) and jnp.finfo(kind).bits >= 32 for kind in kinds):
        raise ValueError(f"`like` must consist of float32 or float64, got {sorted(map(str, kinds))}.")
    return lanczos(product, stochtrace.sampler_signs(like, num=samples)(key), num_matvecs, keep)


def lanczos(product: Product, starts: PyTree, num_matvecs: int, keep: bool) -> Ritz:
    """Of each of the vectors stacked in ``starts``, stacked; raises `ValueError` as `extreme_eigenvalues`."""
    product = product if isinstance(product, Linear) else as_pytree(product)
    try:
        found = ritz(product, starts, num_matvecs, keep)
    except (TypeError, ValueError):
        _check(product, jax.tree.map(lambda leaf: leaf[0], starts))  # Raises what is wrong, if it knows.
        raise
    if not is_finite(found.values):
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


@functools.partial(jax.jit, static_argnums=(2, 3))
def ritz(product: Product, starts: PyTree, num_matvecs: int, keep: bool) -> Ritz:
    """Lanczos' method from each of the vectors stacked in ``starts``, one after the other."""

    def one(start: PyTree) -> Ritz:
        flat = ravel_pytree(start)[0]
        # Arnoldi's iteration is Lanczos' with full reorthogonalisation.
        depth = min(num_matvecs, flat.size)
        basis, h, residual, _ = decomp.hessenberg(depth, reortho="full", custom_vjp=False)(linear, start)
        diagonal = jnp.diagonal(h)
        off = jnp.append(jnp.diagonal(h, -1), jnp.linalg.norm(ravel_pytree(residual)[0]))
        # When the vectors span all that the first one can reach, the next is rounding, or 0/0.
        # The remaining Ritz values are padding: inside the spectrum, with share zero.
        scale = jax.lax.cummax(jnp.maximum(jnp.abs(diagonal), jnp.abs(off)))
        over = jnp.cumsum(~(off > 10 * jnp.finfo(flat.dtype).eps * scale)) > 0
        real = ~jnp.append(False, over[:-1])
        diagonal = jnp.where(real, diagonal, diagonal[0])
        off = jnp.where(over, 0, off)
        inner = off[:-1]
        tridiagonal = jnp.diag(diagonal) + jnp.diag(inner, 1) + jnp.diag(inner, -1)
        values, vectors = jnp.linalg.eigh(tridiagonal)
        # `A Q = Q h + residual` holds for products as computed: what `h` has beside the three diagonals is rounding.
        rounding = jnp.where(real[:, None] & real, h - tridiagonal, 0) @ vectors
        last = off[-1] * vectors[-1]
        errors = jnp.hypot(jnp.linalg.norm(rounding, axis=0), last)
        errors += 2 * jnp.finfo(flat.dtype).eps * jnp.abs(values).max()  # Of `eigh`.
        errors = jnp.where((vectors**2 * real[:, None]).sum(0) > 0.5, errors, jnp.inf)
        modes = jnp.where(real, jnp.concatenate([q.reshape(depth, -1) for q in jax.tree.leaves(basis)], 1).T, 0)
        return Ritz(values, vectors[0], last, errors, jnp.linalg.norm(rounding), modes @ vectors if keep else None)

    with jax.default_matmul_precision("highest"):
        linear = _linear(product)
        return jax.lax.map(one, starts)
