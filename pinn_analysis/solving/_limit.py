"""Infinite width, trained for ever: one solve with the kernel.  Shapes: ``n`` rows, ``N`` ingredients at points."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from pinn_analysis import ntk, problems
from pinn_analysis.operators import Operator
from pinn_analysis.problems import Condition, Points, Problem
from pinn_analysis.problems._field_shape import field_shape
from pinn_analysis.solving import _linear, _system
from pinn_analysis.solving._ingredients import Derivative, derivatives, expand, linear_part
from pinn_analysis.solving._linear import relative_to_solution, rms
from pinn_analysis.solving._solution import Solution
from pinn_analysis.weight_rules import trained

HALVINGS = 12
COPIES = 4  # Of the kernel: itself, that of the rows, its eigenvectors, and what finding them takes.


def limit(
    problem: Problem,
    kernel_fn: Callable | None,
    points: Points,
    *,
    components: int | None = None,
    key: Array | None = None,
    held_out: Points | None = None,
    steps: int = 30,
    cut: float | None = None,
    memory: float | int | None = None,
) -> Solution:
    """What an infinitely wide network learns if it is trained for ever, starting from zero.

    That is regression with the kernel: ``u(x) = L'_j Θ(x, x_j) (K⁻¹ y)_j``, the mean of a Gaussian process of
    covariance Θ given the equation at the points.  A nonlinear equation is linearised at the field of the last step
    (Gauss-Newton: Chen, Hosseini, Owhadi, Stuart, 2103.12959); the kernels of the operators that linearisations are
    made of are computed once.

    The kernel has the square of the condition of a Jacobian, so half of the digits of `least_squares` are to be had
    here.

    Args:
        problem: linear or not; nonlinear operators as functions of derivatives at a point.
        kernel_fn: of the network, `Network.kernel_fn`.
        points: ``(n_i, d)`` for each condition.
        components: of the field; found from the problem if not given.
        key: for held-out points; ``jax.random.key(0)`` if not given.
        held_out: points to judge by; a quarter as many as ``points``, drawn anew, if not given.
        steps: at most, of a nonlinear problem.
        cut: eigenvalues below this part of the largest count as zero; five units in the last place if not given.
        memory: bytes to use; half of the machine's if not given.

    Returns:
        The solution, with ``variance``, of the process at a point, scaled to the size that the data show (the
        evidence's), and from it the ``error_estimate``.

    Raises:
        ValueError: as `ntk.infinite`; an operator that is no function of derivatives at a point, or that is not
            finite at the field 0, with the point; a kernel that needs more than ``memory``, with the number of rows
            that fits; see `problems.check` for the rest.
    """
    _linear.check_cut(cut)
    if steps < 1 or (components is not None and components < 1):
        raise ValueError(f"`steps` and `components` must be at least 1, got {steps} and {components}.")
    problem, points = trained(problem, points)
    if components is None:
        found = field_shape(problem, problems.check_points(problem, points), mend="pass `components=`")
        components = math.prod(found)
    shape = () if components == 1 else (components,)
    constant = lambda c, x: jnp.full(shape, c, x.dtype)
    points = _double(problems.check_field(problem, functools.partial(constant, 0.0), points))
    start = jax.jit(lambda points: jax.jvp(problem.rows(constant, points), (0.0,), (1.0,)))(points)
    if not np.isfinite(start).all():
        found = problems.explain_not_finite(problem, constant, jnp.zeros(()), points)
        raise ValueError(f"`limit` starts from the field that is zero, at which something is not finite.  {found}")
    if held_out is None:
        sizes = {name: -(-len(x) // 4) for name, x in points.items()}
        held_out = problem.sample(jax.random.key(0) if key is None else key, sizes)
    held_out = _double(problems.check_points(problem, trained(problem, held_out)[1]))
    terms = [_Term(c, derivatives(c, shape, points[n]), shape, points[n]) for n, c in problem.conditions.items()]
    _require_memory(sum(size for term in terms for _, size in term.ingredients()), memory or _system.half_of_memory())
    gram = _gram(problem, kernel_fn, terms, shape)
    goal = np.concatenate([term.target for term in terms])
    cut = _linear.rounding(gram.dtype) if cut is None else cut

    weights = np.zeros(len(gram))  # Of the ingredients, at their points.
    residual, combination = _linearized(terms, gram @ weights)
    residual, history, reason = residual - goal, [], f"{steps} steps were taken, and the residual was still falling"
    scale = _inverse_root(_diagonal(combination, gram))
    if not scale.any():
        raise ValueError(f"No residual of {problem.name!r} depends on the field: do the operators use it?")
    history.append(rms(scale * residual))
    for _ in range(steps):
        wanted = combination @ (gram @ weights) - residual
        solve = _Inverse(combination @ (combination @ gram).T, cut)
        whole = combination.T @ (solve(wanted))
        for halvings in range(HALVINGS):
            trial = weights + 0.5**halvings * (whole - weights)
            after, there = _linearized(terms, gram @ trial)
            after = after - goal
            if rms(scale * after) < history[-1]:
                break
        else:
            reason = "no step lowers the residual"
            break
        weights, residual, last, combination = trial, after, combination, there
        history.append(rms(scale * after))
        if not any(term.varying for term in terms):
            reason = "the equation is linear: one solve"
            break
        if history[-1] > 0.5 * history[-2]:
            reason = "a step did not halve the residual"
            break
    operators, places, sizes = zip(*[(o, t.points, s) for t in terms for o, s in t.ingredients()], strict=True)
    parts = tuple(jnp.asarray(part) for part in np.split(weights, np.cumsum(sizes)[:-1]))
    rows = _Rows(operators, kernel_fn, shape, places)
    field = _Field(rows, parts)
    size = wanted @ solve(wanted) / len(wanted)  # The scale of the process that makes the data likeliest.
    root = solve.root() @ (last if halvings == 0 else combination).toarray()
    variance = _Variance(rows, jnp.asarray(root), float(size))
    where = jnp.concatenate([jnp.asarray(x)[:, : len(problem.domain[0])] for x in held_out.values()])
    u, var, prior = jax.lax.map(lambda x: (jnp.ravel(field(x)), variance(x), rows.theta(x, x)), where, batch_size=64)
    # What the points leave open, and what they contradict: their misfit, in units of rows.
    error = np.sqrt(np.mean(var)) + history[-1] * np.sqrt(np.mean(prior))
    held_out_residuals = {name: np.asarray(r) for name, r in _residuals(problem, field, held_out).items()}
    if not np.any(u) and any(map(np.any, held_out_residuals.values())):
        error = np.inf  # The points do not show how large the field is.
    return Solution(
        field,
        held_out_residuals,
        relative_to_solution(float(error), rms(np.asarray(u))),
        tuple(history),
        solve.rank,
        solve.condition,
        reason,
        variance=variance,
    )


def _double(points: Points) -> dict[str, Array]:
    return {name: jnp.asarray(x, float) for name, x in points.items()}


@dataclasses.dataclass(frozen=True)
class _Term:
    """A condition at its points, as a linear part and varying derivatives."""

    condition: Condition
    varying: tuple[Derivative, ...]
    shape: tuple[int, ...]
    points: Array

    @property
    def target(self) -> np.ndarray:
        return np.asarray(jax.vmap(lambda x: jnp.ravel(jnp.asarray(self.condition.target(x))))(self.points)).ravel()

    @property
    def rows(self) -> int:
        """Per point."""
        return len(self.target) // len(self.points)

    @property
    def linear(self) -> Operator:
        return linear_part(self.condition, self.varying, self.shape, self.points)

    def ingredients(self) -> list[tuple[Operator, int]]:
        """Linear operators, with the number of rows that each has."""
        n = len(self.points)
        return [(self.linear, n * self.rows), *((each, n) for each in self.varying)]

    def linearized(self, values: np.ndarray) -> tuple[np.ndarray, scipy.sparse.csr_array]:
        """``L(u)`` and the linearisation as a combination of ingredients, where those have these values."""
        n, q, a = len(self.points), self.rows, len(self.varying)
        linear, v = values[: n * q], values[n * q :].reshape(a, n).T
        beyond, slopes = (np.asarray(x) for x in expand(self.condition, self.varying, self.shape)(v, self.points))
        row = np.arange(n * q).reshape(n, q)
        blocks = [scipy.sparse.eye_array(n * q, format="csr")]
        for i in range(a):
            column = np.broadcast_to(np.arange(n)[:, None], (n, q))
            entries = (slopes[:, :, i].ravel(), (row.ravel(), column.ravel()))
            blocks.append(scipy.sparse.csr_array(entries, shape=(n * q, n)))
        return linear + beyond.ravel(), scipy.sparse.hstack(blocks, format="csr")


def _linearized(terms: list[_Term], values: np.ndarray) -> tuple[np.ndarray, scipy.sparse.csr_array]:
    sizes = [sum(size for _, size in term.ingredients()) for term in terms]
    parts = np.split(values, np.cumsum(sizes)[:-1])
    left, blocks = zip(*[term.linearized(part) for term, part in zip(terms, parts, strict=True)], strict=True)
    return np.concatenate(left), scipy.sparse.block_diag(blocks, format="csr")


def _diagonal(combination: scipy.sparse.csr_array, gram: np.ndarray) -> np.ndarray:
    return np.asarray((combination @ gram * combination.toarray()).sum(1))


def _gram(problem: Problem, kernel_fn: Callable | None, terms: list[_Term], shape: tuple) -> np.ndarray:
    """The kernel of all ingredients, ``(N, N)``."""
    conditions, points = {}, {}
    for i, term in enumerate(terms):
        for j, (operator, _) in enumerate(term.ingredients()):
            conditions[f"{i}.{j}"] = term.condition._replace(operator=operator)
            points[f"{i}.{j}"] = term.points
    zero = lambda x: jnp.zeros(shape, x.dtype)  # Tells the number of components; all operators are linear.
    ingredients = problem._replace(conditions=conditions, solution=zero)
    return np.asarray(ntk.infinite(ingredients, kernel_fn, points).matrix)


def _require_memory(n: int, limit: float) -> None:
    need = COPIES * n**2 * np.dtype(float).itemsize
    if need > limit:
        raise ValueError(
            f"The kernel of {n} rows (of the operators' linear ingredients) needs {need / 1e9:.1f} GB, and "
            f"{limit / 1e9:.1f} GB are to be used: take at most {int(n * (limit / need) ** 0.5)} of them, which is "
            f"{(limit / need) ** 0.5:.2g} times as many points, or raise `memory`."
        )


def _residuals(problem: Problem, field: Callable, points: Points) -> dict[str, Array]:
    return {
        name: jax.lax.map(lambda x, c=c: jnp.ravel(c.residual(field)(x)), points[name], batch_size=64).ravel()
        for name, c in problem.conditions.items()
    }


def _inverse_root(x: np.ndarray) -> np.ndarray:
    """``1 / √x``, and 0 for a row that no field changes: where ``x`` is 0."""
    return np.where(x > 0, 1 / np.sqrt(np.where(x > 0, x, 1)), 0)


class _Inverse:
    """``K⁺`` by eigenvalues above a cut, rows scaled to a unit diagonal."""

    def __init__(self, kernel: np.ndarray, cut: float):
        self.scale = _inverse_root(np.diagonal(kernel))
        values, vectors = scipy.linalg.eigh(kernel * self.scale[:, None] * self.scale, check_finite=False)
        kept = values > cut * values[-1]
        self.values, self.vectors = values[kept], vectors[:, kept]

    rank = property(lambda self: len(self.values))
    condition = property(lambda self: float(self.values[-1] / self.values[0]))

    def root(self) -> np.ndarray:
        """``R`` with ``Rᵀ R = K⁺``, ``(rank, n)``."""
        return (self.vectors / np.sqrt(self.values)).T * self.scale

    def __call__(self, b: np.ndarray) -> np.ndarray:
        return self.scale * (self.vectors @ ((self.vectors.T @ (self.scale * b)) / self.values))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Rows:
    """``x -> L'_j Θ(x, x_j)``, of all ingredients at their points."""

    operators: tuple[Operator, ...] = dataclasses.field(metadata={"static": True})
    kernel_fn: Callable = dataclasses.field(metadata={"static": True})
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    points: tuple[Array, ...]

    def theta(self, x: Array, y: Array) -> Array:
        return self.kernel_fn(x[None], y[None], "ntk").reshape(())

    def __call__(self, x: Float[Array, " d"]) -> list[Array]:
        """``(m, N_i)`` for each ingredient, with ``m`` components."""
        basis = jnp.eye(self.shape[0] if self.shape else 1).reshape(-1, *self.shape)

        def of(operator: Operator, e: Array) -> Callable:
            return lambda y: jnp.ravel(operator(lambda z: self.theta(x, z) * e)(y))

        pairs = zip(self.operators, self.points, strict=True)
        return [jnp.stack([jax.vmap(of(operator, e))(points).ravel() for e in basis]) for operator, points in pairs]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Field:
    rows: _Rows
    weights: tuple[Array, ...]

    @jax.jit
    def __call__(self, x: Float[Array, " d"]) -> Array:
        parts = [row @ weight for row, weight in zip(self.rows(x), self.weights, strict=True)]
        return sum(parts).reshape(self.rows.shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Variance:
    """``x -> size (Θ(x, x) - k(x)ᵀ K⁺ k(x))``, ``(m,)``, not below rounding."""

    rows: _Rows
    root: Array
    size: ArrayLike

    @jax.jit
    def __call__(self, x: Float[Array, " d"]) -> Array:
        prior = self.rows.theta(x, x)
        explained = jnp.sum((self.root @ jnp.concatenate(self.rows(x), -1).T) ** 2, 0)
        return self.size * jnp.maximum(prior - explained, jnp.finfo(prior.dtype).eps * prior)
