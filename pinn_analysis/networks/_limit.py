"""The kernel of an infinitely wide multilayer perceptron, with all derivatives that an equation needs.

Everything in it is a function of three numbers per pair of points: the correlation ρ and the two variances
of the first preactivations.  Layer by layer, polynomials in their increments (δρ, δa, δb) are carried along:
the correlation of the layer's preactivations, their variances, and the kernel.  The expectations of the
activation come as Taylor coefficients in the layer's own three numbers (`_hermite`), so a layer is the
composition of two truncated series.  `_taylor` hands the result to automatic differentiation.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from pinn_analysis import _hermite, _neural_tangents, _taylor
from pinn_analysis._hermite import Elementwise, keys
from pinn_analysis.networks import _polynomials

# What traced inputs, whose variance is not known yet, may have at most: a box scaled to variance 1 has 4.
TRACED_VARIANCE = 4.0
LARGEST_VARIANCE = 64.0
ROWS = 8  # Of pairs that are worked at together.


class Expected(NamedTuple):
    """What is known before the kernel is traced: how many derivatives it takes, and the largest variance."""

    orders: tuple[int, int] = (2, 2)
    variance: float = TRACED_VARIANCE


_expected = Expected()
_seen: list[float] | None = None


@contextlib.contextmanager
def expecting(orders: tuple[int, int], variance: float) -> Iterator[None]:
    """Kernels traced inside expect so many derivatives in the two points, and variances up to ``variance``.

    More derivatives than that cost a further table, and a larger variance gives NaN: nothing is wrong.
    """
    global _expected
    before, _expected = _expected, Expected(orders, variance)
    try:
        yield
    finally:
        _expected = before


@contextlib.contextmanager
def variances(orders: tuple[int, int]) -> Iterator[list[float]]:
    """The variances that kernels called inside with numbers need, instead of their values, which are 0."""
    global _expected, _seen
    before, _expected, _seen = _expected, Expected(orders), []
    try:
        yield _seen
    finally:
        _expected, _seen = before, None


@dataclasses.dataclass(frozen=True)
class Limit:
    """``kernel_fn(x1, x2, get)`` of the infinitely wide network; equal ones are equal, so they compile once.

    With numbers as inputs the kernel is right to rounding or refused; traced ones are right while the
    variances of all preactivations stay below `TRACED_VARIANCE`, and NaN beyond it.  For erf and sine
    neural-tangents has closed forms, which take over where no series is known to reach.

    Attributes:
        depth: hidden layers.
        activation: an elementwise function.
        weight_std: scale of the weights.
        bias_std: scale of the biases.
    """

    depth: int
    activation: Elementwise
    weight_std: float
    bias_std: float

    def __call__(self, x1: ArrayLike, x2: ArrayLike | None = None, get: str | tuple[str, ...] = "ntk") -> Array | tuple:
        """Kernel of all pairs of the rows of ``x1`` and ``x2``, ``(n, m)``.

        Args:
            x1: ``(n, d)``.
            x2: ``(m, d)``; ``x1`` if it is not given.
            get: ``"ntk"``, ``"nngp"`` (the covariance of the initial field), or a tuple of them.

        Raises:
            ValueError: an unknown ``get``; a variance that the series of this activation cannot reach.
        """
        if isinstance(get, tuple):
            return tuple(self(x1, x2, one) for one in get)
        if get not in ("ntk", "nngp"):
            raise ValueError(f'`get` must be "ntk", "nngp" or a tuple of them, got {get!r}.')
        x1 = jnp.asarray(x1, jnp.result_type(float, x1) if not hasattr(x1, "dtype") else None)
        x2 = x1 if x2 is None else jnp.asarray(x2)
        expected = _expected
        if self.depth and not any(isinstance(x, jax.core.Tracer) for x in (x1, x2)):
            found = max(self._variance(x1), self._variance(x2))
            if not (self._has_closed_form() and rounded(found) == math.inf):
                self._series(found, expected.orders if _seen is not None else (0, 0))
            if _seen is not None:
                _seen.append(found)
                return jnp.asarray(np.zeros((len(x1), len(x2))))
            expected = Expected((0, 0), rounded(found))
        scale = self.weight_std**2 / x1.shape[-1]
        a, b = (scale * jnp.sum(x * x, -1) + self.bias_std**2 for x in (x1, x2))
        covariance = scale * jnp.matmul(x1, x2.T, precision="highest") + self.bias_std**2
        if not self.depth:
            return covariance
        if self._has_closed_form() and (expected == Expected() or expected.variance == math.inf):
            return _closed_form(self)(x1, x2, get)
        rho = covariance * jax.lax.rsqrt(a)[:, None] * jax.lax.rsqrt(b)
        return _taylor.function(_Table(self, get, expected.variance), expected.orders, rho, a, b)

    def _has_closed_form(self) -> bool:
        return self.activation in (jax.scipy.special.erf, jnp.sin)

    def _variance(self, x: Float[Array, "n d"]) -> float:
        """Largest variance of a preactivation of any layer."""
        a = self.weight_std**2 * np.mean(np.asarray(x, float) ** 2, -1) + self.bias_std**2
        if not np.isfinite(a).all():
            return math.inf
        a = np.linspace(a.min(), a.max(), 65) if len(a) > 65 else a
        largest = a.max()
        for _ in range(self.depth - 1):
            a = self.weight_std**2 * _hermite.second_moment(self.activation, a) + self.bias_std**2
            largest = max(largest, a.max())
        return float(largest)

    def _series(self, variance: float, orders: tuple[int, int]) -> _hermite.Series:
        """The series that is good for ``variance``, or the error that says why there is none."""
        derivatives = sum(orders)
        bound = rounded(variance)
        if bound <= LARGEST_VARIANCE:
            found = _hermite.series(self.activation, bound, derivatives)
            if found is not None:
                return found
        good = [v for v in _bounds() if v < bound and _hermite.series(self.activation, v, derivatives)]
        name = getattr(self.activation, "__name__", repr(self.activation))
        if good:
            reach = f"its series is good up to a variance of {good[-1]:g}: scale the inputs with `standardized`, "
            reach += "or take a smaller `weight_std` or `bias_std`"
        else:
            reach = "no series is right at this variance or a smaller one: the activation has a kink, is too steep, or "
            reach += (
                "so nearly polynomial that its derivatives are lost in rounding. Take a smooth one, or larger scales"
            )
        raise ValueError(
            f"Preactivations have a variance of up to {variance:.3g}, and of the limit of {name} with "
            f"{derivatives} derivatives {reach}."
        )


@functools.cache
def _closed_form(limit: Limit) -> Callable:
    """Right for any variance, but slow to compile: each derivative makes the program larger."""
    stax = _neural_tangents.load().stax
    activation = stax.Erf() if limit.activation is jax.scipy.special.erf else stax.Sin()
    dense = stax.Dense(1, W_std=limit.weight_std, b_std=limit.bias_std)  # The 1 stands for any width.
    return stax.serial(*[dense, activation] * limit.depth, dense)[2]


def _bounds() -> list[float]:
    return [2.0**k for k in range(-4, 1 + round(math.log2(LARGEST_VARIANCE)))]


def rounded(variance: float) -> float:
    """Up to the next of a few values, so that other points do not compile anew."""
    return next((v for v in _bounds() if variance <= v * (1 + 1e-9)), math.inf)


@dataclasses.dataclass(frozen=True)  # Not a named tuple: JAX 0.9 wants weak references to what it caches by.
class _Table:
    """Taylor coefficients of the kernel in the numbers (ρ, a, b) of the first layer."""

    limit: Limit
    get: str
    variance: float

    def __call__(self, rho: Array, a: Array, b: Array, orders: tuple[int, int]) -> Array:
        series = self.limit._series(self.variance, orders)
        both = _side(self.limit, series, self.variance, jnp.concatenate([a, b]), max(orders))
        one, two = _of_side(both, slice(len(a)), orders[0]), _of_side(both, slice(len(a), None), orders[1])
        pairs = functools.partial(self._pairs, series, orders)
        if len(rho) <= ROWS:
            return pairs(one, two, rho)
        # Rows by rows, so that all that is held for these pairs stays in the cache.
        groups = -(-len(rho) // ROWS)
        padded = groups * ROWS - len(rho)
        split = lambda x: jnp.moveaxis(
            jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, padded)], mode="edge").reshape(*x.shape[:-1], groups, ROWS), -2, 0
        )
        of_rows = jax.tree.map(split, one), jnp.moveaxis(split(rho.T), 1, 2)
        tables = jax.lax.map(lambda rows: pairs(rows[0], two, rows[1]), of_rows)
        return jnp.moveaxis(tables, 0, 1).reshape(tables.shape[1], -1, rho.shape[1])[:, : len(rho)]

    def _pairs(self, series: _hermite.Series, orders: tuple[int, int], one: "_Side", two: "_Side", rho: Array) -> Array:
        limit = self.limit

        def local(one: _Side, two: _Side, rho: Array) -> Array:
            return _polynomials.with_slope(orders, _hermite.sums(series, one.coefficients, two.coefficients, rho))

        def affine(value: Array) -> Array:
            return (limit.weight_std**2 * value).at[0].add(limit.bias_std**2)

        def layer(carry: tuple, sides: tuple[_Side, _Side]) -> tuple[tuple, None]:
            (covariance, kernel), (one, two) = carry, sides
            rho = _polynomials.along(orders, covariance, one.inverse_root, two.inverse_root)
            both = _polynomials.compose(orders, local(one, two, rho[0]), rho, one.powers, two.powers)
            slope = _polynomials.along(orders, both[:, 1], one.inverse_root, two.inverse_root)
            covariance = affine(both[:, 0])
            kernel = covariance + limit.weight_std**2 * _polynomials.product(
                _polynomials.pairs_of(orders), kernel, slope
            )
            return (covariance, kernel), None

        # The numbers of the first layer are those that derivatives are taken by, and the roots in its kernel cancel:
        # c E[φ'(u) φ'(v)] = ρ ∂/∂ρ E[φ(u) φ(v)].
        first, second = jax.tree.map(lambda x: x[0], (one, two))
        both = local(first, second, rho)
        power = np.array([float(p) for p, _, _ in keys(*orders)])[:, None, None]
        covariance = affine(both[:, 0])
        kernel = covariance + limit.weight_std**2 * (rho * both[:, 1] + power * both[:, 0])
        if limit.depth > 1:
            others = jax.tree.map(lambda x: x[1:], (one, two))
            covariance, kernel = jax.lax.scan(layer, (covariance, kernel), others)[0]
        return kernel if self.get == "ntk" else covariance


class _Side(NamedTuple):
    """What layers need of points alone, with a leading axis of layers.  Coefficients are of powers of δa."""

    powers: Array  # Of the increment of the layer's variance: ``(power, order + 1, n)``.
    inverse_root: Array
    coefficients: Array  # `_hermite.coefficients` in the layer's own variance, ``(order + 1, terms, n)``.


def _side(limit: Limit, series: _hermite.Series, largest: float, a: Float[Array, " n"], order: int) -> _Side:
    start = jnp.zeros((order + 1, len(a)), a.dtype).at[0].set(a)
    start = start.at[1].set(1) if order else start

    def layer(variance: Array, _: None) -> tuple[Array, _Side]:
        within = variance[0] <= largest * (1 + 1e-9)
        coefficients, moments = _hermite.coefficients(limit.activation, series, variance[0], order)
        coefficients = jnp.where(within, coefficients, jnp.nan)
        powers = _polynomials.powers(variance)
        following = limit.weight_std**2 * jnp.einsum("qn,qin->in", moments, powers)
        following = following.at[0].add(limit.bias_std**2)
        return following, _Side(powers, _polynomials.inverse_root(variance), coefficients)

    return jax.lax.scan(layer, start, length=limit.depth)[1]


def _of_side(side: _Side, points: slice, order: int) -> _Side:
    """Of some of the points, with fewer derivatives."""
    few = slice(order + 1)
    return _Side(
        side.powers[:, few, few, points], side.inverse_root[:, few, points], side.coefficients[:, few, :, points]
    )
