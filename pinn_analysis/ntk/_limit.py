"""The kernel of an infinitely wide network: operators applied to Θ in both arguments."""

import contextlib
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.typing import ArrayLike

from pinn_analysis._functions import as_pytree
from pinn_analysis._programs import deduplicated
from pinn_analysis.networks import _limit
from pinn_analysis.ntk import _devices, _lines
from pinn_analysis.ntk._blocks import KernelBlocks, mirror, untrained
from pinn_analysis.operators import Field, Operator, linearize
from pinn_analysis.problems import Problem, check_points
from pinn_analysis.problems._condition import check_operator
from pinn_analysis.problems._core import is_finite
from pinn_analysis.problems._field_shape import Shape, Zero, field_shape, waves

TILE = 128  # Points at most: what belongs to points alone is computed once for each row and column of tiles.

Points = Array | tuple[Array, Array]  # Of one term: places, or places with weights of the derivatives there.


def infinite(
    problem: Problem,
    kernel_fn: Callable | None,
    points: Mapping[str, ArrayLike],
    *,
    field: Field | None = None,
    get: str = "ntk",
) -> KernelBlocks:
    """Kernel ``L_i L'_j Θ(x, x')`` of the PINN in the limit of infinite width, all blocks.

    Every operator is applied to the network's kernel Θ twice, once in each argument; that
    derivatives and the limit commute is proved for one hidden layer and ``u_xx`` in the
    NTK paper (Theorem 4.3), and is measured for more by this package's tests.  Outputs of
    a network with ``m > 1`` are independent in the limit: its kernel is ``Θ(x, x') I``.
    Constants, as of a source inside an operator, have no part in it.

    Args:
        problem: its operators; targets do not matter.
        kernel_fn: ``kernel_fn(x1, x2, get)`` as of neural-tangents, `Network.kernel_fn`.
        points: ``(n_i, d)`` for each condition, converted to float64; over several devices (`shard`), each of
            these makes and keeps rows of its own.
        field: where to linearise the operators, if one is nonlinear.
        get: ``"ntk"``, or ``"nngp"`` for the covariance of the ``L_i u`` of the initial field.

    Returns:
        The kernel; O(n²) times the cost of one derivative of Θ.  With a network of this library it
        is right to rounding, for any activation, or refused.  Equal operators and networks compile
        once, whatever their coefficients, the field's parameters and the points.

    Raises:
        ValueError: x64 is off; there is no ``kernel_fn``; an operator is nonlinear and no
            ``field`` was given; the number of components cannot be found; the variances of the
            preactivations are beyond the reach of the activation's series; the kernel is not
            finite; and see `check_points`.
    """
    points = check_points(problem, points)
    if kernel_fn is None:
        raise ValueError('This network has no infinite-width kernel; `mlp(..., parameterization="ntk")` has one.')
    if not jax.config.jax_enable_x64:
        raise ValueError(
            "Infinite-width kernels need float64, since fourth derivatives of a kernel are noise in float32: "
            'run `jax.config.update("jax_enable_x64", True)` before the first JAX operation.'
        )
    points = {name: x.astype(jnp.float64) for name, x in points.items()}
    if mesh := _devices.mesh_of(points.values()):
        points = _devices.replicated(points, mesh)
    mend = "pass `field=`, any field with that many, such as `lambda x: jnp.zeros(3)`"
    shape = field_shape(problem, points, field, mend=mend)
    operators, orders, places = {}, {}, {}
    for name, condition in problem.conditions.items():
        check_operator(name, condition, field or Zero(shape), _one(points[name]), "`field`")
        operator = as_pytree(condition.operator)
        orders[name] = _order(operator, _one(points[name]), shape, field)
        if field is None:
            affine, linear = _linearity(operator, points[name], shape)
            if not affine:
                raise ValueError(
                    f"The operator of {name!r} is not linear, so its kernel depends on the field: pass `field=`, "
                    "the function `x -> u(x)` to linearise at, such as `functools.partial(network.apply, params)`."
                )
            operators[name] = operator, None if linear else as_pytree(Zero(shape))
        else:
            operators[name] = operator, as_pytree(field)
        # Without the columns of measured data, which are no places.
        places[name] = points[name][:, : -condition.values] if condition.values else points[name]
        terms = _lines.terms(operators[name], points[name], places[name], shape, orders[name])
        if terms is not None:
            operators[name], points[name] = (_lines.Terms(terms[0]), None), (places[name], terms[1])
    names = list(operators)
    variance = _largest_variance(kernel_fn, places, orders)
    kernel_fn = as_pytree(kernel_fn)

    def block(a: str, b: str) -> Array:
        options = {"shape": shape, "orders": (orders[a], orders[b]), "variance": variance, "get": get}
        both = operators[a], operators[b]
        if mesh:
            return _block_by_rows(both, kernel_fn, points[a], points[b], mesh=mesh, **options)
        return _block(both, kernel_fn, points[a], None if a == b else points[b], **options)

    sizes = tuple(_row_count(operators[name], points[name], shape) for name in names)
    if mesh:
        _devices.check_matrix(sizes, sum(sizes), np.dtype(float).itemsize, mesh)
    rows = [[block(a, b) for b in names[: i + 1]] for i, a in enumerate(names)]
    matrix = _devices.assembled(rows, rows=sizes, columns=None, mesh=mesh) if mesh else jax.jit(mirror)(rows)
    if not is_finite(matrix):
        raise ValueError(
            "The kernel is not finite.  Its activations need a positive variance at every point: "
            "use `bias_std > 0`, or keep away from the origin.  An operator that takes the field elsewhere "
            "needs variances there that are not larger than at the points."
        )
    return KernelBlocks(matrix, tuple(names), sizes, untrained(problem))


