"""Rows of Jacobians by layers: where a matrix only multiplies vectors, its part of a row is a sum of outer products.

For ``z_t = a_t W``, ``t`` running over all products with ``W`` in the program of a row (value and derivatives carried
through the layer, other layers that share it), the part is ``Σ_t a_t ⊗ g_t``, ``g_t`` the cotangent of ``z_t``.  With
``A_t`` ``(n, v)`` and ``G_t`` ``(n, w)`` of all rows the layer adds

    Σ_{t,s} (A_t A_sᵀ) ∘ (G_t G_sᵀ)

to the kernel, and no row is formed (Novak, Sohl-Dickstein, Schoenholz, 2206.08720, do it primitive by primitive).
Parameters that enter in any other way have their part of the rows formed, by automatic differentiation.
"""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend import core
from jaxtyping import Float

from pinn_analysis._laplacian import _function
from pinn_analysis._programs import deduplicated
from pinn_analysis.ntk import _blocks, _devices, _rows
from pinn_analysis.ntk._rows import JacobianRows

TILE = 32  # Rows of a tile: what a core keeps near it; and more where there would be more than
TILES = 32  # of them, one after the other.
MEANWHILE = 128  # Numbers in use for an entry of a part of the matrix while it is made, at most.
# What is done beside multiplications, measured in these (`benchmarks/kernels.py --sweep`).
ENTRY = 30  # For an entry of the product of two lanes.
FORMED = 50  # For a number of a row that is formed.


class Product(NamedTuple):
    """One product of a parameter.

    Attributes:
        equation: its number in the program.
        operand: which of the two operands is the parameter.
        axis: of the parameter, the one summed over.
        lanes: number of vectors multiplied.
    """

    equation: int
    operand: int
    axis: int
    lanes: int


class Factors(NamedTuple):
    """Outer products ``Σ_t a_t ⊗ b_t`` of rows, along the first and the second axis of a parameter."""

    first: Float[Array, "*rows t v"]
    second: Float[Array, "*rows t w"]


class Program(NamedTuple):
    """One point of a term: every operation once.

    Attributes:
        closed: from the leaves of the parameters and a point.
        products: of each parameter that enters by products with vectors alone.
    """

    closed: core.ClosedJaxpr
    products: dict[int, list[Product]]

    def lanes(self, leaf: int) -> int:
        return sum(product.lanes for product in self.products[leaf])


def programs(kernel: JacobianRows) -> list[Program]:
    """Of the terms of a kernel."""
    return [_program(kernel, i) for i in range(len(kernel.points))]


def _program(kernel: JacobianRows, i: int) -> Program:
    leaves, tree = jax.tree.flatten(kernel.params)

    def row(leaves: list[Array], x: Array) -> Array:
        return _rows.outputs(kernel.operators[i], kernel.apply, jax.tree.unflatten(tree, leaves))(x)

    point = jax.ShapeDtypeStruct(kernel.points[i].shape[1:], kernel.points[i].dtype)
    closed = jax.make_jaxpr(deduplicated(row))(leaves, point)
    return Program(closed, _products(closed.jaxpr, len(leaves)))


def _products(jaxpr: core.Jaxpr, leaves: int) -> dict[int, list[Product]]:
    # The matrices that are a parameter but for a transposition and a constant (`networks.linearized`).
    matrices = {var: (i, (0, 1)) for i, var in enumerate(jaxpr.invars[:leaves]) if len(_shape(var)) == 2}
    products: dict[int, list[Product]] = {i: [] for i, _ in matrices.values()}
    otherwise = set()
    for number, eqn in enumerate(jaxpr.eqns):
        for operand, atom in enumerate(eqn.invars):
            if isinstance(atom, core.Literal) or atom not in matrices:
                continue
            leaf, axes = matrices[atom]
            if eqn.primitive.name == "transpose":
                matrices[eqn.outvars[0]] = leaf, tuple(axes[k] for k in eqn.params["permutation"])
            elif eqn.primitive.name == "sub" and operand == 0 and any(eqn.invars[1] is c for c in jaxpr.constvars):
                matrices[eqn.outvars[0]] = matrices[atom]
            elif (axis := _summed_over(eqn, operand)) is not None:
                lanes = math.prod(_shape(eqn.outvars[0])) // _shape(atom)[1 - axis]
                products[leaf].append(Product(number, operand, axes[axis], lanes))
            else:
                otherwise.add(leaf)
    return {leaf: found for leaf, found in products.items() if leaf not in otherwise}


def _shape(atom: core.Var) -> tuple[int, ...]:
    return getattr(atom.aval, "shape", ())


