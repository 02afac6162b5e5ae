"""The kernel of a finite network, its trace, and its product with a vector."""

import functools
from collections.abc import Callable, Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PyTree

from pinn_analysis import _neural_tangents
from pinn_analysis.ntk._blocks import KernelBlocks, mirror
from pinn_analysis.operators import Operator
from pinn_analysis.problems import Problem, check_points

Apply = Callable[[PyTree, Array], Array]


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
            kernel; the Jacobian is computed anew ``n / (2 · batch_size)`` times.

    Raises:
        ValueError: see `check_points`; parameters that are not floating-point or not finite.
    """
    check_points(problem, points)
    _check_params(params)
    if method not in ("auto", "jacobian", "structured"):
        raise ValueError(f'`method` must be "auto", "jacobian" or "structured", got {method!r}.')
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1, got {batch_size}.")
    if method == "auto":
        wide = max(leaf.size for leaf in jax.tree.leaves(params)) >= 100_000
        method = "structured" if wide and _neural_tangents.installed() else "jacobian"
    gram = _structured_gram if method == "structured" else _jacobian_gram

    chunks = [
        (name, condition.operator, x)
        for name, condition in problem.conditions.items()
        for x in _chunks(points[name], batch_size)
    ]
    rows, sizes = [], dict.fromkeys(problem.conditions, 0)
    for i, (name, operator, x) in enumerate(chunks):
        rows.append([gram((operator, other), apply, params, x, y) for _, other, y in chunks[: i + 1]])
        sizes[name] += len(rows[i][i])
    return KernelBlocks(mirror(rows), tuple(sizes), tuple(sizes.values()))


def traces(problem: Problem, apply: Apply, params: PyTree, points: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """``tr K_ii`` of each term without the kernel: squared norms of the rows, added up.

    O(n p) time, and the memory of a few rows.  Traceable, so it can stand in a training loop.

    Raises:
        ValueError: as `empirical`.
    """
    check_points(problem, points)
    _check_params(params)
    return {
        name: _trace(condition.operator, apply, params, points[name]) for name, condition in problem.conditions.items()
    }


def matvec(problem: Problem, apply: Apply, params: PyTree, points: Mapping[str, ArrayLike]) -> Callable[[Array], Array]:
    """``v (n,) -> K v``, one reverse and one forward derivative, memory O(n + p).

    Rows are ordered as in `empirical`.

    Raises:
        ValueError: as `empirical`.
    """
    check_points(problem, points)
    _check_params(params)

    def rows(params: PyTree) -> Float[Array, " n"]:
        return jnp.concatenate(
            [
                jax.vmap(_outputs(condition.operator, apply, params))(points[name]).ravel()
                for name, condition in problem.conditions.items()
            ]
        )

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


@functools.partial(jax.jit, static_argnums=(0, 1))
def _jacobian_gram(operators: tuple, apply: Apply, params: PyTree, x_i: Array, x_j: Array) -> Array:
    """``J_i J_jᵀ`` of ``n_i q_i`` and ``n_j q_j`` rows, leaf by leaf."""

    def rows(operator: Operator, x: Array) -> list[Array]:
        def output(params: PyTree, x: Array) -> Array:
            return _outputs(operator, apply, params)(x)

        jacobian = jax.vmap(jax.jacrev(output), (None, 0))(params, x)
        return [leaf.reshape(leaf.shape[0] * leaf.shape[1], -1) for leaf in jax.tree.leaves(jacobian)]

    with jax.default_matmul_precision("highest"):
        pairs = zip(rows(operators[0], x_i), rows(operators[1], x_j), strict=True)
        return sum(a @ b.T for a, b in pairs)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _structured_gram(operators: tuple, apply: Apply, params: PyTree, x_i: Array, x_j: Array) -> Array:
    """The same by neural-tangents' structured derivatives.

    It takes one function of both points; where the operators differ that is both one
    after the other, of which the block in the corner is wanted.
    """
    nt = _neural_tangents.load()
    distinct = operators[:1] if operators[0] is operators[1] else operators

    def batch(params: PyTree, x: Array) -> Array:
        fields = [_outputs(operator, apply, params) for operator in distinct]
        return jax.vmap(lambda y: jnp.concatenate([f(y) for f in fields]))(x)

    kernel = nt.empirical_ntk_fn(
        batch, trace_axes=(), vmap_axes=0, implementation=nt.NtkImplementation.STRUCTURED_DERIVATIVES
    )
    with jax.default_matmul_precision("highest"):
        block = kernel(x_i, x_j, params)
    q_i, q_j = (jax.eval_shape(_outputs(o, apply, params), x_i[0]).size for o in operators)
    block = block[:, :, :q_i, -q_j:]
    return block.swapaxes(1, 2).reshape(len(x_i) * q_i, len(x_j) * q_j)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _trace(operator: Operator, apply: Apply, params: PyTree, x: Array) -> Array:
    def squared_norm(x: Array) -> Array:
        jacobian = jax.jacrev(lambda params: _outputs(operator, apply, params)(x))(params)
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(jacobian))

    with jax.default_matmul_precision("highest"):
        return jax.lax.map(squared_norm, x, batch_size=32).sum()


def _chunks(x: Array, batch_size: int | None) -> Iterator[Array]:
    step = batch_size or len(x)
    return (x[i : i + step] for i in range(0, len(x), step))


def _check_params(params: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        if not jnp.issubdtype(getattr(leaf, "dtype", None), jnp.floating):
            raise ValueError(
                f"Parameters must be floating-point arrays, but params{name} is {leaf!r:.60}; "
                "keep the rest out of them (`equinox.partition`, or a closure around `apply`)."
            )
        if not isinstance(leaf, jax.core.Tracer) and not np.isfinite(leaf).all():
            raise ValueError(f"params{name} contains NaN or infinity: the run that made them diverged.")
