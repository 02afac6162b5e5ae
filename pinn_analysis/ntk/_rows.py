"""Rows of Jacobians, of one term or several: what they are, products with them, and themselves multiplied out.

Everything here is compiled, for any parameters, points and coefficients of the same shapes.
``right=None`` stands for the rows of ``left`` once more.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float, PyTree

from pinn_analysis.ntk import _devices
from pinn_analysis.ntk._blocks import Rows
from pinn_analysis.operators import Operator
from pinn_analysis.problems import Apply

FEW = 8  # Components with a pullback of their own; more are mapped over.
POINTS = 32  # Points at a time, of which a diagonal keeps the rows.
WORKSPACE = 2**28  # Bytes that the points of a product may keep between its passes, unless the caller sets a number.


@dataclasses.dataclass(frozen=True)
class JacobianRows(Rows):
    """The rows ``∂L_i u(x)/∂θ`` of each term ``i`` and point, none of them formed.

    Attributes:
        operators: ``L_i`` of each term.
        apply: ``apply(params, x)``.
        params: where the derivatives are taken.
        points: ``(n_i, d)`` of each term.
        names: the loss terms, in the order of the rows.
        sizes: number of rows of each term.
        untrained: the terms that training does not take in.
        batch_size: rows of a term that one pass of a product or a diagonal takes; None chooses it.
        mesh: the devices that the points are divided among, if they are several.
    """

    operators: tuple[Operator, ...]
    apply: Apply
    params: PyTree
    points: tuple[Array, ...]
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    untrained: tuple[str, ...] = ()
    batch_size: int | None = None
    mesh: Mesh | None = None

    def values(self, params: PyTree) -> Float[Array, " n"]:
        """``L_i u(x)`` of all rows, the vector whose Jacobian they are."""
        return jnp.concatenate([self.term_values(i, params, x) for i, x in enumerate(self.points)])

    def term_values(self, i: int, params: PyTree, x: Float[Array, "n d"]) -> Float[Array, " rows"]:
        """``L_i u(x)`` of the rows of one term at some of its points."""
        return jax.vmap(outputs(self.operators[i], self.apply, params))(x).ravel()

    def parameters(self) -> int:
        """The length of a row."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.params))


def outputs(operator: Operator, apply: Apply, params: PyTree) -> Callable[[Array], Array]:
    """``x -> L u(x; params)`` as a vector, ``(q,)``."""
    left = operator(functools.partial(apply, params))
    return lambda x: jnp.ravel(left(x))


def components(operator: Operator, apply: Apply, params: PyTree, points: Array) -> int:
    """How many rows a term has per point."""
    point = jax.ShapeDtypeStruct(points.shape[1:], points.dtype)
    return jax.eval_shape(_value, operator, apply, params, point).size


@jax.jit  # So that it is traced once.
def _value(operator: Operator, apply: Apply, params: PyTree, x: Array) -> Array:
    return outputs(operator, apply, params)(x)


def row_gradients(operator: Operator, apply: Apply, params: PyTree) -> Callable[[Array], PyTree]:
    """``x -> ∂L u(x)/∂θ``, leaves ``(q, ...)``.

    One pullback for each of few components: `jax.jacrev` would map over them, which keeps XLA
    from fusing the outer products and costs six times as much at width 512.
    """

    def gradients(x: Array) -> PyTree:
        value, pullback = jax.vjp(lambda params: outputs(operator, apply, params)(x), params)
        return for_each_component(lambda e: pullback(e)[0], value)

    return gradients


def for_each_component(row: Callable[[Array], PyTree], value: Float[Array, " q"]) -> PyTree:
    """``row(e)`` of each unit vector, stacked: few are written out, more mapped over."""
    basis = jnp.eye(value.size, dtype=value.dtype)
    if value.size > FEW:
        return jax.vmap(row)(basis)
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *[row(e) for e in basis])


def gradient_rows(operator: Operator, apply: Apply, params: PyTree, x: Array) -> Array:
    """``∂L u/∂θ`` at points, ``(n, q, p)``, point by point: a pullback of all rows at once takes n times as long."""
    leaves = jax.tree.leaves(jax.vmap(row_gradients(operator, apply, params))(x))
    return jnp.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in leaves], -1)


def points_at_a_time(kernel: JacobianRows) -> tuple[int, ...]:
    """Points of each term that one pass of a product takes: `batch_size` rows, or what `WORKSPACE` holds."""
    if kernel.batch_size is None and _kept_bytes(kernel, kernel.points) <= WORKSPACE:
        return tuple(len(x) for x in kernel.points)

    def at_most(i: int, x: Array) -> int:
        if kernel.batch_size is not None:
            return kernel.batch_size * len(x) // kernel.sizes[i]
        none = [y[:0] for y in kernel.points]
        one, two = (_kept_bytes(kernel, none[:i] + [x[:n]] + none[i + 1 :]) for n in (1, 2))
        return WORKSPACE // max(1, two - one)

    return tuple(min(len(x), max(1, at_most(i, x))) for i, x in enumerate(kernel.points))


