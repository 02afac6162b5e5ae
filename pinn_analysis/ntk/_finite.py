"""The kernel of a finite network, its trace, and its product with a vector."""

import functools
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PyTree

from pinn_analysis import _neural_tangents
from pinn_analysis.ntk._blocks import KernelBlocks, mirror
from pinn_analysis.operators import Operator
from pinn_analysis.problems import Apply, Problem, check


def empirical(
    problem: Problem,
    apply: Apply,
    params: PyTree,
    points: Mapping[str, ArrayLike],
    *,
    method: str = "auto",
    batch_size: int | None = None,
) -> KernelBlocks:
    """Kernel ``J Jᵀ`` of a finite network at ``params``, all blocks (NTK paper, Lemma 3.1).

    Args:
        problem: its operators give the rows; targets do not matter.
        apply: ``apply(params, x)``, any function of any pytree of floating-point arrays.
        params: the parameters that the rows are derivatives with respect to.
        points: ``(n_i, d)`` for each condition.
        method: ``"jacobian"`` multiplies out the Jacobian: O(n p) memory, O(n² p) time.
            ``"structured"`` uses neural-tangents' structured derivatives, which know the
            rank-one rows of dense layers: O(n² w) a layer of width ``w``, without the
            Jacobian.  ``"auto"`` takes the second where it pays (a matrix among the
            parameters has 100,000 entries or more) and neural-tangents is installed.
        batch_size: rows at a time, to bound the memory at ``2 · batch_size · p`` beside the
            kernel; the Jacobian is computed anew ``n / batch_size`` times.

    Raises:
        ValueError: see `problems.check`.
    """
    points = check(problem, apply, params, points)
    if method not in ("auto", "jacobian", "structured"):
        raise ValueError(f'`method` must be "auto", "jacobian" or "structured", got {method!r}.')
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if method == "auto":
        method = "structured" if _structure_pays(params) else "jacobian"
    terms = {name: (condition.operator, points[name]) for name, condition in problem.conditions.items()}
    if method == "jacobian" and batch_size is None:
        gram, groups = _jacobian_gram, [list(terms.values())]  # All rows at once.
    else:
        gram = _structured_gram if method == "structured" else _jacobian_gram
        groups = [[(operator, part)] for operator, x in terms.values() for part in _parts(x, batch_size)]

    groups = [tuple(zip(*group, strict=True)) for group in groups]  # Operators, and their points.
    rows = [
        [gram(left, right, apply, params, x, None if i == j else y) for j, (right, y) in enumerate(groups[: i + 1])]
        for i, (left, x) in enumerate(groups)
    ]
    return KernelBlocks(mirror(rows), tuple(terms), tuple(row_counts(problem, apply, params, points).values()))


def row_counts(problem: Problem, apply: Apply, params: PyTree, points: Mapping[str, ArrayLike]) -> dict[str, int]:
    """Rows that each term has in the kernel: its points times the components of its operator."""
    return {
        name: len(points[name]) * jax.eval_shape(_outputs(condition.operator, apply, params), points[name][0]).size
        for name, condition in problem.conditions.items()
    }


