"""Gaussian expectations of smooth activations, differentiable on the diagonal too.

For ``(u, v) ~ N(0, [[v1, c], [c, v2]])`` and ``ρ = c / √(v1 v2)``, Mehler's formula reads

    E[φ(u) φ(v)] = Σ_k a_k(v1) a_k(v2) ρ^k,   a_k(v) = E[φ(√v z) h_k(z)],  z ~ N(0, 1),

with the normalised Hermite polynomials ``h_k``.  Derivatives are expectations again, of
``T_ij = E[φ⁽ⁱ⁾(u) φ⁽ʲ⁾(v)]`` (Price's theorem):

    ∂T_ij/∂c = T_{i+1,j+1},   ∂T_ij/∂v1 = ½ T_{i+2,j},   ∂T_ij/∂v2 = ½ T_{i,j+2},

and those have the same series, since the coefficients of ``φ⁽ⁱ⁾`` are
``v^{-i/2} √((k+1) … (k+i)) a_{k+i}(v)``.  So all of them that a kernel of derivatives needs are
summed at once, and automatic differentiation only picks.  Quadratures over ``(u, v)`` contain
``√(1 - ρ²)``, which is singular where ``x = x'``.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Float

Elementwise = Callable[[Array], Array]
Expectation = Callable[[Array, Array, Array], Array]
Table = dict[tuple[int, int], Array]


TERMS = 330  # Per unit of variance.


def expectations(fn: Elementwise, variance: float = 4.0) -> tuple[Expectation, Expectation]:
    """``(c, v1, v2) -> E[fn(u) fn(v)]`` and the same of the derivative of ``fn``.

    Costs O(order) a pair, with some twenty sums for up to two derivatives in each argument,
    and O(order²) a point, where the series has ``order = 330 variance`` terms.

    Where ``fn`` is analytic in a strip of half-width δ, the error at variance ``v`` falls
    like ``exp(-2 δ √(order / v))``.  For tanh (δ = π / 2) fourth derivatives of kernels are
    right to 1e-11 up to ``variance``, and to 1e-4 at four times that.  With a kink (relu) even
    the kernel itself is wrong by up to a percent.

    Args:
        fn: the activation.
        variance: the largest to be right for, positive.  Inputs of unit variance do not
            exceed 4 with ``weight_std = bias_std = 1``.
    """
    order = round(TERMS * variance)
    z, weight = _trapezoid(2 * max(200, order // 4))
    h = _hermite_functions(z, weight, order)
    first, step = _terms(fn, z)
    h = h[first::step]
    if step == 2:  # The integrands are even.
        h, z = 2 * h[:, len(z) // 2 :], z[len(z) // 2 :]

    def sums(i: int, j: int, c: Float[Array, ""], v1: Float[Array, ""], v2: Float[Array, ""]) -> Table:
        """``T_ij`` and what two derivatives in each argument need."""
        keys = _reach(i, j, 2, 2)
        orders = sorted({n for key in keys for n in key})
        start = {n: (first - n) % step for n in orders}  # Of the series of fn⁽ⁿ⁾: odd and even alternate.
        offset = {n: (start[n] + n - first) // step for n in orders}
        length = len(h) - max(offset.values())

        def rows(v: Float[Array, ""]) -> dict[int, Array]:
            """Coefficients of fn⁽ⁿ⁾.  Under `vmap` over pairs they are still made once a point."""
            a = h @ fn(jnp.sqrt(v) * z)
            k = {n: start[n] + step * np.arange(float(length)) for n in orders}
            factor = {n: np.sqrt(np.prod([k[n] + m for m in range(1, n + 1)], axis=0)) for n in orders}
            return {n: v ** (-n / 2) * factor[n] * a[offset[n] : offset[n] + length] for n in orders}

        rho = c / jnp.sqrt(v1 * v2)
        argument = rho**step

        def horner(totals: Table, ab: tuple[dict[int, Array], dict[int, Array]]) -> tuple[Table, None]:
            a, b = ab
            return {(i, j): y * argument + a[i] * b[j] for (i, j), y in totals.items()}, None

        zeros = dict.fromkeys(keys, jnp.zeros_like(rho))
        totals, _ = jax.lax.scan(horner, zeros, (rows(v1), rows(v2)), reverse=True)
        return {(i, j): rho ** start[i] * y for (i, j), y in totals.items()}

    @functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
    def pick(i: int, j: int, table: Table, c: Array, v1: Array, v2: Array) -> Array:
        return table[i, j]

    @functools.partial(pick.defjvp, symbolic_zeros=True)
    def by_price(i: int, j: int, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
        slope = jnp.zeros_like(primals[1])
        for tangent, factor, (di, dj) in zip(tangents[1:], (1.0, 0.5, 0.5), ((1, 1), (2, 0), (0, 2)), strict=True):
            if not isinstance(tangent, SymbolicZero):
                slope += factor * tangent * evaluate(i + di, j + dj, *primals)
        return pick(i, j, *primals), slope

    def evaluate(i: int, j: int, table: Table, c: Array, v1: Array, v2: Array) -> Array:
        if (i, j) not in table:
            table = sums(i, j, *map(jax.lax.stop_gradient, (c, v1, v2)))
        return pick(i, j, table, c, v1, v2)

    return functools.partial(evaluate, 0, 0, {}), functools.partial(evaluate, 1, 1, {})


def second_moment(fn: Elementwise, variance: float) -> float:
    """``E[fn(z)²]`` for ``z ~ N(0, variance)``."""
    z, weight = _trapezoid(1000)
    with jax.ensure_compile_time_eval():
        return float(weight @ np.asarray(fn(jnp.asarray(np.sqrt(variance) * z))) ** 2)


def _reach(i: int, j: int, first: int, second: int) -> set[tuple[int, int]]:
    """Indices of ``T_ij`` and of its derivatives: so many in the first argument, so many in the second."""
    keys = {(i, j)}
    if first:
        keys |= _reach(i + 2, j, first - 1, second) | _reach(i + 1, j + 1, first - 1, second)
    if second:
        keys |= _reach(i, j + 2, first, second - 1) | _reach(i + 1, j + 1, first, second - 1)
    return keys


def _terms(f: Elementwise, z: np.ndarray) -> tuple[int, int]:
    """First index and step of the terms that do not vanish: odd and even ``f`` have half."""
    with jax.ensure_compile_time_eval():
        plus, minus = f(jnp.asarray(z)), f(jnp.asarray(-z))
        scale = jnp.abs(plus).max() * 1e-14
        if jnp.abs(plus + minus).max() <= scale:
            return 1, 2
        return (0, 2) if jnp.abs(plus - minus).max() <= scale else (0, 1)


def _trapezoid(n: int, half_width: float = 13.0) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for N(0, 1); beats Gauss-Hermite where the integrand has poles."""
    spacing = float(np.float32(2 * half_width / (n - 1)))  # Few digits, so that nodes are exact.
    z = spacing * (np.arange(n) - (n - 1) / 2)
    weight = np.exp(-(np.longdouble(z) ** 2) / 2)
    return z, weight / weight.sum()


def _hermite_functions(z: np.ndarray, weight: np.ndarray, order: int) -> np.ndarray:
    """``weight * h_k(z)`` for ``k < order``, ``(order, nodes)``.

    In extended precision, where the platform has it: the series of fn⁽ⁿ⁾ multiply rounding by kⁿ.
    """
    root = np.sqrt(weight)  # `root * h_k` is bounded, `h_k` alone overflows.
    h = [root, z * root]
    for k in map(np.longdouble, range(2, order)):
        h.append((z * h[-1] - np.sqrt(k - 1) * h[-2]) / np.sqrt(k))
    return (np.stack(h) * root).astype(float)
