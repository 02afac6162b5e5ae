"""Rows multiplied out by the factors of their parts, where that is less work than by the parts.

With ``A_t`` ``(n, v)`` and ``G_t`` ``(n, w)``, the factors of all rows in the part of a matrix (`_layers`), that adds

    Σ_{t,s} (A_t A_sᵀ) ∘ (G_t G_sᵀ)

to the kernel: O(n² (v + w)) operations instead of O(n² v w), and no row.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

from pinn_analysis.ntk import _blocks, _devices, _rows
from pinn_analysis.ntk._layers import Factors, programs, row_parts
from pinn_analysis.ntk._rows import JacobianRows

TILE = 32  # Rows of a tile: what a core keeps near it; and more where there would be more than
TILES = 32  # of them, one after the other.
MEANWHILE = 128  # Numbers in use for an entry of a part of the matrix while it is made, at most.
# What is done beside multiplications, measured in these (`benchmarks/kernels.py --sweep`).
ENTRY = 30  # For an entry of the product of two lanes.
FORMED = 50  # For a number of a row that is formed.


def structured(left: JacobianRows, right: JacobianRows | None) -> frozenset[int]:
    """The parameters that enter all terms by products alone."""
    sides = [left] if right is None else [left, right]
    return frozenset.intersection(*[frozenset(program.products) for side in sides for program in programs(side)])


def worthwhile(left: JacobianRows, right: JacobianRows | None) -> frozenset[int]:
    """Those of them whose part of a block is less work by their factors than by rows.

    For a parameter of shape ``(v, w)``, with ``s`` and ``t`` lanes in all of the ``n`` and ``m`` rows, that is
    ``s t (v + w + ENTRY)`` multiplications by its factors, half as many where both sides are the same, and
    ``(n m + s + t + FORMED (n + m)) v w`` by rows (there ``s`` and ``n`` once).
    """
    sides, leaves = [left] if right is None else [left, right], jax.tree.leaves(left.params)
    found = [programs(side) for side in sides]
    rows = [sum(side.sizes) for side in sides]
    half = (1 + min(1, _tile(rows[0]) / rows[0])) / 2 if right is None else 1

    def pays(leaf: int) -> bool:
        v, w = leaves[leaf].shape
        lanes = [
            sum(n * program.lanes(leaf) for n, program in zip(side.sizes, of_side, strict=True))
            for side, of_side in zip(sides, found, strict=True)
        ]
        by_rows = rows[0] * rows[-1] + sum(lanes) + FORMED * sum(rows)
        return half * lanes[0] * lanes[-1] * (v + w + ENTRY) < by_rows * v * w

    return frozenset(filter(pays, structured(left, right)))


def rows_at_a_time(gram: Callable, left: JacobianRows, right: JacobianRows | None, memory: int) -> tuple[int, int]:
    """How many rows a part of ``memory`` holds with what is kept of them, and how many rows of a tile."""
    leaves = jax.tree.leaves(left.params)
    itemsize, kept = jnp.result_type(*leaves).itemsize, left.parameters()
    if gram is not _rows.jacobian_gram:
        choose = structured if gram is structured_gram else worthwhile
        kept = jax.eval_shape(_kept, left, right, choose=choose).size
    return memory // (8 * max(kept, 1) * itemsize), math.isqrt(memory // (8 * MEANWHILE * itemsize))


@functools.partial(jax.jit, static_argnames="choose")  # So that it is traced once.
def _kept(left: JacobianRows, right: JacobianRows | None, *, choose: Callable) -> Array:
    """As many numbers as a row keeps: what is formed, and factors with what they are made from."""
    leaves, chosen = jax.tree.leaves(left.params), choose(left, right)
    sides = [left] if right is None else [left, right]
    found = [program for side in sides for program in programs(side)]
    lanes = {i: max(program.lanes(i) for program in found) for i in chosen}
    formed = sum(leaf.size for i, leaf in enumerate(leaves) if i not in chosen)
    return jnp.zeros(formed + 2 * sum(lanes[i] * sum(leaves[i].shape) for i in chosen))


@jax.jit
def structured_gram(left: JacobianRows, right: JacobianRows | None) -> Array:
    """``J J'ᵀ`` by the factors of all parameters that have them."""
    return _gram(left, right, structured(left, right))


@jax.jit
def gram(left: JacobianRows, right: JacobianRows | None) -> Array:
    """``J J'ᵀ`` by the factors of the parameters where they are less work than the rows."""
    return _gram(left, right, worthwhile(left, right))


def _gram(left: JacobianRows, right: JacobianRows | None, chosen: frozenset[int]) -> Array:
    if not chosen:
        return _rows.jacobian_gram(left, right)
    with jax.default_matmul_precision("highest"):
        formed_a, factors_a = _all_parts(left, chosen)
        if right is None:
            formed_b = formed_a
            lines = [[*[_rectangle(a, b) for b in factors_a[:i]], _square(a)] for i, a in enumerate(factors_a)]
            matrix = _blocks.mirror(lines)
        else:
            formed_b, factors_b = _all_parts(right, chosen)
            matrix = jnp.block([[_rectangle(a, b) for b in factors_b] for a in factors_a])
        return sum((a @ b.T for a, b in zip(formed_a, formed_b, strict=True)), matrix)


