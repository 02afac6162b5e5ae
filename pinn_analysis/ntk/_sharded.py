"""The kernel of a finite network over several devices."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import Mesh
from jaxtyping import Float, PyTree

from pinn_analysis.ntk import _devices, _grams, _rows
from pinn_analysis.ntk._rows import JacobianRows, Passes

if TYPE_CHECKING:
    from pinn_analysis.ntk._operator import KernelOperator


def passes(kernel: JacobianRows) -> Passes:
    """Devices pull back their rows, which are summed, ``p`` numbers; and push forward, each to its rows."""
    mesh, rows = kernel.mesh, _per_point(kernel)

    def pull_share(given: tuple, network: JacobianRows) -> PyTree:
        points, parts = given
        return _rows.passes(_at(network, points, rows)).pull(jnp.concatenate(parts))

    def push_share(points: tuple, network: JacobianRows, direction: PyTree) -> tuple[Array, ...]:
        local = _at(network, points, rows)
        return tuple(local.split(_rows.passes(local).push(direction)).values())

    def pull(v: Float[Array, " n"]) -> PyTree:
        parts = [_devices.filled(part, q, mesh) for part, q in zip(kernel.split(v).values(), rows, strict=True)]
        given = kernel.points, tuple(parts)
        return _devices.by_rows(mesh, pull_share, given, _network(kernel), whole=_devices.summed)

    def push(direction: PyTree) -> Float[Array, " n"]:
        args = kernel.points, _network(kernel), direction
        parts = _devices.by_rows(mesh, push_share, *args, whole=_devices.gathered)
        return jnp.concatenate([part[:n] for part, n in zip(parts, kernel.sizes, strict=True)])

    return Passes(pull, push)


@functools.partial(jax.jit, static_argnames="of_share")
def diagonal(term: JacobianRows, of_share: Callable[[JacobianRows], Array]) -> Array:
    """Squared norms of the rows of one term, as ``of_share`` finds those of a share."""
    rows = lambda points, network: of_share(_at(network, points, _per_point(term)))
    return _devices.by_rows(term.mesh, rows, term.points, _network(term), whole=_devices.gathered)[: term.sizes[0]]


def matrix(left: "KernelOperator", right: "KernelOperator | None", gram: Callable, most: int | None) -> Array:
    """``J J'ᵀ``, or ``J Jᵀ``, each device keeping rows of its own.

    A device multiplies out its rows of one term with the rows of another, ``most`` with ``most`` at a time, or with
    as many as are its share.  It makes the rows of others for itself: they are O(n p) numbers, and made of points,
    which it has, in O(n p) time, against the O(n² p / devices) of the products.

    Raises:
        ValueError: a matrix that the devices cannot keep by rows.
    """
    mesh, other = left.mesh, left if right is None else right
    itemsize = jnp.result_type(*jax.tree.leaves(left.params)).itemsize
    _devices.check_matrix(left.sizes, sum(other.sizes), itemsize, mesh)
    if most is None:
        most = max(1, min(_grams.rows_at_a_time(gram, left, right, _devices.device_memory(mesh))))
    terms, others = ([side.only(name) for name in side.names] for side in (left, other))
    blocks = [
        [_block(a, b, gram=gram, most=most) for b in (others[: i + 1] if right is None else others)]
        for i, a in enumerate(terms)
    ]
    return _devices.assembled(blocks, rows=left.sizes, columns=None if right is None else right.sizes, mesh=mesh)


@functools.partial(jax.jit, static_argnames=("gram", "most"))
def _block(a: JacobianRows, b: JacobianRows, *, gram: Callable, most: int) -> Array:
    """The rows of one term against those of another, divided among the devices."""
    mesh: Mesh = a.mesh
    of_a, of_b = _per_point(a), _per_point(b)
    share = -(-len(b.points[0]) // mesh.size)

    def rows(x: tuple[Array], y: tuple[Array], left: JacobianRows, right: JacobianRows) -> Array:
        def tile(x: Array, y: Array) -> Array:
            return gram(_at(left, (x,), of_a), _at(right, (y,), of_b))

        down, across = (
            _devices.tiles(x[0], max(1, most // of_a[0])),
            _devices.tiles(y[0], min(share, max(1, most // of_b[0]))),
        )
        found = jax.lax.map(lambda x: jax.lax.map(lambda y: tile(x, y), across), down)
        whole = found.swapaxes(1, 2).reshape(found.shape[0] * found.shape[2], -1)
        return whole[: len(x[0]) * of_a[0], : len(y[0]) * of_b[0]]

    return _devices.by_rows(mesh, rows, a.points, b.points, _network(a), _network(b))


def _per_point(kernel: JacobianRows) -> tuple[int, ...]:
    """Rows of each term per point."""
    return tuple(n // len(x) for n, x in zip(kernel.sizes, kernel.points, strict=True))


def _network(kernel: JacobianRows) -> JacobianRows:
    """What every device has of a kernel."""
    return dataclasses.replace(kernel, points=(), sizes=(), mesh=None)


def _at(network: JacobianRows, points: tuple[Array, ...], rows: tuple[int, ...]) -> JacobianRows:
    """The rows at a share of the points, on one device."""
    sizes = tuple(len(x) * q for x, q in zip(points, rows, strict=True))
    return dataclasses.replace(network, points=tuple(points), sizes=sizes)
