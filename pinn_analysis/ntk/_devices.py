"""Kernels over several devices: each computes the rows of its share of the points; ``n`` points, ``d`` inputs.

Points are few numbers, so every device holds all of them, as it holds the parameters.  What is large is divided:
rows of the Jacobian, what a product keeps, the rows of the matrix.  What is exchanged is a sum over the parameters
per product, a vector over the rows, or blocks of a matrix that change their place, never the matrix as a whole.
"""

import functools
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike
from jaxtyping import PyTree

from pinn_analysis.ntk._blocks import mirror

SHARES = 5  # Times what a device keeps of a matrix: what it holds while the matrix is made.


def shard(points: Mapping[str, ArrayLike], mesh: Mesh | None = None) -> dict[str, Array]:
    """Points over several devices: kernels of them are computed there, each device having a share of the rows.

    The same calls then take what one device does not hold.  Products, diagonals and traces take any number of
    points; the rows of a matrix are divided evenly, so their number must be a multiple of that of the devices.

    Args:
        points: ``(n_i, d)`` for each condition.
        mesh: the devices, those of all axes; by default all that JAX sees, of all processes.

    Returns:
        The points on each device.  Points that were placed otherwise over several devices, as by
        ``jax.device_put(x, NamedSharding(mesh, P("points")))``, are taken in the same way.
    """
    mesh = Mesh(np.array(jax.devices()), "points") if mesh is None else mesh
    return {name: jax.device_put(jnp.asarray(x), _everywhere(mesh)) for name, x in points.items()}


def mesh_of(points: Iterable[Array]) -> Mesh | None:
    """The mesh on which points are placed; None if on none, or for points that are not known yet.

    Raises:
        ValueError: two terms are on different meshes.
    """
    meshes = []
    for x in points:
        sharding = None if isinstance(x, jax.core.Tracer) else x.sharding
        if isinstance(sharding, NamedSharding):
            meshes.append(Mesh(sharding.mesh.devices, sharding.mesh.axis_names))  # Its axes as XLA divides them.
    if any(mesh != meshes[0] for mesh in meshes):
        raise ValueError("Points of all terms must be on the same mesh; `ntk.shard(points)` places them so.")
    return meshes[0] if meshes else None


def replicated(tree: PyTree, mesh: Mesh) -> PyTree:
    """The arrays of a pytree on each device."""
    return jax.tree.map(lambda x: jax.device_put(x, _everywhere(mesh)) if isinstance(x, jax.Array) else x, tree)


def by_rows(mesh: Mesh, rows: Callable[..., PyTree], x: PyTree, *rest: PyTree, whole: Callable | None = None) -> PyTree:
    """``rows(x, *rest)``, its first axes those of the points ``x``, each device computing those of its share.

    Where the points are no multiple of the devices, the last one stands for those that lack, and its rows come last.
    ``whole``, `summed` or `gathered`, makes of the shares what all devices have.
    """
    axes, x = PartitionSpec(mesh.axis_names), jax.tree.map(functools.partial(_filled, mesh), x)

    def share(x: PyTree, *rest: PyTree) -> PyTree:
        of_share = rows(x, *rest)
        return whole(of_share, mesh) if whole else of_share

    specs, out = (axes, *(PartitionSpec() for _ in rest)), PartitionSpec() if whole else axes
    # Users' functions need not know over which axes their values vary.
    return jax.shard_map(share, mesh=mesh, in_specs=specs, out_specs=out, check_vma=False)(x, *rest)


def summed(tree: PyTree, mesh: Mesh) -> PyTree:
    """For `by_rows`: the sum over the devices."""
    return jax.lax.psum(tree, mesh.axis_names)


def gathered(tree: PyTree, mesh: Mesh) -> PyTree:
    """For `by_rows`: the rows of all devices, one below the other."""
    return jax.lax.all_gather(tree, mesh.axis_names, tiled=True)


def filled(v: Array, rows: int, mesh: Mesh) -> Array:
    """The part of a vector that belongs to a term with ``rows`` per point, zero where `by_rows` adds points."""
    points = len(v) // rows
    return jnp.pad(v, (0, (-(-points // mesh.size) * mesh.size - points) * rows))


def tiles(x: PyTree, most: int) -> PyTree:
    """Points in groups of at most ``most``, ``(groups, size, ...)``; the last one is filled up with its last point."""

    def of_array(x: Array) -> Array:
        groups = -(-len(x) // most)
        size = -(-len(x) // groups)
        padded = jnp.pad(x, [(0, groups * size - len(x))] + [(0, 0)] * (x.ndim - 1), mode="edge")
        return padded.reshape(groups, size, *x.shape[1:])

    return jax.tree.map(of_array, x)


@functools.partial(jax.jit, static_argnames=("rows", "columns", "mesh"))
def assembled(
    blocks: Sequence[Sequence[Array]], *, rows: tuple[int, ...], columns: tuple[int, ...] | None, mesh: Mesh
) -> Array:
    """The matrix of blocks of so many rows, as `by_rows` leaves them, each device keeping rows of its own.

    Without ``columns`` it is symmetric, and has the blocks on and below its diagonal.
    """
    cut = [[block[:n] for block in line] for line, n in zip(blocks, rows, strict=True)]
    matrix = mirror(cut) if columns is None else jnp.block(cut)
    return jax.lax.with_sharding_constraint(matrix, _layout(sum(rows), mesh))


def check_matrix(rows: tuple[int, ...], columns: int, itemsize: int, mesh: Mesh) -> None:
    """Raise `ValueError` for a matrix that the devices cannot keep by rows."""
    n, count = sum(rows), mesh.size
    _layout(n, mesh)
    share, memory = -(-n // count) * columns * itemsize, device_memory(mesh)
    if SHARES * share > memory:
        fits = math.isqrt(count * memory // (SHARES * itemsize))
        need = -(-SHARES * n * columns * itemsize // memory)
        raise ValueError(
            f"A kernel of {n} x {columns} rows over {count} devices takes {share / 1e9:.3g} GB of each, and "
            f"{SHARES} times that while it is made, of {memory / 1e9:.3g} GB.  About {fits - fits % count} rows would "
            f"fit, or {need} such devices; `ntk.operator` gives products, diagonal and traces without the matrix."
        )


def device_memory(mesh: Mesh) -> int:
    """Bytes of each of the devices; those without memory of their own share that of the machine."""
    here = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    stats = here[0].memory_stats() or {}
    return stats.get("bytes_limit") or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(here)


def _layout(n: int, mesh: Mesh) -> NamedSharding:
    """Where the ``n`` rows of a matrix are; rows that are fewer than the devices are on each."""
    if n < mesh.size:
        return _everywhere(mesh)
    if n % mesh.size:
        fewer = n - n % mesh.size
        raise ValueError(
            f"The {n} rows of this matrix cannot be divided evenly among {mesh.size} devices: take points for {fewer} "
            f"or {fewer + mesh.size} rows in all, or fewer devices, `ntk.shard(points, mesh)`.  Products, diagonal "
            "and traces of `ntk.operator` take any number."
        )
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def _everywhere(mesh: Mesh) -> NamedSharding:
    return NamedSharding(Mesh(mesh.devices, mesh.axis_names), PartitionSpec())


def _filled(mesh: Mesh, x: Array) -> Array:
    """A multiple of the devices: the last point stands for those that lack."""
    return jnp.pad(x, [(0, -len(x) % mesh.size)] + [(0, 0)] * (x.ndim - 1), mode="edge")
