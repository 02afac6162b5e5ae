"""The kernel of an infinitely wide network by quadrature, in NumPy: nothing of it is the library's.

For the preactivations ``(u, v) ~ N(0, [[v1, c], [c, v2]])`` of a layer let

    T_ij = E[φ^(i)(u) φ^(j)(v)],   ∂T_ij/∂c = T_{i+1,j+1},   ∂T_ij/∂v1 = T_{i+2,j} / 2,

and likewise for v2 (Price's theorem).  With ``x`` moved by ``h`` and ``x'`` by ``k``, everything is
a polynomial in ``(h, k)``, of which ``degree`` in each is kept: `theta` has ``∂ᵢ∂'ⱼ Θ`` as its
coefficients, times ``i! j!``.  No square root is differentiated, so the diagonal is no exception.
"""

import functools
from math import factorial

import numpy as np
from scipy.special import eval_hermitenorm, ndtr


def _tanh(z, count):
    t, p, out = np.tanh(z), np.polynomial.Polynomial([0, 1]), []
    for _ in range(count):
        out.append(p(t))
        p = p.deriv() * np.polynomial.Polynomial([1, 0, -1])
    return np.stack(out)


def _cdf(z, count):
    """The normal distribution function and its derivatives."""
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    return np.stack([ndtr(z)] + [(-1) ** k * eval_hermitenorm(k, z) * density for k in range(count - 1)])


def _erf(z, count):
    values = _cdf(np.sqrt(2) * z, count)
    return np.stack([2 * np.sqrt(2) ** k * value - (k == 0) for k, value in enumerate(values)])


def _gelu(z, count):
    values = _cdf(z, count)
    return np.stack([z * values[k] + (k * values[k - 1] if k else 0) for k in range(count)])


def _sin(z, count):
    return np.stack([np.sin(z + k * np.pi / 2) for k in range(count)])


def _softplus(z, count):
    """Its derivative is ``(1 + tanh(z / 2)) / 2``."""
    slopes = [value / 2 ** (k + 1) + (k == 0) / 2 for k, value in enumerate(_tanh(z / 2, count - 1))]
    return np.stack([np.logaddexp(0, z), *slopes])


def _kink(z, count):
    """``|z|``; what its derivatives have at 0 is left out."""
    return np.stack([np.abs(z), np.sign(z)] + [0 * z] * (count - 2))


# (z, count) -> φ(z), φ'(z), φ''(z), ..., so many.
ACTIVATIONS = {"tanh": _tanh, "erf": _erf, "sin": _sin, "gelu": _gelu, "softplus": _softplus, "kink": _kink}


def of_argument(phi, scale, shift):
    """``φ(scale z + shift)`` with its derivatives."""

    def derivatives(z, count):
        return phi(scale * z + shift, count) * scale ** np.arange(count).reshape(-1, *[1] * np.ndim(z))

    return derivatives


def nodes(n=400, half_width=9.0):
    """Of the trapezoidal rule for N(0, 1), which converges geometrically for all these functions.

    The sixth derivatives of tanh multiply its error: 200 nodes are not enough at variance 4.
    """
    z = np.linspace(-half_width, half_width, n)
    weight = np.exp(-(z**2) / 2)
    return z, weight / weight.sum()


@functools.lru_cache(1000)  # All derivatives at two points ask for the same ones.
def _table(phi, count, c, v1, v2):
    """``T_ij`` for ``i, j < count``."""
    z, weight = nodes()
    rest = max(v2 - c * (c / v1), 0)  # The variance of v where u is known.
    others, shares = (z, weight) if rest else (np.zeros(1), np.ones(1))
    inner = phi(c / np.sqrt(v1) * z[:, None] + np.sqrt(rest) * others, count) @ shares
    return phi(np.sqrt(v1) * z, count) * weight @ inner.T


def _times(p, q):
    out, size = np.zeros(p.shape), len(p)
    for i, j in np.argwhere(p):
        out[i:, j:] += p[i, j] * q[: size - i, : size - j]
    return out


def _powers(p, count):
    """Of ``p`` less its constant, from 0."""
    powers, rest = [_constant(1, len(p))], p - _constant(p[0, 0], len(p))
    for _ in range(count):
        powers.append(_times(powers[-1], rest))
    return powers


def _constant(value, size):
    return np.pad([[value]], ((0, size - 1), (0, size - 1)))


def _expectations(phi, c, v1, v2):
    """``E[φφ]`` and ``E[φ'φ']`` by their Taylor series."""
    degree = len(c) - 1
    # φ and φ' are differentiated up to three times as often as a point is.
    table = _table(phi, 3 * degree + 2, c[0, 0], v1[0, 0], v2[0, 0])
    out = np.zeros((2, *c.shape))
    c, v1, v2 = _powers(c, 2 * degree), _powers(v1, degree), _powers(v2, degree)
    for i, j, k in np.ndindex(2 * degree + 1, degree + 1, degree + 1):
        term = _times(c[i], _times(v1[j], v2[k])) / (factorial(i) * factorial(j) * factorial(k) * 2 ** (j + k))
        if term.any():
            out += [table[m + i + 2 * j, m + i + 2 * k] * term for m in (0, 1)]
    return out


def theta(activation, depth, x, y, dx, dy, weight_std=1.0, bias_std=1.0, degree=2, get="ntk"):
    """Coefficients of ``Θ(x + h dx, y + k dy)``, or of the covariance, ``(degree + 1, degree + 1)``."""
    phi, d, size = ACTIVATIONS.get(activation, activation), len(x), degree + 1

    def affine(p):
        return weight_std**2 * p + _constant(bias_std**2, size)

    def inner(a, b):  # Of two lines.
        out = np.zeros((size, size))
        out[:2, :2] = [[p @ q / d for q in b] for p in a]
        return out

    def square(p, dp):
        return np.pad([p @ p / d, 2 * p @ dp / d, dp @ dp / d][:size], (0, max(0, size - 3)))

    c, v1, v2 = inner((x, dx), (y, dy)), np.zeros((size, size)), np.zeros((size, size))
    v1[:, 0], v2[0] = square(x, dx), square(y, dy)
    c, v1, v2 = affine(c), affine(v1), affine(v2)
    kernel = c
    for layer in range(depth):
        covariance, slopes = _expectations(phi, c, v1, v2)
        if layer < depth - 1:
            v1, v2 = (affine(_expectations(phi, v, v, v)[0]) for v in (v1, v2))
        c = affine(covariance)
        kernel = c + weight_std**2 * _times(kernel, slopes)
    return kernel if get == "ntk" else c


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
