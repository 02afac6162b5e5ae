"""Gaussian expectations of activations, with all derivatives that a kernel of derivatives needs.

For ``(u, v) ~ N(0, [[v1, c], [c, v2]])`` and ``ρ = c / √(v1 v2)``, Mehler's formula reads

    E[φ(u) φ(v)] = Σ_k a_k(v1) a_k(v2) ρ^k,   a_k(v) = E[φ(√v z) h_k(z)],  z ~ N(0, 1),

with the normalised Hermite polynomials ``h_k``: a polynomial in ``ρ``.  `coefficients` has ``a_k``
and its derivatives, once per point; `sums` has all derivatives in ``(ρ, v1, v2)``, once per pair.

Why these variables?  Derivatives in ``(c, v1, v2)`` are expectations of ``φ⁽ⁱ⁾(u) φ⁽ʲ⁾(v)``
(Price's theorem).  Those cancel in the kernel of a second-order equation, at a loss of two
digits; ``ρ`` is stationary where ``x = x'``, so that nothing cancels.  Quadratures over
``(u, v)`` contain ``√(1 - ρ²)``, which is singular there.

Where ``φ`` is analytic in a strip of half-width δ, ``a_k(v)²`` falls like ``exp(-2 δ √(k / v))``;
with a kink (relu) it falls like a power of ``k``.  `series` measures it.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

Elementwise = Callable[[Array], Array]
Key = tuple[int, int, int]  # Powers of the increments of ρ, v1 and v2.

TAIL = 1e-13  # Of a sum that may be left out; a hundred times as much beyond four derivatives.
NOISE = 1e-9  # Of a derivative that may be rounding of the coefficients.
LONGEST = 6000  # Terms: one product of 4,000 nodes by as many terms takes 0.2 GB.


class Series(NamedTuple):
    """Where to end the series of an activation, which has the terms ``k = first, first + step, ...``."""

    terms: int
    first: int
    step: int


def keys(n: int, m: int, more: int = 0) -> list[Key]:
    """Monomials that ``n`` derivatives in one point and ``m`` in the other need, by the power of ρ's increment.

    A derivative in a point moves ρ or the variance of this point; ``more`` further ones move ρ alone.
    """
    all_keys = [(p, q, r) for q in range(n + 1) for r in range(m + 1) for p in range(n + m + more - q - r + 1)]
    return sorted(all_keys, key=lambda key: (key[0], sum(key), key))


def coefficients(fn: Elementwise, series: Series, v: Float[Array, " n"], order: int) -> tuple[Array, Array]:
    """Taylor coefficients of ``a_k(v)``, ``(order + 1, terms, n)``, and of ``E[φ²]``, ``(order + 1, n)``."""
    z, weight = _trapezoid(series.terms)
    h = _hermite_functions(z, weight, series.terms)[series.first :: series.step]
    if series.step == 2:  # The integrands are even.
        h, z, weight = 2 * h[:, len(z) // 2 :], z[len(z) // 2 :], 2 * weight[len(z) // 2 :]
    values = [lambda v: fn(jnp.sqrt(v) * z[:, None])]
    for _ in range(order):
        values.append(_derivative(values[-1]))
    values = [value(v) / math.factorial(k) for k, value in enumerate(values)]
    a = jnp.stack([jnp.matmul(h, value, precision="highest") for value in values])
    squares = [sum(values[i] * values[k - i] for i in range(k + 1)) for k in range(order + 1)]
    return a, jnp.stack([jnp.matmul(weight, square, precision="highest") for square in squares])


def sums(series: Series, a1: Array, a2: Array, rho: Float[Array, "n m"]) -> Float[Array, "sums n m"]:
    """Taylor coefficients of ``Σ_k a_k(v1) a_k(v2) ρ^k`` in ``(ρ, v1, v2)``, in the order of `keys` with one more.

    Args:
        series: where it ends.
        a1: `coefficients` of the first points, ``(order + 1, terms, n)``.
        a2: of the second points, ``(order + 1, terms, m)``.
        rho: correlation of each pair.
    """
    most = len(a1) + len(a2) - 1  # Derivatives in ρ.
    pairs = [key[1:] for key in keys(len(a1) - 1, len(a2) - 1) if not key[0]]
    counts = [sum(q + r <= most - p for q, r in pairs) for p in range(most + 1)]
    y = rho**series.step

    def horner(totals: list[Array], ab: tuple[Array, Array]) -> tuple[list[Array], None]:
        """Of a polynomial and its derivatives in ``y``, over their factorials."""
        term = ab[0][:, :, None] * ab[1][:, None, :]
        lower = [term, *totals[:-1]]
        return [total * y + more[: len(total)] for total, more in zip(totals, lower, strict=True)], None

    zeros = [jnp.zeros((count, *rho.shape), rho.dtype) for count in counts]
    factors = [jnp.moveaxis(a[np.array([pair[i] for pair in pairs])], 1, 0) for i, a in enumerate((a1, a2))]
    totals = jax.lax.scan(horner, zeros, tuple(factors), reverse=True, unroll=2)[0]
    if series.step == 2:  # By ρ: δy = 2 ρ δρ + δρ².
        totals = [
            sum(math.comb(s, p - s) * (2 * rho) ** (2 * s - p) * totals[s][:count] for s in range(-(-p // 2), p + 1))
            for p, count in enumerate(counts)
        ]
    if series.first:
        totals = [rho * total + (totals[p - 1][: len(total)] if p else 0) for p, total in enumerate(totals)]
    return jnp.concatenate(totals)


@functools.cache
def series(fn: Elementwise, variance: float, derivatives: int) -> Series | None:
    """The series that is right up to ``variance`` for so many derivatives in both points together.

    The terms are measured at ``variance``, where they fall slowest, in the highest derivative in ρ at
    ρ = 1, where all that are left out add up: they must be less than `TAIL` of it.  A coefficient is
    known to rounding of ``√E[φ²]``, independent of the others': what lies below is 0, and `NOISE` is
    how much of the derivative may be rounding.  None if no series of at most `LONGEST` terms is so good,
    or its nodes miss something: then ``Σ a_k²`` is not ``E[φ²]`` at seven times as many.
    """
    nodes, fine_weight = _trapezoid(LONGEST, finer=7)
    with jax.ensure_compile_time_eval():
        fine = np.asarray(fn(jnp.asarray(np.sqrt(variance) * nodes)), float)
    if not np.isfinite(fine).all():
        return None
    first, step = _parity(fine)
    (z, weight), values, energy = _trapezoid(LONGEST), fine[3::7], fine_weight @ fine**2
    p, block, root = derivatives + 1, 64, np.sqrt(weight)
    floor, tail = (4 * np.finfo(float).eps) ** 2 * energy, TAIL if derivatives <= 4 else 100 * TAIL
    previous, current = np.zeros_like(z), root
    squares, found = np.zeros(0), np.zeros(0)
    while len(found) < LONGEST:
        at, size = len(found), max(block, len(found) // 4)
        further = []
        for k in range(at, at + size):
            further.append(np.dot(current, root * values) ** 2)
            previous, current = current, (z * current - np.sqrt(k) * previous) / np.sqrt(k + 1)
        squares = np.concatenate([squares, further])
        found = np.where(squares > floor, squares, 0) * _binomial(np.arange(at + size), p)
        left_out = np.cumsum(found[::-1])[::-1]
        if at >= p and left_out[at] <= tail * left_out[0]:
            terms = int(np.argmax(left_out <= tail * left_out[0]))
            noise = 2 * np.finfo(float).eps * np.sqrt(energy * found[:terms] @ _binomial(np.arange(terms), p))
            missed = abs(squares.sum() - energy) > 1e-11 * energy
            return None if missed or 0 < left_out[0] * NOISE < noise else Series(terms + 2 * p, first, step)
    return None


def second_moment(fn: Elementwise, variance: np.ndarray) -> np.ndarray:
    """``E[φ(z)²]`` for ``z ~ N(0, variance)``."""
    z, weight = _trapezoid(4000)
    return np.asarray(fn(jnp.asarray(np.sqrt(variance)[:, None] * z)), float) ** 2 @ weight


def _derivative(f: Elementwise) -> Elementwise:
    """Derivative of an elementwise function."""
    return lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]


def _binomial(k: np.ndarray, p: int) -> np.ndarray:
    return np.prod([(k - i) / (i + 1) for i in range(p)], axis=0, initial=1.0) * np.ones(k.shape)


def _parity(values: np.ndarray) -> tuple[int, int]:
    """First index and step of the terms that do not vanish: odd and even functions have half.

    Compared with the largest value as near to 0: one far out would hide what is not odd at small variances.
    """
    minus, plus = values[len(values) // 2 - 1 :: -1], values[len(values) // 2 :]
    scale = 1e-14 * np.maximum.accumulate(np.maximum(np.abs(plus), np.abs(minus)))
    if (np.abs(plus + minus) <= scale).all():
        return 1, 2
    return (0, 2) if (np.abs(plus - minus) <= scale).all() else (0, 1)


def _trapezoid(terms: int, half_width: float = 13.0, finer: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for N(0, 1); beats Gauss-Hermite where the integrand has poles.

    ``h_k`` has ``√k`` as its highest frequency, and the function of a series of that length has as much again.
    With an odd ``finer``, so many times as many nodes, of which every ``finer``-th one is one of the others.
    """
    half = max(200, round(8 * np.sqrt(terms)))
    # Symmetric to the last digit.
    z = (np.arange(-half * finer, half * finer) + 0.5) * (half_width / (half - 0.5) / finer)
    weight = np.exp(-(z**2) / 2)
    return z, weight / weight.sum()


def _hermite_functions(z: np.ndarray, weight: np.ndarray, count: int) -> Array:
    """``weight * h_k(z)`` for ``k < count``, ``(count, nodes)``: computed by the program, not part of it."""
    root = jnp.asarray(np.sqrt(weight))  # `root * h_k` is bounded, `h_k` alone overflows.

    def next_one(h: tuple[Array, Array], k: Array) -> tuple[tuple[Array, Array], Array]:
        previous, current = h
        return (current, (z * current - jnp.sqrt(k) * previous) / jnp.sqrt(k + 1)), current * root

    return jax.lax.scan(next_one, (jnp.zeros_like(root), root), jnp.arange(float(count)))[1]
