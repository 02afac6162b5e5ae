"""The kernel of an infinitely wide network: operators applied to Θ in both arguments."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike

from pinn_analysis.ntk._blocks import KernelBlocks, mirror, untrained
from pinn_analysis.operators import Field, Operator, linearize
from pinn_analysis.problems import Problem, check_points

TILE = 32  # Points: the sums over a square of this size stay in the cache.


def infinite(
    problem: Problem,
    kernel_fn: Callable | None,
    points: Mapping[str, ArrayLike],
    *,
    field: Field | None = None,
) -> KernelBlocks:
    """Kernel ``L_i L'_j Θ(x, x')`` of the PINN in the limit of infinite width, all blocks.

    Every operator is applied to the network's kernel Θ twice, once in each argument; that
    derivatives and the limit commute is proved for one hidden layer and ``u_xx`` in the
    NTK paper (Theorem 4.3), and is measured for more by this package's tests.  Outputs of
    a network with ``m > 1`` are independent in the limit: its kernel is ``Θ(x, x') I``.

    Args:
        problem: its operators; targets do not matter.
        kernel_fn: ``kernel_fn(x1, x2, "ntk")`` as of neural-tangents, `Network.kernel_fn`.
        points: ``(n_i, d)`` for each condition, computed with in float64.
        field: where to linearise the operators, if one is nonlinear.

    Returns:
        The kernel; O(n²) times the cost of one derivative of Θ.

    Raises:
        ValueError: x64 is off; there is no ``kernel_fn``; an operator is nonlinear and no
            ``field`` was given; the kernel is not finite; and see `check_points`.
    """
    check_points(problem, points)
    if kernel_fn is None:
        raise ValueError('This network has no infinite-width kernel; `mlp(..., parameterization="ntk")` has one.')
    if not jax.config.jax_enable_x64:
        raise ValueError(
            "Infinite-width kernels need float64, since fourth derivatives of a kernel are noise in float32: "
            'run `jax.config.update("jax_enable_x64", True)` before the first JAX operation.'
        )
    points = {name: jnp.asarray(points[name], jnp.float64) for name in problem.conditions}
    some_point = next(iter(points.values()))[0]
    shape = _value_shape(field or problem.solution, some_point)
    operators = {name: condition.operator for name, condition in problem.conditions.items()}
    for name, operator in operators.items():
        if field is None and not _is_linear(operator, points[name], shape):
            raise ValueError(
                f"The operator of {name!r} is not linear, so its kernel depends on the field: pass `field=`, "
                "the function `x -> u(x)` to linearise at, such as `functools.partial(network.apply, params)`."
            )
    names = list(operators)

    def block(a: str, b: str) -> Array:
        both = None if a == b else points[b]
        return _block((operators[a], operators[b]), kernel_fn, field, shape, points[a], both)

    rows = [[block(a, b) for b in names[: i + 1]] for i, a in enumerate(names)]
    matrix = mirror(rows)
    if not isinstance(matrix, jax.core.Tracer) and not jnp.isfinite(matrix).all():
        raise ValueError(
            "The kernel is not finite.  Its activations need a positive variance at every point: "
            "use `bias_std > 0`, or keep away from the origin."
        )
    sizes = tuple(len(row[-1]) for row in rows)
    return KernelBlocks(matrix, tuple(names), sizes, untrained(problem))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _block(
    operators: tuple, kernel_fn: Callable, field: Field | None, shape: tuple, x_i: Array, x_j: Array | None
) -> Array:
    """``L_i L'_j (Θ(x, x') I)``; ``shape`` is that of a value of the field, ``()`` or ``(m,)``.

    Without ``x_j`` both arguments are at ``x_i``.
    """
    if field is not None:
        operators = tuple(linearize(operator, field) for operator in operators)
    basis = jnp.eye(shape[0] if shape else 1).reshape(-1, *shape)

    def theta(x: Array, y: Array) -> Array:
        return kernel_fn(x[None], y[None], "ntk").reshape(())

    def second(x: Array, y: Array) -> Array:
        """``L'_j`` of each column of the kernel, as fields of ``x``: ``(q_j, *shape)``."""
        column = lambda e: jnp.ravel(operators[1](lambda z: theta(x, z) * e)(y))
        return jnp.moveaxis(jax.vmap(column)(basis), 0, -1).reshape(-1, *shape)

    def entry(x: Array, y: Array) -> Array:
        count = jax.eval_shape(operators[1](lambda z: jnp.zeros(shape, z.dtype)), y).size
        both = [jnp.ravel(operators[0](lambda z, q=q: second(z, y)[q])(x)) for q in range(count)]
        return jnp.stack(both, -1)

    # Tile by tile, so that what is held at once is small, and half of them where the block is symmetric.
    tiles_i, tiles_j = _tiles(x_i), _tiles(x_i if x_j is None else x_j)
    ends = [i + 1 if x_j is None else len(tiles_j) for i in range(len(tiles_i))]
    i, j = np.array([(i, j) for i, end in enumerate(ends) for j in range(end)]).T
    # Nested `vmap`s, so that what depends on one point alone is computed once a point.
    of_tile = jax.vmap(jax.vmap(entry, (None, 0)), (0, None))
    with jax.default_matmul_precision("highest"):
        tiles = jax.lax.map(lambda ij: of_tile(tiles_i[ij[0]], tiles_j[ij[1]]), (i, j))
    whole = jnp.zeros((len(tiles_i), len(tiles_j), *tiles.shape[1:])).at[i, j].set(tiles)
    if x_j is None:
        whole = whole.at[j, i].set(tiles.transpose(0, 2, 1, 4, 3))
    q_i, q_j = tiles.shape[3:]
    matrix = whole.transpose(0, 2, 4, 1, 3, 5).reshape(len(tiles_i) * tiles.shape[1] * q_i, -1)
    return matrix[: len(x_i) * q_i, : len(x_i if x_j is None else x_j) * q_j]


def _tiles(x: Array) -> Array:
    """Points in groups of at most `TILE`, ``(groups, size, d)``; the last one is filled up with its last point."""
    groups = -(-len(x) // TILE)
    size = -(-len(x) // groups)
    return jnp.pad(x, ((0, groups * size - len(x)), (0, 0)), mode="edge").reshape(groups, size, -1)


def _value_shape(field: Field | None, x: Array) -> tuple[int, ...]:
    return () if field is None else jax.eval_shape(field, x).shape


def _is_linear(operator: Operator, points: Array, shape: tuple[int, ...]) -> bool:
    """Whether ``L(2u - 3v) = 2 Lu - 3 Lv`` at all points, for two waves that few operators both annul."""
    phase = jnp.arange(np.prod(shape, dtype=int), dtype=points.dtype).reshape(shape)
    frequency = jnp.arange(1.0, points.shape[1] + 1)

    def u(y: Array) -> Array:
        return jnp.sin(frequency @ y + phase + 0.4)

    def v(y: Array) -> Array:
        return jnp.cos(0.7 / frequency @ y - phase)

    def holds(x: Array) -> Array:
        together = operator(lambda y: 2 * u(y) - 3 * v(y))(x)
        apart = 2 * operator(u)(x) - 3 * operator(v)(x)
        scale = jnp.abs(operator(u)(x)) + jnp.abs(operator(v)(x)) + jnp.abs(together)
        return jnp.all(jnp.abs(together - apart) <= 1e-9 * scale)

    return bool(jax.vmap(holds)(points).all())
