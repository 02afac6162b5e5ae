"""The forward Laplacian: ``u``, ``∇u`` and ``Δu`` carried through a field together.

Through ``y = f(z(x))`` go the value, the ``d`` first derivatives and the Laplacian,

    y_i = f'(z) z_i,        Δy = f'(z) Δz + Σ_i f''(z)[z_i, z_i],

``d + 2`` numbers for each one of the field, where nested derivatives carry ``2 d + 1`` or more
(Li et al., 2307.08214).  folx has the same with more rules; this one goes through everything
that JAX differentiates, loops included, as kernels in series have them: what has no rule
below goes by `jax.jvp`.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend import core
from jax.typing import ArrayLike

# Linear in all arguments together.
_LINEAR = {
    "add", "add_any", "sub", "neg", "reshape", "broadcast_in_dim", "transpose", "squeeze", "slice", "concatenate",
    "reduce_sum",
}  # fmt: skip
_BILINEAR = {"mul", "dot_general"}
# Functions of one number, applied to each.
_ELEMENTWISE = {
    "tanh", "sin", "cos", "exp", "exp2", "log", "log1p", "expm1", "logistic", "erf", "erfc", "integer_pow", "sqrt",
    "rsqrt", "square", "sinh", "cosh", "tan", "atan", "asinh",
}  # fmt: skip
_CALLS = {"jit", "pjit", "closed_call", "core_call", "remat", "checkpoint"}


class _Packed(NamedTuple):
    """A quantity that depends on the point.

    Attributes:
        value: any shape.
        first: its derivatives, ``(d, ...)``.
        last: its Laplacian.
    """

    value: Array
    first: Array
    last: Array


Quantity = ArrayLike | _Packed


def forward_laplacian(u: Callable[[Array], Array], x: Array) -> tuple[Array, Array]:
    """``u`` and ``Δu`` at one point ``x``, ``(d,)``, shaped like ``u(x)`` both."""
    closed = jax.make_jaxpr(u)(x)
    (out,) = _run(closed.jaxpr, closed.consts, [_Packed(x, jnp.eye(x.size, dtype=x.dtype), jnp.zeros_like(x))])
    return (out.value, out.last) if isinstance(out, _Packed) else (jnp.asarray(out), jnp.zeros_like(out))


def _run(jaxpr: core.Jaxpr, consts: Sequence[ArrayLike], arguments: Sequence[Quantity]) -> list[Quantity]:
    known = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, arguments, strict=True))

    read = lambda atom: atom.val if isinstance(atom, core.Literal) else known[atom]
    for eqn in _live(jaxpr):
        values = [read(atom) for atom in eqn.invars]
        inner = eqn.params.get("jaxpr")
        if eqn.primitive.name in _CALLS and inner is not None:
            inner, inner_consts = (inner.jaxpr, inner.consts) if isinstance(inner, core.ClosedJaxpr) else (inner, ())
            outputs = _run(inner, inner_consts, values)
        elif eqn.primitive.name == "stop_gradient":
            outputs = _function(eqn)(*(v.value if isinstance(v, _Packed) else v for v in values))
        elif any(isinstance(v, _Packed) for v in values):
            outputs = _push(eqn.primitive.name, _function(eqn), values)
        else:
            outputs = _function(eqn)(*values)
        known |= dict(zip(eqn.outvars, outputs, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _live(jaxpr: core.Jaxpr) -> list[core.JaxprEqn]:
    """The equations that the outputs depend on; derivatives of the others would be in vain."""
    needed, live = set(map(id, jaxpr.outvars)), []
    for eqn in reversed(jaxpr.eqns):
        if needed & set(map(id, eqn.outvars)):
            needed |= set(map(id, eqn.invars))
            live.append(eqn)
    return live[::-1]


def _function(eqn: core.JaxprEqn) -> Callable[..., list[Array]]:
    return functools.partial(_bind, eqn)  # No function of its own: tests would give each its own checks of types.


def _bind(eqn: core.JaxprEqn, *arguments: ArrayLike) -> list[Array]:
    params = eqn.primitive.get_bind_params(eqn.params)
    functions, params = params if isinstance(params, tuple) else ((), params)  # Of JAX 0.9.
    out = eqn.primitive.bind(*functions, *arguments, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def _push(name: str, f: Callable, values: Sequence[Quantity]) -> list[Quantity]:
    """What ``f`` makes of its arguments, of which one at least is packed."""
    packed = [isinstance(v, _Packed) for v in values]
    if name in _LINEAR:  # Constants among the arguments have derivatives of zero.
        parts = [v if isinstance(v, _Packed) else _Packed(v, *[jnp.zeros_like(jnp.asarray(v))] * 2) for v in values]
    elif (name in _BILINEAR and sum(packed) == 1) or (name == "div" and packed == [True, False]):
        parts = [v if isinstance(v, _Packed) else _Packed(v, v, v) for v in values]
    else:
        return _push_nonlinear(name, f, values)
    (value,), (last,) = f(*(part.value for part in parts)), f(*(part.last for part in parts))
    (first,) = jax.vmap(f, [0 if is_packed else None for is_packed in packed])(*(part.first for part in parts))
    return [_Packed(value, first, last)]


def _push_nonlinear(name: str, f: Callable, values: Sequence[Quantity]) -> list[Quantity]:
    if name == "mul":
        a, b = values
        last = a.value * b.last + 2 * (a.first * b.first).sum(0) + a.last * b.value
        return [_Packed(a.value * b.value, a.value * b.first + a.first * b.value, last)]
    if name in _ELEMENTWISE:
        (p,) = values
        one = jnp.ones_like(p.value)
        first = lambda z: jax.jvp(lambda z: f(z)[0], (z,), (one,))
        (y, dy), (_, ddy) = jax.jvp(first, (p.value,), (one,))
        return [_Packed(y, dy * p.first, dy * p.last + ddy * (p.first**2).sum(0))]
    return _by_jvp(f, values)


def _by_jvp(f: Callable, values: Sequence[Quantity]) -> list[Quantity]:
    """Any function of the packed arguments, by nested `jax.jvp`."""
    variable = [v for v in values if isinstance(v, _Packed)]

    def g(*z: Array) -> list[Array]:
        z = iter(z)
        return f(*(next(z) if isinstance(v, _Packed) else v for v in values))

    at = tuple(p.value for p in variable)

    def along(*v: Array) -> tuple[list[Array], list[Array]]:
        return jax.jvp(lambda *z: jax.jvp(g, z, v)[1], at, v)

    y, last = jax.jvp(g, at, tuple(p.last for p in variable))
    first, second = jax.vmap(along)(*(p.first for p in variable))
    smooth = [jnp.issubdtype(value.dtype, jnp.inexact) for value in y]  # Not truth values or whole numbers.
    parts = zip(smooth, y, first, last, second, strict=True)
    return [_Packed(y, v, a + b.sum(0)) if is_smooth else y for is_smooth, y, v, a, b in parts]