def _all_parts(kernel: JacobianRows, chosen: frozenset[int]) -> tuple[list[Array], list[list[Factors]]]:
    """What is formed of all rows, ``(n, p_i)`` for each parameter; and the factors of each term."""
    formed, factors = [], []
    for program, x, n in zip(programs(kernel), kernel.points, kernel.sizes, strict=True):
        of_points = jax.vmap(row_parts(program, kernel, chosen))(x)
        rows, of_term = jax.tree.map(lambda part, n=n: part.reshape(n, *part.shape[2:]), of_points)
        formed.append([part.reshape(n, -1) for part in rows.values()])
        factors.append(list(of_term.values()))
    return [jnp.concatenate(parts) for parts in zip(*formed, strict=True)], factors


def _square(a: list[Factors]) -> Float[Array, "n n"]:
    """The block of a term with itself, of which half is computed."""
    tiles = _tiles(a)
    pairs = np.array([(i, j) for i in range(len(tiles[0].first)) for j in range(i + 1)])
    block = _placed(tiles, tiles, pairs, len(a[0].first), len(a[0].first))
    return jnp.tril(block) + jnp.tril(block, -1).T


def _rectangle(a: list[Factors], b: list[Factors]) -> Float[Array, "n m"]:
    down, across = _tiles(a), _tiles(b)
    pairs = np.array(list(np.ndindex(len(down[0].first), len(across[0].first))))
    return _placed(down, across, pairs, len(a[0].first), len(b[0].first))


def _tile(rows: int) -> int:
    return max(TILE, -(-rows // TILES))


def _tiles(factors: list[Factors]) -> list[Factors]:
    """``(tiles, t, rows, v)``."""
    tiles = _devices.tiles(factors, _tile(len(factors[0].first)))
    return jax.tree.map(lambda part: part.swapaxes(1, 2), tiles)


def _placed(down: list[Factors], across: list[Factors], pairs: np.ndarray, n: int, m: int) -> Float[Array, "n m"]:
    """The tiles with these numbers, each in its place."""

    def tile(pair: Array) -> Array:
        a, b = (jax.tree.map(lambda part, k=k: part[k], side) for side, k in zip((down, across), pair, strict=True))
        return _block(a, b)

    found = jax.lax.map(tile, jnp.asarray(pairs))
    block = jnp.zeros((len(down[0].first), len(across[0].first), *found.shape[1:]), found.dtype)
    block = block.at[pairs[:, 0], pairs[:, 1]].set(found).swapaxes(1, 2)
    return block.reshape(block.shape[0] * block.shape[1], -1)[:n, :m]


def _block(a: Sequence[Factors], b: Sequence[Factors]) -> Array:
    """``Σ_{t,s} (A_t A_sᵀ) ∘ (B_t B_sᵀ)``, over the parameters."""

    def products(left: Float[Array, "t n v"], right: Float[Array, "s m v"]) -> Float[Array, "t n s m"]:
        return jnp.tensordot(left, right, (2, 2))

    return sum(
        (products(of_a.first, of_b.first) * products(of_a.second, of_b.second)).sum((0, 2))
        for of_a, of_b in zip(a, b, strict=True)
    )


@jax.jit
def diagonal(kernel: JacobianRows) -> Array:
    """Squared norms of the rows of one term, without the rows of parameters whose factors are less work."""
    (program,), leaves = programs(kernel), jax.tree.leaves(kernel.params)
    chosen = frozenset(i for i in program.products if program.lanes(i) * sum(leaves[i].shape) < leaves[i].size)
    if not chosen:
        return _rows.jacobian_diagonal(kernel)
    parts, components = row_parts(program, kernel, chosen), kernel.sizes[0] // len(kernel.points[0])
    formed = sum(leaf.size for i, leaf in enumerate(leaves) if i not in chosen)
    # The fewer numbers of a row are formed, the more rows.
    rows = _rows.POINTS * min(4, kernel.parameters() // max(formed, 1))

    def squared_norms(x: Array) -> Array:
        formed, factors = parts(x)
        norms = [jnp.sum(part.reshape(len(part), -1) ** 2, 1) for part in formed.values()]
        square = lambda side: side @ side.swapaxes(1, 2)
        return sum((square(f.first) * square(f.second)).sum((1, 2)) for f in factors.values()) + sum(norms)

    with jax.default_matmul_precision("highest"):
        most = min(rows, kernel.batch_size or rows)
        return jax.lax.map(squared_norms, kernel.points[0], batch_size=max(1, most // components)).ravel()