def traces(problem: Problem, apply: Apply, params: PyTree, points: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """``tr K_ii`` of each term without the kernel: squared norms of the rows, added up.

    O(n p) time, and the memory of 32 rows; for wide networks (as in `empirical`) with
    neural-tangents installed less than a training step on the same points, and no row is
    formed.  Traceable, so it can stand in a training loop.

    Raises:
        ValueError: as `empirical`.
    """
    points = check(problem, apply, params, points)
    trace = _structured_trace if _structure_pays(params) else _jacobian_trace
    return {
        name: trace(condition.operator, apply, params, points[name]) for name, condition in problem.conditions.items()
    }


def matvec(problem: Problem, apply: Apply, params: PyTree, points: Mapping[str, ArrayLike]) -> Callable[[Array], Array]:
    """``v (n,) -> K v``, one reverse and one forward derivative, memory O(n + p).

    Rows are ordered as in `empirical`.

    Raises:
        ValueError: as `empirical`.
    """
    points = check(problem, apply, params, points)

    rows = problem.rows(apply, points)

    def product(v: Float[Array, " n"]) -> Float[Array, " n"]:
        with jax.default_matmul_precision("highest"):
            (cotangent,) = jax.vjp(rows, params)[1](v)
            return jax.jvp(rows, (params,), (cotangent,))[1]

    return product


# How rows are made.  Functions of a problem are static arguments of the jitted functions, so
# that a second kernel of the same problem and network compiles nothing.


def _outputs(operator: Operator, apply: Apply, params: PyTree) -> Callable[[Array], Array]:
    """``x -> L u(x; params)`` as a vector, ``(q,)``."""
    left = operator(functools.partial(apply, params))
    return lambda x: jnp.ravel(left(x))


def _row_gradients(operator: Operator, apply: Apply, params: PyTree) -> Callable[[Array], PyTree]:
    """``x -> ∂L u(x)/∂θ``, leaves ``(q, ...)``.

    One pullback for each of the few components: `jax.jacrev` would map over them, which
    keeps XLA from fusing the outer products and costs six times as much at width 512.
    """

    def gradients(x: Array) -> PyTree:
        value, pullback = jax.vjp(lambda params: _outputs(operator, apply, params)(x), params)
        each = [pullback(e)[0] for e in jnp.eye(value.size, dtype=value.dtype)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)

    return gradients


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _jacobian_gram(
    left: tuple[Operator, ...], right: tuple[Operator, ...], apply: Apply, params: PyTree, x: tuple, y: tuple | None
) -> Array:
    """``J Jᵀ`` of the rows that the operators ``left`` have at ``x`` and ``right`` at ``y``; None: the same."""

    def rows(operators: tuple[Operator, ...], points: tuple) -> list[Array]:
        each = [
            jax.tree.leaves(jax.vmap(_row_gradients(operator, apply, params))(x))
            for operator, x in zip(operators, points, strict=True)
        ]
        return [
            jnp.concatenate([leaf.reshape(leaf.shape[0] * leaf.shape[1], -1) for leaf in leaves])
            for leaves in zip(*each, strict=True)
        ]

    with jax.default_matmul_precision("highest"):
        a = rows(left, x)
        b = a if y is None else rows(right, y)
        return sum(leaf_a @ leaf_b.T for leaf_a, leaf_b in zip(a, b, strict=True))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _structured_gram(
    left: tuple[Operator], right: tuple[Operator], apply: Apply, params: PyTree, x: tuple, y: tuple | None
) -> Array:
    """The same for one operator a side, by neural-tangents' structured derivatives.

    It takes one function of both points; where the operators differ that is both one
    after the other, of which the block in the corner is wanted.
    """
    kernel = _structured_kernel(left if left == right else left + right, apply)
    with jax.default_matmul_precision("highest"):
        block = kernel(x[0], None if y is None else y[0], params)
    q_left, q_right = (jax.eval_shape(_outputs(o, apply, params), x[0][0]).size for o in left + right)
    block = block[:, :, :q_left, -q_right:].swapaxes(1, 2)
    return block.reshape(block.shape[0] * q_left, -1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _structured_trace(operator: Operator, apply: Apply, params: PyTree, x: Array) -> Array:
    kernel = _structured_kernel((operator,), apply)

    def squared_norm(x: Array) -> Array:
        return jnp.trace(kernel(x[None], None, params)[0, 0])

    with jax.default_matmul_precision("highest"):
        return jax.lax.map(squared_norm, x, batch_size=128).sum()


@functools.partial(jax.jit, static_argnums=(0, 1))
def _jacobian_trace(operator: Operator, apply: Apply, params: PyTree, x: Array) -> Array:
    def squared_norm(x: Array) -> Array:
        jacobian = _row_gradients(operator, apply, params)(x)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(jacobian))

    with jax.default_matmul_precision("highest"):
        return jax.lax.map(squared_norm, x, batch_size=32).sum()


def _structure_pays(params: PyTree) -> bool:
    """Whether rows are matrices so large that their rank is worth knowing."""
    return max(leaf.size for leaf in jax.tree.leaves(params)) >= 100_000 and _neural_tangents.installed()


def _structured_kernel(operators: tuple[Operator, ...], apply: Apply) -> Callable:
    """``(x (n, d), y, params) -> (n, m, q, q)``, by neural-tangents' structured derivatives."""
    nt = _neural_tangents.load()

    def batch(params: PyTree, x: Array) -> Array:
        fields = [_outputs(operator, apply, params) for operator in operators]
        return jax.vmap(lambda z: jnp.concatenate([f(z) for f in fields]))(x)

    return nt.empirical_ntk_fn(
        batch, trace_axes=(), vmap_axes=0, implementation=nt.NtkImplementation.STRUCTURED_DERIVATIVES
    )


def _parts(x: ArrayLike, batch_size: int | None) -> Iterator[ArrayLike]:
    step = batch_size or len(x)
    return (x[i : i + step] for i in range(0, len(x), step))