def _kept_bytes(kernel: JacobianRows, points: Sequence[Array]) -> int:
    """What the reverse derivative of the rows at these points keeps, read off the traced program."""
    values = dataclasses.replace(kernel, points=tuple(points)).values
    kept = jax.eval_shape(lambda params: jax.vjp(values, params)[1], kernel.params)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(kept))


class Passes(NamedTuple):
    """Products with ``Jᵀ`` and with ``J``."""

    pull: Callable[[Float[Array, " n"]], PyTree]
    push: Callable[[PyTree], Float[Array, " n"]]


def passes(kernel: JacobianRows) -> Passes:
    """All rows linearised once where memory allows, else in batches."""
    points = points_at_a_time(kernel)
    if points != tuple(len(x) for x in kernel.points):
        return _batched_passes(kernel, points)
    values, push = jax.linearize(kernel.values, kernel.params)
    pull = jax.linear_transpose(push, kernel.params)
    return Passes(lambda v: pull(v.astype(values.dtype))[0], push)


def _batched_passes(kernel: JacobianRows, points: tuple[int, ...]) -> Passes:
    """With so many points of each term at a time; each batch is linearised for each pass, and nothing of it is kept.

    A product of both is the work of 6 evaluations of the rows, instead of 4.
    """
    params, batches = kernel.params, [_devices.tiles(x, n) for x, n in zip(kernel.points, points, strict=True)]

    def pull(v: Float[Array, " n"]) -> PyTree:
        total = jax.tree.map(jnp.zeros_like, params)
        for i, (x, part) in enumerate(zip(batches, kernel.split(v).values(), strict=True)):
            rows = kernel.sizes[i] // len(kernel.points[i]) * x.shape[1]

            def add(total: PyTree, batch: tuple[Array, Array], i: int = i) -> tuple[PyTree, None]:
                values, transposed = jax.vjp(functools.partial(kernel.term_values, i, x=batch[0]), params)
                return jax.tree.map(jnp.add, total, transposed(batch[1].astype(values.dtype))[0]), None

            # Points that fill up the last batch are multiplied by zero.
            padded = jnp.pad(part, (0, len(x) * rows - len(part))).reshape(len(x), rows)
            total = jax.lax.scan(add, total, (x, padded))[0]
        return total

    def push(direction: PyTree) -> Float[Array, " n"]:
        def values(i: int, x: Array) -> Array:
            return jax.jvp(functools.partial(kernel.term_values, i, x=x), (params,), (direction,))[1]

        pushed = [jax.lax.map(functools.partial(values, i), x).ravel() for i, x in enumerate(batches)]
        return jnp.concatenate([each[:n] for each, n in zip(pushed, kernel.sizes, strict=True)])

    return Passes(pull, push)


@jax.jit
def jacobian_gram(left: JacobianRows, right: JacobianRows | None) -> Array:
    """``J Jᵀ``: the Jacobian multiplied out."""

    def rows(kernel: JacobianRows) -> list[Array]:
        each = [
            jax.tree.leaves(jax.vmap(row_gradients(operator, kernel.apply, kernel.params))(x))
            for operator, x in zip(kernel.operators, kernel.points, strict=True)
        ]
        return [
            jnp.concatenate([leaf.reshape(leaf.shape[0] * leaf.shape[1], -1) for leaf in leaves])
            for leaves in zip(*each, strict=True)
        ]

    with jax.default_matmul_precision("highest"):
        a = rows(left)
        b = a if right is None else rows(right)
        return sum(leaf_a @ leaf_b.T for leaf_a, leaf_b in zip(a, b, strict=True))


@jax.jit
def jacobian_diagonal(kernel: JacobianRows) -> Array:
    """Squared norms of the rows of one term."""
    (operator,), (points,) = kernel.operators, kernel.points

    def squared_norms(x: Array) -> Array:
        jacobian = row_gradients(operator, kernel.apply, kernel.params)(x)
        return sum(jnp.sum(leaf.reshape(len(leaf), -1) ** 2, 1) for leaf in jax.tree.leaves(jacobian))

    components = kernel.sizes[0] // len(points)
    with jax.default_matmul_precision("highest"):
        most = min(POINTS, kernel.batch_size or POINTS)
        return jax.lax.map(squared_norms, points, batch_size=max(1, most // components)).ravel()