def _row_count(operator: tuple, points: Points, shape: Shape) -> int:
    first = jax.tree.map(_one, points)
    values = jax.eval_shape(lambda x: jnp.ravel(_lines.linear(*operator)(Zero(shape))(x)), first)
    return values.size * _count(points)


def _one(x: Array) -> jax.ShapeDtypeStruct:
    """What one of the points looks like."""
    return jax.ShapeDtypeStruct(x.shape[1:], x.dtype)


@functools.partial(jax.jit, static_argnames=("mesh", "shape", "orders", "variance", "get"))
def _block_by_rows(
    operators: tuple, kernel_fn: Callable, x_i: Points, x_j: Points, *, mesh: Mesh, **options: Any
) -> Array:
    """`_block`, its rows divided among devices."""
    rows = lambda x, y, operators, kernel_fn: _block(operators, kernel_fn, x, y, **options)
    return _devices.by_rows(mesh, rows, x_i, x_j, operators, kernel_fn)


@functools.partial(jax.jit, static_argnames=("shape", "orders", "variance", "get"))
def _block(
    operators: tuple,
    kernel_fn: Callable,
    x_i: Points,
    x_j: Points | None,
    *,
    shape: Shape,
    orders: tuple[int, int],
    variance: float | None,
    get: str,
) -> Array:
    """``L_i L'_j (Θ(x, x') I)``; ``shape`` is that of a value of the field, ``()`` or ``(m,)``.

    ``operators`` are pairs of an operator and of where to linearise it, or None, and take one of the
    ``x``.  Without ``x_j`` both arguments are at ``x_i``.
    """
    first, second = (_lines.linear(*operator) for operator in operators)
    basis = jnp.eye(math.prod(shape)).reshape(-1, *shape)

    def theta(x: Array, y: Array) -> Array:
        return kernel_fn(x[None], y[None], get).reshape(())

    def columns(x: Array, y: Points) -> Array:
        """``L'_j`` of each column of the kernel, as fields of ``x``: ``(q_j, *shape)``."""
        column = lambda e: jnp.ravel(second(lambda z: theta(x, z) * e)(y))
        return jnp.moveaxis(jax.vmap(column)(basis), 0, -1).reshape(-1, *shape)

    def entry(x: Points, y: Points) -> Array:
        count = jax.eval_shape(second(Zero(shape)), y).size
        both = [jnp.ravel(first(lambda z, q=q: columns(z, y)[q])(x)) for q in range(count)]
        return jnp.stack(both, -1)

    # Tile by tile, so that what is held at once is small, and half of them where the block is symmetric.
    most = TILE if sum(orders) <= 4 else TILE // 2
    tiles_i, tiles_j = (_devices.tiles(x, _tile(_count(x), most)) for x in (x_i, x_i if x_j is None else x_j))
    count_i, count_j = _count(tiles_i), _count(tiles_j)
    ends = [i + 1 if x_j is None else count_j for i in range(count_i)]
    i, j = np.array([(i, j) for i, end in enumerate(ends) for j in range(end)]).T
    # Nested `vmap`s, so that what depends on one point alone is computed once per point.
    of_tile = jax.vmap(jax.vmap(deduplicated(entry), (None, 0)), (0, None))
    expected = contextlib.nullcontext() if variance is None else _limit.expecting(orders, variance)
    with jax.default_matmul_precision("highest"), expected:
        pick = lambda tiles, k: jax.tree.map(lambda x: x[k], tiles)
        tiles = jax.lax.map(lambda ij: of_tile(pick(tiles_i, ij[0]), pick(tiles_j, ij[1])), (i, j))
    whole = jnp.zeros((i.max() + 1, j.max() + 1, *tiles.shape[1:])).at[i, j].set(tiles)
    if x_j is None:
        whole = whole.at[j, i].set(tiles.transpose(0, 2, 1, 4, 3))
    q_i, q_j = tiles.shape[3:]
    matrix = whole.transpose(0, 2, 4, 1, 3, 5).reshape(count_i * tiles.shape[1] * q_i, -1)
    return matrix[: _count(x_i) * q_i, : _count(x_i if x_j is None else x_j) * q_j]


