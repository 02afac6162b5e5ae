"""Gaussian expectations of smooth activations, differentiable on the diagonal too.

For ``(u, v) ~ N(0, [[v1, c], [c, v2]])`` and ``ρ = c / √(v1 v2)``, Mehler's formula reads

    E[φ(u) φ(v)] = Σ_k a_k(v1) a_k(v2) ρ^k,   a_k(v) = E[φ(√v z) h_k(z)],  z ~ N(0, 1),

with the normalised Hermite polynomials ``h_k``: a polynomial in ``ρ``.  All derivatives in
``(ρ, v1, v2)`` that a kernel of derivatives needs are summed at once by Horner's rule, and
automatic differentiation only picks among them.

Why these variables?  Derivatives in ``(c, v1, v2)`` are expectations of ``φ⁽ⁱ⁾(u) φ⁽ʲ⁾(v)``
(Price's theorem).  Those cancel in the kernel of a second-order equation, at a loss of two
digits; ``ρ`` is stationary where ``x = x'``, so that nothing cancels.  Quadratures over
``(u, v)`` contain ``√(1 - ρ²)``, which is singular there.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Float

Elementwise = Callable[[Array], Array]
Expectation = Callable[[Array, Array, Array], Array]
Key = tuple[int, int, int]  # Derivatives in `y`, `v1`, `v2`.
Table = dict[Key, Array]


TERMS = 330  # Per unit of variance.


def expectations(fn: Elementwise, variance: float = 4.0) -> tuple[Expectation, Expectation]:
    """``(c, v1, v2) -> E[fn(u) fn(v)]`` and the same of the derivative of ``fn``.

    Costs O(order) a pair, with 27 sums for up to two derivatives in each argument, and
    O(order²) a point, where the series has ``order = 330 variance`` terms.

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
    return _expectation(fn, h, z), _expectation(_derivative(fn), h, z)


def _expectation(fn: Elementwise, h: np.ndarray, z: np.ndarray) -> Expectation:
    first, step = _terms(fn, z)
    h = h[first::step]
    if step == 2:  # The integrands are even.
        h, z = 2 * h[:, len(z) // 2 :], z[len(z) // 2 :]

    def coefficients(v: Float[Array, ""], count: int) -> list[Array]:
        """``a_m`` and its derivatives.  Under `vmap` over pairs they are still made once a point."""
        of = [lambda v: h @ fn(jnp.sqrt(v) * z)]
        for _ in range(count):
            of.append(_derivative(of[-1]))
        return [a(v) for a in of]

    def sums(count: int, y: Float[Array, ""], v1: Float[Array, ""], v2: Float[Array, ""]) -> Table:
        """Derivatives of ``Σ_m a_m(v1) a_m(v2) y^m``, as many as ``count`` in each of two points need."""
        some = range(count + 1)
        keys = [(p, q, r) for q in some for r in some for p in range(2 * count - q - r + 1)]
        n = np.arange(float(len(h) - 2 * count))

        def rows(v: Float[Array, ""]) -> dict[tuple[int, int], Array]:
            """Coefficients of ``y^n`` in the p-th derivative, but for its factor ``(n + p)! / n!``."""
            of = enumerate(coefficients(v, count))
            return {(p, q): a[p : p + len(n)] for q, a in of for p in range(2 * count - q + 1)}

        factor = [np.prod([n + i for i in range(1, p + 1)], axis=0) for p in range(2 * count + 1)]
        first_rows = {(p, q): factor[p] * a for (p, q), a in rows(v1).items()}

        def horner(totals: Table, ab: tuple[dict, dict]) -> tuple[Table, None]:
            a, b = ab
            return {(p, q, r): total * y + a[p, q] * b[p, r] for (p, q, r), total in totals.items()}, None

        zeros = dict.fromkeys(keys, jnp.zeros_like(y))
        totals, _ = jax.lax.scan(horner, zeros, (first_rows, rows(v2)), reverse=True)
        return totals

    @functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
    def pick(key: Key, table: Table, y: Array, v1: Array, v2: Array) -> Array:
        return table[key]

    @functools.partial(pick.defjvp, symbolic_zeros=True)
    def pick_next(key: Key, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
        slope = jnp.zeros_like(primals[1])
        for i, tangent in enumerate(tangents[1:]):
            if not isinstance(tangent, SymbolicZero):
                slope += tangent * evaluate(tuple(n + (i == j) for j, n in enumerate(key)), *primals)
        return pick(key, *primals), slope

    def evaluate(key: Key, table: Table, y: Array, v1: Array, v2: Array) -> Array:
        if key not in table:  # At first, and again where an operator has more than two derivatives.
            count = max(2, *key[1:], math.ceil(sum(key) / 2))
            table = sums(count, *map(jax.lax.stop_gradient, (y, v1, v2)))
        return pick(key, table, y, v1, v2)

    def expectation(c: Float[Array, ""], v1: Float[Array, ""], v2: Float[Array, ""]) -> Array:
        rho = c * jax.lax.rsqrt(v1) * jax.lax.rsqrt(v2)
        return rho**first * evaluate((0, 0, 0), {}, rho**step, v1, v2)

    return expectation


def _derivative(f: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Of a function of numbers one by one, or of one number."""
    return lambda x: jax.jvp(f, (x,), (jnp.ones_like(x),))[1]


def second_moment(fn: Elementwise, variance: float) -> float:
    """``E[fn(z)²]`` for ``z ~ N(0, variance)``."""
    z, weight = _trapezoid(1000)
    with jax.ensure_compile_time_eval():
        return float(weight @ fn(jnp.asarray(np.sqrt(variance) * z)) ** 2)


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
    z = np.linspace(-half_width, half_width, n)
    weight = np.exp(-(z**2) / 2)
    return z, weight / weight.sum()


def _hermite_functions(z: np.ndarray, weight: np.ndarray, order: int) -> np.ndarray:
    """``weight * h_k(z)`` for ``k < order``, ``(order, nodes)``."""
    root = np.sqrt(weight)  # `root * h_k` is bounded, `h_k` alone overflows.
    h = [root, z * root]
    for k in range(2, order):
        h.append((z * h[-1] - np.sqrt(k - 1) * h[-2]) / np.sqrt(k))
    return np.stack(h) * root