def _summed_over(eqn: core.JaxprEqn, operand: int) -> int | None:
    """The axis of a matrix that its product with vectors sums over, if the equation is such a product."""
    if eqn.primitive.name != "dot_general":
        return None
    contracted, batched = eqn.params["dimension_numbers"]
    return contracted[operand][0] if len(contracted[operand]) == 1 and not batched[operand] else None


def row_parts(
    program: Program, kernel: JacobianRows, chosen: frozenset[int]
) -> Callable[[Array], tuple[dict[int, Array], dict[int, Factors]]]:
    """``x -> `` the parts of the rows at a point: those formed, ``(q, ...)``, and the factors of the ``chosen``."""
    leaves = dict(enumerate(jax.tree.leaves(kernel.params)))
    variables = {number: program.closed.jaxpr.eqns[number].outvars[0].aval for number in _numbers(program, chosen)}

    def parts(x: Array) -> tuple[dict[int, Array], dict[int, Factors]]:
        shifts = {number: jnp.zeros(aval.shape, aval.dtype) for number, aval in variables.items()}
        formed = {i: leaf for i, leaf in leaves.items() if i not in chosen}
        run = lambda shifts, formed: _run(program, leaves | formed, x, shifts)
        value, pullback, operands = jax.vjp(run, shifts, formed, has_aux=True)

        def part(e: Array) -> tuple[dict[int, Array], dict[int, Factors]]:
            cotangents, gradients = pullback(e)
            return gradients, {i: _factors(program, i, operands, cotangents, leaves[i]) for i in chosen}

        return _rows.for_each_component(part, value)

    return parts


def _numbers(program: Program, chosen: frozenset[int]) -> set[int]:
    return {product.equation for leaf in chosen for product in program.products[leaf]}


def _run(
    program: Program, leaves: Mapping[int, Array], x: Array, shifts: Mapping[int, Array]
) -> tuple[Array, dict[int, Sequence[Array]]]:
    """The value, with ``shifts`` added to the results of equations; and the operands of these."""
    jaxpr, operands = program.closed.jaxpr, {}
    known = dict(zip(jaxpr.constvars, program.closed.consts, strict=True))
    known |= dict(zip(jaxpr.invars, [*leaves.values(), x], strict=True))
    read = lambda atom: atom.val if isinstance(atom, core.Literal) else known[atom]
    for number, eqn in enumerate(jaxpr.eqns):
        values = [read(atom) for atom in eqn.invars]
        outputs = _function(eqn)(*values)
        if number in shifts:
            operands[number], outputs = values, [outputs[0] + shifts[number]]
        known |= dict(zip(eqn.outvars, outputs, strict=True))
    (out,) = jaxpr.outvars
    return read(out), operands


def _factors(
    program: Program,
    leaf: int,
    operands: Mapping[int, Sequence[Array]],
    cotangents: Mapping[int, Array],
    like: Array,
) -> Factors:
    """Vectors that a parameter multiplies, and cotangents of the results, one below the other."""
    sides = [[jnp.zeros((0, size), like.dtype)] for size in like.shape]
    for number, operand, axis, lanes in program.products[leaf]:
        contracted = program.closed.jaxpr.eqns[number].params["dimension_numbers"][0]
        multiplied = jnp.moveaxis(operands[number][1 - operand], contracted[1 - operand][0], -1)
        result = cotangents[number].reshape((lanes, -1) if operand == 1 else (-1, lanes))
        sides[axis].append(multiplied.reshape(lanes, -1))
        sides[1 - axis].append(result if operand == 1 else result.T)
    return Factors(*map(jnp.concatenate, sides))


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
    """As many numbers as a row of the first side keeps: what is formed, and factors with what they are made from."""
    leaves, chosen = jax.tree.leaves(left.params), choose(left, right)
    lanes = {i: max(program.lanes(i) for program in programs(left)) for i in chosen}
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
    parts = row_parts(program, kernel, chosen)

    def squared_norms(x: Array) -> Array:
        formed, factors = parts(x)
        rows = [jnp.sum(part.reshape(len(part), -1) ** 2, 1) for part in formed.values()]
        square = lambda side: side @ side.swapaxes(1, 2)
        return sum((square(f.first) * square(f.second)).sum((1, 2)) for f in factors.values()) + sum(rows)

    with jax.default_matmul_precision("highest"):
        most = min(4 * _rows.POINTS, kernel.batch_size or 4 * _rows.POINTS)
        return jax.lax.map(squared_norms, kernel.points[0], batch_size=most).ravel()
