"""The kernel of a finite network as a matrix: how its rows are multiplied out, and in which tiles."""

import dataclasses
import functools
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from pinn_analysis.ntk import _devices, _grams, _rows, _sharded
from pinn_analysis.ntk._rows import JacobianRows

if TYPE_CHECKING:
    from pinn_analysis.ntk._operator import KernelOperator

SMALL = 2**27  # Bytes of a matrix that is made at once, some five times as many being in use meanwhile.


def multiplied_out(
    left: "KernelOperator", right: "KernelOperator | None", method: str, batch_size: int | None
) -> Float[Array, "n m"]:
    """``J J'ᵀ``, or ``J Jᵀ`` without ``right``; options are as of `empirical`.

    Raises:
        ValueError: as `KernelOperator.dense`, but for entries that are not finite.
    """
    if left.mesh or (right is not None and right.mesh):
        return _by_devices(left, right, method, batch_size)
    gram, parts, others = _plan(left, right, method, batch_size)
    matrix = _Matrix(sum(left.sizes), sum((right or left).sizes))
    if right is not None:
        for (i, a), (j, b) in itertools.product(_placed(parts), _placed(others)):
            matrix.put(gram(a, b), i, j)
        return matrix.whole
    for before, (i, a) in enumerate(_placed(parts)):
        matrix.put(_symmetric(gram(a, None)), i, i)
        for j, b in _placed(parts[:before]):
            tile = gram(a, b)
            matrix.put(tile, i, j)
            matrix.put(tile.T, j, i)
    return matrix.whole


def _plan(
    left: "KernelOperator", right: "KernelOperator | None", method: str, batch_size: int | None
) -> tuple[Callable, list[JacobianRows], list[JacobianRows]]:
    """How to multiply rows out, and the parts of both sides to do it with."""
    gram = _gram(method)
    check_batch_size(batch_size)
    batch_size = left.batch_size if batch_size is None else batch_size
    other = left if right is None else right
    n, m, itemsize, memory = sum(left.sizes), sum(other.sizes), _itemsize(left), _memory()
    if 2 * n * m * itemsize > memory:
        raise ValueError(
            f"A kernel of {n} x {m} rows takes {n * m * itemsize / 1e9:.3g} GB, and twice that while it is made, "
            f"of {memory / 1e9:.3g} GB.  `ntk.operator` gives its products, diagonal, traces and single blocks without "
            "it, `spectra.largest_eigenpairs` and `spectra.density` its spectrum, `spectra.krylov_spectrum` what "
            "training does to one vector of residuals; or take fewer points."
        )
    most, tile = _grams.rows_at_a_time(gram, left, right, memory)
    if batch_size is None and n + m <= most and n * m * itemsize <= min(SMALL, memory // 6):
        return gram, [left], [other]
    batch_size = batch_size or max(1, min(most, tile))
    terms = {id(side): [side.only(name) for name in side.names] for side in (left, other)}
    batches = [[batch for term in terms[id(side)] for batch in _batches(term, batch_size)] for side in (left, other)]
    return gram, *batches


def _gram(method: str) -> Callable:
    """How to multiply out rows."""
    ways = {"auto": _grams.gram, "jacobian": _rows.jacobian_gram, "structured": _grams.structured_gram}
    if method not in ways:
        raise ValueError(f'`method` must be "auto", "jacobian" or "structured", got {method!r}.')
    return ways[method]


def _by_devices(
    left: "KernelOperator", right: "KernelOperator | None", method: str, batch_size: int | None
) -> Float[Array, "n m"]:
    """The matrix over several devices."""
    sides = [kernel for kernel in (left, right) if kernel]
    mesh = next(kernel.mesh for kernel in sides if kernel.mesh)
    gram, batch_size = _gram(method), left.batch_size if batch_size is None else batch_size
    check_batch_size(batch_size)
    left, *others = [dataclasses.replace(_devices.replicated(kernel, mesh), mesh=mesh) for kernel in sides]
    right = others[0] if others else None
    most = batch_size or max(1, min(_grams.rows_at_a_time(gram, left, right, _devices.device_memory(mesh))))
    return _sharded.matrix(left, right, gram, most)


class _Matrix:
    """A matrix made of tiles, each written in its place and not kept."""

    def __init__(self, n: int, m: int) -> None:
        self.shape, self.whole = (n, m), None

    def put(self, tile: Float[Array, "k l"], i: int, j: int) -> None:
        """Write a tile whose first entry is ``[i, j]``."""
        if tile.shape == self.shape:
            self.whole = tile
            return
        whole = jnp.zeros(self.shape, tile.dtype) if self.whole is None else self.whole
        self.whole = _written(whole.astype(jnp.promote_types(whole.dtype, tile.dtype)), tile, i, j)


@functools.partial(jax.jit, donate_argnums=0)
def _written(matrix: Float[Array, "n m"], tile: Float[Array, "k l"], i: ArrayLike, j: ArrayLike) -> Float[Array, "n m"]:
    return jax.lax.dynamic_update_slice(matrix, tile.astype(matrix.dtype), (i, j))


@jax.jit
def _symmetric(tile: Float[Array, "n n"]) -> Float[Array, "n n"]:
    return (tile + tile.T) / 2


def _placed(parts: Sequence[JacobianRows]) -> Iterator[tuple[int, JacobianRows]]:
    """Each part with the number of its first row."""
    ends = itertools.accumulate((sum(part.sizes) for part in parts), initial=0)
    return zip(ends, parts, strict=False)


def check_batch_size(batch_size: int | None) -> None:
    """Raise `ValueError` for fewer rows at a time than one."""
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")


def _batches(term: JacobianRows, batch_size: int | None) -> list[JacobianRows]:
    """One term in parts of at most ``batch_size`` rows, and at least a point."""
    (x,), components = term.points, term.sizes[0] // len(term.points[0])
    step = len(x) if batch_size is None else max(1, batch_size // components)
    parts = (x[i : i + step] for i in range(0, len(x), step))
    return [dataclasses.replace(term, points=(part,), sizes=(len(part) * components,)) for part in parts]


def _itemsize(kernel: JacobianRows) -> int:
    return jnp.result_type(*jax.tree.leaves(kernel.params)).itemsize


def _memory() -> int:
    """Bytes of the device that kernels are computed on."""
    stats = jax.local_devices()[0].memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
