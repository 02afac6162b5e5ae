"""The kernel of an infinitely wide network by quadrature, in NumPy: nothing of it is the library's.

For the preactivations ``(u, v) ~ N(0, [[v1, c], [c, v2]])`` of a layer let

    T_ij = E[φ^(i)(u) φ^(j)(v)],   ∂T_ij/∂c = T_{i+1,j+1},   ∂T_ij/∂v1 = T_{i+2,j} / 2,

and likewise for v2 (Price's theorem).  With ``x`` moved by ``h`` and ``x'`` by ``k``, everything is
a polynomial in ``(h, k)``, of which degree 2 in each is kept: `theta` has ``∂ᵢ∂'ⱼ Θ`` as its
coefficients, times ``i! j!``.  No square root is differentiated, so the diagonal is no exception.
"""

from math import factorial

import numpy as np
from scipy.special import eval_hermitenorm, ndtr

DERIVATIVES = 8  # φ and φ' are differentiated up to six times.


def _tanh(z):
    t, p, out = np.tanh(z), np.polynomial.Polynomial([0, 1]), []
    for _ in range(DERIVATIVES):
        out.append(p(t))
        p = p.deriv() * np.polynomial.Polynomial([1, 0, -1])
    return np.stack(out)


def _cdf(z):
    """The normal distribution function and its derivatives."""
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return np.stack([ndtr(z)] + [(-1) ** k * eval_hermitenorm(k, z) * density for k in range(DERIVATIVES - 1)])


def _erf(z):
    values = _cdf(np.sqrt(2) * z)
    return np.stack([2 * np.sqrt(2) ** k * value - (k == 0) for k, value in enumerate(values)])


def _gelu(z):
    values = _cdf(z)
    return np.stack([z * values[k] + (k * values[k - 1] if k else 0) for k in range(DERIVATIVES)])


def _sin(z):
    return np.stack([np.sin(z + k * np.pi / 2) for k in range(DERIVATIVES)])


ACTIVATIONS = {"tanh": _tanh, "erf": _erf, "sin": _sin, "gelu": _gelu}  # z -> φ(z), φ'(z), φ''(z), ...


def nodes(n=400, half_width=9.0):
    """Of the trapezoidal rule for N(0, 1), which converges geometrically for all these functions.

    The sixth derivatives of tanh multiply its error: 200 nodes are not enough at variance 4.
    """
    z = np.linspace(-half_width, half_width, n)
    weight = np.exp(-(z**2) / 2)
    return z, weight / weight.sum()


def _table(phi, c, v1, v2):
    """``T_ij`` for all orders."""
    z, weight = nodes()
    inner = phi(c / np.sqrt(v1) * z[:, None] + np.sqrt(max(v2 - c**2 / v1, 0)) * z) @ weight
    return phi(np.sqrt(v1) * z) * weight @ inner.T


def _times(p, q):
    out = np.zeros((3, 3))
    for i, j in np.ndindex(3, 3):
        out[i:, j:] += p[i, j] * q[: 3 - i, : 3 - j]
    return out


def _powers(p, count):
    """Of ``p`` less its constant, from 0."""
    powers, rest = [_constant(1)], p - _constant(p[0, 0])
    for _ in range(count):
        powers.append(_times(powers[-1], rest))
    return powers


def _constant(value):
    return np.pad([[value]], ((0, 2), (0, 2)))


def _expectations(phi, c, v1, v2):
    """``E[φφ]`` and ``E[φ'φ']`` by their Taylor series."""
    table, out = _table(phi, c[0, 0], v1[0, 0], v2[0, 0]), np.zeros((2, 3, 3))
    c, v1, v2 = _powers(c, 4), _powers(v1, 2), _powers(v2, 2)
    for i, j, k in np.ndindex(5, 3, 3):
        term = _times(c[i], _times(v1[j], v2[k])) / (factorial(i) * factorial(j) * factorial(k) * 2 ** (j + k))
        if term.any():
            out += [table[m + i + 2 * j, m + i + 2 * k] * term for m in (0, 1)]
    return out


def theta(activation, depth, x, y, dx, dy, weight_std=1.0, bias_std=1.0):
    """Coefficients of ``Θ(x + h dx, y + k dy)``, ``(3, 3)``."""
    phi, d = ACTIVATIONS[activation], len(x)

    def affine(p):
        return weight_std**2 * p + _constant(bias_std**2)

    def inner(a, b):  # Of two polynomials with vector coefficients, by (h, k).
        return sum(np.multiply.outer(p, q) for p, q in zip(a, b, strict=True)) / d

    line_x, line_y = np.stack([x, dx, 0 * dx], -1), np.stack([y, dy, 0 * dy], -1)
    square = np.array([[x @ x, 2 * x @ dx, dx @ dx], [y @ y, 2 * y @ dy, dy @ dy]]) / d
    c, v1, v2 = inner(line_x, line_y), np.zeros((3, 3)), np.zeros((3, 3))
    v1[:, 0], v2[0] = square
    c, v1, v2 = affine(c), affine(v1), affine(v2)
    kernel = c
    for _ in range(depth):
        covariance, slopes = _expectations(phi, c, v1, v2)
        v1, v2 = (affine(_expectations(phi, v, v, v)[0]) for v in (v1, v2))
        c = affine(covariance)
        kernel = c + weight_std**2 * _times(kernel, slopes)
    return kernel


def kernel(rows, activation, depth, **options):
    """Kernel of ``(a Δ + b) u`` at points: ``rows`` has ``(a, b, x)`` for each row."""

    def entry(a1, b1, x, a2, b2, y):
        axes = np.eye(len(x))
        left, right = np.array([b1 / len(x), 0, 2 * a1]), np.array([b2 / len(x), 0, 2 * a2])
        return sum(left @ theta(activation, depth, x, y, p, q, **options) @ right for p in axes for q in axes)

    matrix = np.zeros((len(rows), len(rows)))
    for i, j in zip(*np.tril_indices(len(rows)), strict=True):
        matrix[i, j] = matrix[j, i] = entry(*rows[i], *rows[j])
    return matrix