def _count(points: Points) -> int:
    return len(jax.tree.leaves(points)[0])


def _tile(n: int, most: int) -> int:
    """Points per tile: with so many the fewest pairs are worked at, those of the diagonal's upper half among them."""

    def pairs(size: int) -> int:
        count = -(-n // size)
        return count * (count + 1) * size**2

    return min(range(most // 2, most + 1, _limit.ROWS), key=pairs)


def _largest_variance(kernel_fn: Callable, points: Mapping[str, Array], orders: Mapping[str, int]) -> float | None:
    """What the series of the network must reach; None where points are traced, or the kernel is not the library's."""
    if any(isinstance(x, jax.core.Tracer) for x in points.values()):
        return None
    most = max(orders.values())
    with _limit.variances((most, most)) as seen:
        for x in points.values():
            kernel_fn(x, jnp.asarray(np.asarray(x)[:1]), "ntk")
    return _limit.rounded(max(seen)) if seen else None


def _order(operator: Operator, x: jax.ShapeDtypeStruct, shape: Shape, field: Field | None) -> int:
    """How often an operator differentiates its field."""
    most = 0

    @functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
    def probe(k: int, x: Array) -> Array:
        nonlocal most
        most = max(most, k)
        return jnp.full(shape, jnp.sum(x))

    @probe.defjvp
    def _(k: int, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
        return probe(k, *primals), probe(k + 1, *primals) * jnp.sum(tangents[0])

    linear = operator if field is None else linearize(operator, field)
    jax.eval_shape(linear(functools.partial(probe, 0)), x)
    return most


def _linearity(operator: Operator, points: Array, shape: Shape) -> tuple[bool, bool]:
    """Whether ``L(u) - L(0)`` is linear at all points, tested on two sine waves, and whether ``L(0) = 0``."""
    return tuple(bool(answer) for answer in _test_linearity(operator, points, shape))


@functools.partial(jax.jit, static_argnames="shape")
def _test_linearity(operator: Operator, points: Array, shape: Shape) -> tuple[Array, Array]:
    u, v = waves(shape)

    def test(x: Array) -> tuple[Array, Array]:
        # One trace of the operator for all four fields.
        at = lambda ab: operator(lambda y: ab[0] * u(y) + ab[1] * v(y))(x)
        lu, lv, together, zero = jax.vmap(at)(jnp.array([[1.0, 0], [0, 1], [2, -3], [0, 0]]))
        apart = 2 * lu - 3 * lv + 2 * zero
        scale = jnp.abs(lu) + jnp.abs(lv) + jnp.abs(together) + jnp.abs(zero)
        return jnp.all(jnp.abs(together - apart) <= 1e-9 * scale), jnp.all(zero == 0)

    affine, linear = jax.vmap(test)(points)
    return affine.all(), linear.all()
