"""Rows of Jacobians by layers: where a matrix only multiplies vectors, its part of a row is a sum of outer products.

For ``z_t = a_t W``, ``t`` running over all products with ``W`` in the program of a row (value and derivatives carried
through the layer, other layers that share it), the part is ``Σ_t a_t ⊗ g_t``, ``g_t`` the cotangent of ``z_t``
(Novak, Sohl-Dickstein, Schoenholz, 2206.08720, find it primitive by primitive).  Parameters that enter in any other
way have their part of the rows formed, by automatic differentiation.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.extend import core
from jaxtyping import Float

from pinn_analysis._laplacian import _function
from pinn_analysis._programs import deduplicated
from pinn_analysis.ntk import _rows
from pinn_analysis.ntk._rows import JacobianRows


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
    """One for each term of a kernel."""
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
