"""Truncated polynomials, which carry the derivatives of a kernel from layer to layer."""

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from pinn_analysis._hermite import Key, keys

# Polynomials in the increment of one variance, ``(order + 1, n)``.


def _times(p: Array, q: Array) -> Array:
    return jnp.stack([sum(p[i] * q[k - i] for i in range(k + 1)) for k in range(len(p))])


def powers(p: Array) -> Array:
    """Of ``p`` less its constant, from 0."""
    rest = p.at[0].set(0)
    powers = [jnp.zeros_like(p).at[0].set(1)]
    for _ in range(len(p) - 1):
        powers.append(_times(powers[-1], rest))
    return jnp.stack(powers)


def inverse_root(p: Array) -> Array:
    """``p^(-1/2)``."""
    binomials = [1.0]
    for k in range(len(p) - 1):
        binomials.append(binomials[-1] * (-0.5 - k) / (k + 1))
    return jax.lax.rsqrt(p[0]) * jnp.einsum("k,kin->in", jnp.asarray(binomials, p.dtype), powers(p / p[0]))


# Polynomials in (δρ, δa, δb): ``(monomials, n, m)`` in the order of `keys`.


class _Pairs(NamedTuple):
    """Which terms of two factors, row by row, make up each term of their product."""

    left: ArrayLike  # ``(terms of the product, most)``.
    right: ArrayLike
    there: ArrayLike  # 1, or 0 where a term has fewer.


@functools.cache
def pairs_of(orders: tuple[int, int]) -> _Pairs:
    """Of two polynomials with all monomials."""
    return _pairs(keys(*orders), keys(*orders), keys(*orders))


@functools.cache
def _raising(orders: tuple[int, int], most: int) -> _Pairs:
    """Of one up to a degree less than ``most`` and one without a constant: up to ``most``."""
    return _pairs(_up_to(orders, most), _up_to(orders, most - 1), keys(*orders)[1:], first=1)


def _up_to(orders: tuple[int, int], degree: int) -> list[Key]:
    return [key for key in keys(*orders) if sum(key) <= degree]


def _pairs(wanted: list[Key], left: list[Key], right: list[Key], first: int = 0) -> _Pairs:
    """``right`` begins with the row ``first`` of its polynomial."""
    of: list[list[tuple[int, int]]] = [[] for _ in wanted]
    for (i, one), (j, two) in itertools.product(enumerate(left), enumerate(right, first)):
        key = (one[0] + two[0], one[1] + two[1], one[2] + two[2])
        if key in wanted:
            of[wanted.index(key)].append((i, j))
    most = max(map(len, of))
    padded = np.array([pairs + [(0, 0)] * (most - len(pairs)) for pairs in of])
    there = np.array([[1.0] * len(pairs) + [0.0] * (most - len(pairs)) for pairs in of])
    return _Pairs(padded[..., 0], padded[..., 1], there)


def product(pairs: _Pairs, p: Array, q: Array) -> Array:
    """Of arrays whose first axis is of monomials."""

    def further(total: Array, column: _Pairs) -> tuple[Array, None]:
        there = jnp.reshape(column.there, (-1, *[1] * (p.ndim - 1)))
        return total + _rows(p, column.left) * _rows(q, column.right) * there, None

    zero = jnp.zeros((len(pairs.left), *p.shape[1:]), p.dtype)
    return jax.lax.scan(further, zero, jax.tree.map(lambda x: jnp.asarray(x.T), pairs))[0]


def _rows(p: Array, index: ArrayLike) -> Array:
    return p.at[index].get(mode="promise_in_bounds")


def along(orders: tuple[int, int], p: Array, in_a: Array, in_b: Array) -> Array:
    """``p`` times a polynomial in δa and one in δb."""
    for axis, factor in ((1, in_a[:, None, :, None]), (2, in_b[:, None, None, :])):
        p = sum(_shifted(orders, p, axis, i) * factor[i] for i in range(len(factor)))
    return p


def _shifted(orders: tuple[int, int], p: Array, axis: int, by: int) -> Array:
    """Rows of the monomials with a power less by so much; 0 where it would be negative."""
    all_keys = keys(*orders)
    if not by:
        return p
    lower = [tuple(n - by * (i == axis) for i, n in enumerate(key)) for key in all_keys]
    there = np.array([float(key[axis] >= 0) for key in lower])
    index = np.array([all_keys.index(key) if key[axis] >= 0 else 0 for key in lower])
    return _rows(p, index) * there[:, None, None]


def with_slope(orders: tuple[int, int], local: Array) -> Array:
    """The series, and its derivative in ρ, which has the slope of the activation in it (Price's theorem)."""
    local_keys, all_keys = keys(*orders, more=1), keys(*orders)
    value = [local_keys.index(key) for key in all_keys]
    slope = [local_keys.index((p + 1, q, r)) for p, q, r in all_keys]
    factor = np.array([float(p + 1) for p, _, _ in all_keys])
    return jnp.stack([_rows(local, np.array(value)), _rows(local, np.array(slope)) * factor[:, None, None]], 1)


def compose(orders: tuple[int, int], table: Array, rho: Array, in_a: Array, in_b: Array) -> Array:
    """``Σ table[p, q, r] (rho - rho₀)^p (a - a₀)^q (b - b₀)^r``, by Horner's rule in ``rho``.

    Args:
        orders: derivatives in each of the two points.
        table: several of them, ``(terms, k, n, m)``.
        rho: ``(terms, n, m)``.
        in_a: powers of ``a - a₀``, ``(power, order + 1, n)``.
        in_b: of ``b - b₀``.
    """
    all_keys, degree = keys(*orders), sum(orders)
    for axis, powers in ((1, in_a[:, :, None, :, None]), (2, in_b[:, :, None, None, :])):
        power = np.array([key[axis] for key in all_keys])
        terms = 0.0
        for q in range(len(powers)):  # From the power q of the layer's own variance to that of the first one's.
            index = np.array(
                [all_keys.index((*key[:axis], q, *key[axis + 1 :])) if key[axis] >= q else 0 for key in all_keys]
            )
            there = (power >= q).astype(float)[:, None, None, None]
            terms = terms + _rows(table, index) * (_rows(powers[q], power) * there)
        table = terms
    # Each product in a loop: XLA would work out its factors anew for every term of the next one.
    rest = rho.at[0].set(0)[:, None]
    total = _rows(table, np.array([all_keys.index((degree, 0, 0))]))
    for most in range(1, degree + 1):  # As much as further factors, which have no constant, leave room for.
        p = degree - most
        there = np.array([float(not key[0]) for key in _up_to(orders, most)])[:, None, None, None]
        index = np.array([0 if key[0] else all_keys.index((p, *key[1:])) for key in _up_to(orders, most)])
        total = product(_raising(orders, most), total, rest) + _rows(table, index) * there
    return total
