"""Functions that are known by their Taylor coefficients at a point, and differentiate like any other.

`lookup` is one number of a table: its derivative along a tangent is a sum of other numbers of the table.
So a program that takes derivatives of such a function, in whatever order and manner, contains how the
function was made only once.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import jet
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from pinn_analysis._hermite import Key, keys

Orders = tuple[int, int]
# (rho, a, b, orders) -> the Taylor coefficients of `keys(*orders)` in (rho, a, b), stacked.
Source = Callable[[Array, Array, Array, Orders], Array]

_table = Primitive("kernel_table")
_lookup = Primitive("kernel_derivative")


def function(source: Source, orders: Orders, rho: Array, a: Array, b: Array) -> Array:
    """``source`` as a differentiable function of the correlations of all pairs, and of two variances.

    Args:
        source: hashable; its table is made once for each set of pairs.
        orders: how many derivatives in each of the two points to expect; more cost a further table.
        rho: ``(n, m)``.
        a: ``(n,)``.
        b: ``(m,)``.
    """
    return _at((0, 0, 0), orders, None, source, rho, a, b)


def _at(key: Key, orders: Orders, table: Array | None, source: Source, rho: Array, a: Array, b: Array) -> Array:
    while key not in keys(*orders):
        orders, table = (max(2, 2 * orders[0]), max(2, 2 * orders[1])), None
    if table is None:
        table = _table.bind(*map(jax.lax.stop_gradient, (rho, a, b)), source=source, orders=orders)
    # Not `key`, a name that the caches of JAX 0.9 have taken.
    return _lookup.bind(table, rho, a, b, derivative=key, orders=orders, source=source)


@functools.partial(jax.jit, static_argnames=("source", "orders"))
def _make(rho: Array, a: Array, b: Array, *, source: Source, orders: Orders) -> Array:
    """`source` on any leading axes, which broadcast."""
    lead = jnp.broadcast_shapes(rho.shape[:-2], a.shape[:-1], b.shape[:-1])
    if not lead:
        return source(rho, a, b, orders)
    (n,), (m,) = a.shape[-1:], b.shape[-1:]
    rho = jnp.broadcast_to(rho, (*lead, n, m))
    if math.prod(a.shape[:-1]) == 1:  # All pairs of one set of points with several others are a larger matrix.
        b = jnp.broadcast_to(b, (*lead, m)).ravel()
        table = source(jnp.moveaxis(rho, -2, 0).reshape(n, -1), a.ravel(), b, orders)
        return jnp.moveaxis(table.reshape(-1, n, *lead, m), 1, -2)
    if math.prod(b.shape[:-1]) == 1:
        table = source(rho.reshape(-1, m), jnp.broadcast_to(a, (*lead, n)).ravel(), b.ravel(), orders)
        return table.reshape(-1, *lead, n, m)
    of_first = _outer_axes(a.shape[:-1], b.shape[:-1])
    if of_first is not None:  # A matrix of pairs: leading axes of `a` first, those of `b` after them.
        i, j = math.prod(lead[:of_first]), math.prod(lead[of_first:])
        table = source(jnp.moveaxis(rho.reshape(i, j, n, m), 1, 2).reshape(i * n, j * m), a.ravel(), b.ravel(), orders)
        return jnp.moveaxis(table.reshape(-1, i, n, j, m), 2, 3).reshape(-1, *lead, n, m)
    a, b = jnp.broadcast_to(a, (*lead, n)), jnp.broadcast_to(b, (*lead, m))
    flat = [array.reshape(-1, *array.shape[len(lead) :]) for array in (rho, a, b)]
    tables = jax.lax.map(lambda rab: source(rab[0], rab[1], rab[2], orders), flat)
    return jnp.moveaxis(tables, 0, 1).reshape(-1, *lead, n, m)


def _outer_axes(a: tuple[int, ...], b: tuple[int, ...]) -> int | None:
    """How many leading axes belong to ``a`` alone, if all others belong to ``b`` alone."""
    rank = max(len(a), len(b))
    a, b = (1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b
    splits = [k for k in range(rank + 1) if math.prod(a[k:]) == 1 == math.prod(b[:k])]
    return splits[0] if splits else None


def _lead(arrays: tuple[Array, ...], dims: tuple[Any, ...], axes: tuple[int, ...]) -> list[Array]:
    """The batch axis of each as the axis at ``axes``; of length 1 where it has none."""
    return [
        jnp.expand_dims(array, axis) if dim is None else jnp.moveaxis(array, dim, axis)
        for array, dim, axis in zip(arrays, dims, axes, strict=True)
    ]


def _aligned(arrays: list[Array], ranks: tuple[int, ...], kept: tuple[int, ...]) -> list[Array]:
    """Ones after the new batch axis, so that leading axes broadcast: they align from the right."""
    lead = max(array.ndim - rank for array, rank in zip(arrays, ranks, strict=True))
    out = []
    for array, rank, axis in zip(arrays, ranks, kept, strict=True):
        missing = lead - (array.ndim - rank)
        out.append(jnp.expand_dims(array, tuple(range(axis + 1, axis + 1 + missing))))
    return out


_table.def_impl(_make)


@_table.def_abstract_eval
def _(rho: Any, a: Any, b: Any, *, source: Source, orders: Orders) -> Any:
    lead = jnp.broadcast_shapes(rho.shape[:-2], a.shape[:-1], b.shape[:-1])
    return jax.core.ShapedArray((len(keys(*orders)), *lead, a.shape[-1], b.shape[-1]), rho.dtype)


def _batch_table(arrays: tuple, dims: tuple, **params: Any) -> tuple[Array, int]:
    arrays = _aligned(_lead(arrays, dims, (0, 0, 0)), (2, 1, 1), (0, 0, 0))
    return _table.bind(*arrays, **params), 1


batching.primitive_batchers[_table] = _batch_table
mlir.register_lowering(_table, mlir.lower_fun(_make, multiple_results=False))


@_lookup.def_impl
@functools.partial(jax.jit, static_argnames=("derivative", "orders", "source"))
def _pick(table: Array, rho: Array, a: Array, b: Array, *, derivative: Key, orders: Orders, source: Source) -> Array:
    return math.prod(map(math.factorial, derivative)) * table[keys(*orders).index(derivative)]


@_lookup.def_abstract_eval
def _(table: Any, rho: Any, a: Any, b: Any, **_: Any) -> Any:
    return jax.core.ShapedArray(table.shape[1:], table.dtype)


def _differentiate(primals: tuple, tangents: tuple, *, derivative: Key, orders: Orders, source: Source) -> tuple:
    table, rho, a, b = primals
    value = _lookup.bind(*primals, derivative=derivative, orders=orders, source=source)
    slope = None
    for i, tangent in enumerate(tangents[1:]):
        if not isinstance(tangent, ad.Zero):
            further = tuple(n + (i == j) for j, n in enumerate(derivative))
            along = (tangent, tangent[..., :, None], tangent[..., None, :])[i]
            term = along * _at(further, orders, table, source, rho, a, b)
            slope = term if slope is None else slope + term
    if slope is None:
        return value, ad.Zero(jax.typeof(value).to_tangent_aval())
    return value, jnp.broadcast_to(slope, value.shape)


def _batch_lookup(arrays: tuple, dims: tuple, **params: Any) -> tuple[Array, Any]:
    mapped = dims[0] is not None
    arrays = _aligned(_lead(arrays, dims, (1, 0, 0, 0)), (3, 2, 1, 1), (1, 0, 0, 0))
    out = _lookup.bind(*arrays, **params)
    return (out, 0) if mapped else (out[0], None)


def _expand(primals: tuple, series: tuple, **params: Any) -> tuple[Array, list[Array]]:
    """Taylor mode (`jet`): derivatives along the curve ``p + Σ_k s_k t^k / k!``."""
    order = max(len(s) for s in series)

    def along(t: Array) -> Array:
        curve = [
            p
            + sum(
                s * t ** (k + 1) / math.factorial(k + 1) for k, s in enumerate(of_p) if not isinstance(s, jet.ZeroTerm)
            )
            for p, of_p in zip(primals[1:], series[1:], strict=True)
        ]
        return _lookup.bind(primals[0], *curve, **params)

    derivatives = [along]
    for _ in range(order):
        derivatives.append(lambda t, f=derivatives[-1]: jax.jvp(f, (t,), (jnp.ones_like(t),))[1])
    zero = jnp.zeros((), primals[0].dtype)
    value, *terms = [f(zero) for f in derivatives]
    return value, terms


ad.primitive_jvps[_lookup] = _differentiate
batching.primitive_batchers[_lookup] = _batch_lookup
jet.jet_rules[_lookup] = _expand
mlir.register_lowering(_lookup, mlir.lower_fun(_pick, multiple_results=False))
