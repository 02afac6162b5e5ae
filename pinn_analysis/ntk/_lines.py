"""A linear operator at a point as a sum of derivatives along lines, whatever its code; ``d`` inputs, ``n`` points."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pinn_analysis._programs import deduplicated
from pinn_analysis.operators import Field, Operator, linearize

MOST = 70  # Derivatives of an operator that are distinguished: order 4 in four dimensions, 2 in ten.

Shape = tuple[int, ...]


def linear(operator: Operator, field: Field | None) -> Operator:
    return operator if field is None else linearize(operator, field)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Terms:
    """``Σ w[q, k, m] (v_k · ∇)^m u(x)``, of ``x`` with its weights: any operator that stays at a point.

    It calls the field once, along lines, however often the operator that it stands for does.
    """

    directions: Array  # ``(k, d)``.

    def __call__(self, u: Field) -> Callable:
        def at(point: tuple[Array, Array]) -> Array:
            x, weights = point  # ``(q, components, k, m)``.

            def along(v: Array) -> Array:
                derivatives = lambda x: (u(x),)
                for _ in range(weights.shape[-1] - 1):
                    derivatives = deduplicated(functools.partial(_one_more, derivatives, v))
                return jnp.stack(derivatives(x))

            return jnp.einsum("qckm,kmc->q", weights, jax.vmap(along)(self.directions).reshape(*weights.shape[2:], -1))

        return at


def _one_more(derivatives: Callable, v: Array, x: Array) -> tuple:
    values, slopes = jax.jvp(derivatives, (x,), (v,))
    return *values, slopes[-1]


def terms(operator: tuple, points: Array, places: Array, shape: Shape, order: int) -> tuple[Array, Array] | None:
    """Directions and weights of `Terms`; None if the operator takes the field elsewhere, or they are many."""
    d = places.shape[1]
    if isinstance(points, jax.core.Tracer) or math.comb(d + order, order) > MOST:
        return None
    of_monomials = np.asarray(_of_monomials(operator, points, places, shape=shape, order=order))
    if not np.isfinite(of_monomials).all():
        return None
    directions, inverses = _directions(d, order)
    n, q, c, _ = of_monomials.shape
    weights, at = np.zeros((n, q, c, len(directions), order + 1)), 0
    for m, (chosen, inverse) in enumerate(inverses):
        weights[..., chosen, m] = of_monomials[..., at : at + len(inverse)] @ inverse
        at += len(inverse)
    needed = np.flatnonzero(weights.any((0, 1, 2, 4)))
    needed = needed if len(needed) else np.arange(1)
    return jnp.asarray(directions[needed], float), jnp.asarray(weights[..., needed, :])


@functools.partial(jax.jit, static_argnames=("shape", "order"))
def _of_monomials(operator: tuple, points: Array, places: Array, *, shape: Shape, order: int) -> Array:
    """What the operator makes of ``(z - x)^α``, in each component: ``(n, q, components, monomials)``; else NaN."""
    whole, d = linear(*operator), places.shape[1]
    by_degree = [_exponents(d, m) for m in range(order + 1)]
    parents = [[(lower.index(tuple(n - (i == axis) for i, n in enumerate(one))), axis)
                for one in higher for axis in [next(i for i, n in enumerate(one) if n)]]
               for lower, higher in itertools.pairwise(by_degree)]  # fmt: skip

    def at(point: Array, x: Array) -> Array:
        def field(e: Array) -> Field:
            def u(z: Array) -> Array:
                powers = [jnp.where((z == x).all(), 1.0, jnp.nan)[None]]
                for steps in parents:
                    parent, axis = np.array(steps).T
                    powers.append(powers[-1][parent] * (z - x)[axis])
                return jnp.tensordot(e, jnp.concatenate(powers), 1).reshape(shape)

            return u

        basis = jnp.eye(math.prod(shape) * sum(map(len, by_degree)))
        basis = basis.reshape(len(basis), math.prod(shape), -1)
        values = jax.vmap(lambda e: jnp.ravel(whole(field(e))(point)))(basis)
        return values.T.reshape(-1, *basis.shape[1:])

    return jax.vmap(at)(points, places)


def _exponents(d: int, m: int) -> list[tuple[int, ...]]:
    """Of the monomials of degree ``m``."""
    return [tuple(map(one.count, range(d))) for one in itertools.combinations_with_replacement(range(d), m)]


@functools.cache
def _directions(d: int, order: int) -> tuple[np.ndarray, list[tuple[np.ndarray, np.ndarray]]]:
    """Directions along which the derivatives up to ``order`` say all: axes first, then diagonals.

    For each order which of them are needed, and what makes their weights of the values at ``(z - x)^α``.
    """
    grid = [np.array(v) for size in range(1, order + 1) for axes in itertools.combinations(range(d), size)
            for signs in itertools.product([1, -1, 2, -2], repeat=size) if signs[0] > 0 and math.gcd(*signs) == 1
            for v in [np.bincount(axes, signs, d).astype(int)]]  # fmt: skip
    grid = sorted(grid, key=lambda v: (np.abs(v).max(), np.abs(v).sum())) or [np.eye(d, dtype=int)[0]]
    directions: list[np.ndarray] = []
    inverses = []
    for m in range(order + 1):
        exponents, chosen, rows = np.array(_exponents(d, m)).reshape(-1, d), [], []
        multinomials = [math.factorial(m) / math.prod(map(math.factorial, one)) for one in exponents.tolist()]
        for v in directions + grid:
            row = np.prod(v.astype(float) ** exponents, -1) * multinomials
            if len(rows) < len(exponents) and np.linalg.matrix_rank(np.array([*rows, row])) > len(rows):
                at = next((i for i, known in enumerate(directions) if (known == v).all()), len(directions))
                directions += [v] * (at == len(directions))
                chosen.append(at)
                rows.append(row)
        # (v · ∇)^m = Σ_α row_α ∂^α, and the value at (z - x)^α is α! times the coefficient of ∂^α.
        factorials = [float(math.prod(map(math.factorial, one))) for one in exponents.tolist()]
        inverse = np.linalg.inv(np.array(rows)) / np.array(factorials)[:, None]
        inverses.append((np.array(chosen), np.where(np.abs(inverse) < 1e-13, 0, inverse)))
    return np.array(directions), inverses
