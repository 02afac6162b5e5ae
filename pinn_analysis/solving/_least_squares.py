"""Gauss-Newton in least-squares form, of a network or of its linearisation."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import PyTree

from pinn_analysis import _linearized, ntk, problems
from pinn_analysis.networks import Network
from pinn_analysis.operators import identity
from pinn_analysis.problems import Apply, Problem
from pinn_analysis.solving import _linear, _system
from pinn_analysis.solving._solution import Solution

HALVINGS = 12
LEVELS = (0.1, 1.0, 10.0)  # Of the last damping, each tried; the best is taken.
FIRST_DAMPING, LARGEST_DAMPING = 1e-3, 1e6  # Relative to the largest singular value squared.
PATIENCE = 10  # Damped steps that together must lower the residual by a hundredth.


def least_squares(
    problem: Problem,
    network: Network,
    points: Mapping[str, ArrayLike],
    *,
    key: Array | None = None,
    params: PyTree | None = None,
    weights: Mapping[str, float | int] | None = None,
    held_out: Mapping[str, ArrayLike] | None = None,
    steps: int | None = None,
    cut: float | None = None,
    memory: float | int | None = None,
) -> Solution:
    """Solve ``problem`` with ``network`` by Gauss-Newton on the Jacobian of all residual rows.

    Each row is scaled to unit norm at the start, times the root of its term's weight.  Singular values below ``cut`` times
    the largest count as zero.

    - A **linearised** network (`networks.linearized`): the full step of Newton's method in function space, halved until
      the residual falls.  A linear equation takes one step, and a second one that takes off rounding.
    - **Any other** network: Levenberg-Marquardt.  From one SVD come the steps of three dampings, a tenth of the last one,
      itself and ten times it; the one with the lowest residual is taken, and if none lowers it the damping rises.

    A trial step with NaN or infinity is rejected like one that does not improve.  In float64 ten to thirteen digits can be
    had, in float32 (parameters of that type) three to five.

    Args:
        problem: linear or not, with any number of components.
        network: any network; `Solution.params` are its parameters.
        points: ``(n_i, d)`` for each condition, as many rows as the rank needs or more.
        key: for parameters and held-out points; ``jax.random.key(0)`` if not given.
        params: where to start; ``network.init(key)`` if not given.
        weights: of the terms, relative to rows of unit norm; 1 if not given.
        held_out: points to judge by; half as many as ``points``, drawn anew, if not given.
        steps: at most; 30, or 200 for a network that is not linearised.
        cut: relative size of the smallest singular value; five units in the last place if not given.
        memory: bytes to use; half of the machine's if not given.

    Raises:
        ValueError: see `problems.check`; weights that are negative or miss a term; a Jacobian that needs more than
            ``memory``, with the size that fits; residuals that are not finite at the start.
    """
    start_key, held_out_key = jax.random.split(jax.random.key(0) if key is None else key)
    params = network.init(start_key) if params is None else params
    points = problems.check(problem, network.apply, params, points)
    if held_out is None:
        held_out = problem.sample(held_out_key, {name: -(-len(x) // 2) for name, x in points.items()})
    held_out = problems.check(problem, network.apply, params, held_out)
    _system.require_memory(problem, network.apply, params, points, memory or _system.half_of_memory())
    dtype = ravel_pytree(params)[0].dtype
    points, held_out = (jax.tree.map(lambda x: x.astype(dtype), x) for x in (points, held_out))
    cut = _linear.rounding(dtype) if cut is None else cut

    linear = isinstance(network.apply, _linearized._Tangent)
    fit = _fit(problem, network.apply, params, points, weights, cut, linear, steps or (30 if linear else 200))
    residuals, error = _judge(problem, network.apply, fit, held_out, cut)
    return Solution(
        functools.partial(network.apply, fit.params), residuals, error, tuple(fit.history), fit.solve.rank,
        fit.solve.condition, fit.reason, fit.params,
    )  # fmt: skip


class _Fit(NamedTuple):
    params: PyTree
    history: list[float]
    solve: _linear.LeastSquares
    reason: str


def _fit(
    problem: Problem,
    apply: Apply,
    params: PyTree,
    points: Mapping[str, Array],
    weights: Mapping[str, float | int] | None,
    cut: float,
    linear: bool,
    steps: int,
) -> _Fit:
    theta, unravel = ravel_pytree(params)
    theta = np.asarray(theta)
    residual = _system.rows(problem, apply, params, points)
    gradients = _system.jacobian(problem, apply, params, points)
    if not (np.isfinite(residual).all() and np.isfinite(gradients).all()):
        raise ValueError(f"The residuals of {problem.name!r}, or their derivatives, are not finite at the start.")
    scale = _system.row_scales(gradients) * _row_weights(problem, weights, apply, params, points)
    advance = _Newton(theta) if linear else _Damped()
    rounding = np.finfo(theta.dtype).eps

    def at(theta: np.ndarray) -> np.ndarray:
        return scale * _system.rows(problem, apply, unravel(jnp.asarray(theta)), points)

    residual, sketch, reason = scale * residual, None, f"{steps} steps were taken, and the residual was still falling"
    history = [_rms(residual)]
    for step in range(steps):
        if step:
            gradients = _system.jacobian(problem, apply, unravel(jnp.asarray(theta)), points)
        gradients *= scale[:, None]
        solve, trial, after, predicted = advance(theta, gradients, residual, at, cut, sketch)
        sketch = None if solve.basis is None else solve.basis.shape[1]
        if not _rms(after) < history[-1]:
            reason = "no step lowers the residual"
            break
        theta, residual = trial, after
        history.append(_rms(after))
        if history[-1] <= rounding:
            reason = "the residual is rounding"
        elif history[-1] <= 1.1 * predicted + 10 * rounding * history[0]:
            reason = "the step did what least squares predicted, and leaves nothing to another"
        elif step >= PATIENCE and history[-1] > 0.99 * history[-1 - PATIENCE]:
            reason = f"{PATIENCE} steps lowered the residual by less than a hundredth"
        else:
            continue
        break
    return _Fit(unravel(jnp.asarray(theta)), history, solve, reason)


class _Newton:
    """The whole step, halved until the residual falls.

    Least squares is asked for all of the way from the start and not for the step, so that nothing of a field that a
    step has left behind stays in directions that the rows do not see.
    """

    def __init__(self, start: np.ndarray):
        self.start = start

    def __call__(self, theta, gradients, residual, at, cut, sketch):
        way = theta - self.start
        solve = _linear.least_squares(gradients, gradients @ way - residual, cut, sketch=sketch)
        for halvings in range(HALVINGS):
            trial = theta + 0.5**halvings * (solve.x - way)
            after = at(trial)
            if _rms(after) < _rms(residual):
                break
        predicted = _rms(residual + gradients @ (solve.x - way))
        return solve, trial, after, predicted if halvings == 0 else np.nan


class _Damped:
    """Levenberg-Marquardt with the damping of the last step in mind."""

    def __init__(self):
        self.damping = None

    def __call__(self, theta, gradients, residual, at, cut, sketch):
        steps, solve = _damped_steps(gradients, -residual, cut)
        unit = solve.values[0] ** 2
        damping = FIRST_DAMPING if self.damping is None else self.damping
        while damping <= LARGEST_DAMPING:
            tried = []
            for level in LEVELS:
                trial = theta + steps(level * damping * unit)
                tried.append((level * damping, trial, at(trial)))
            level, trial, after = min(tried, key=lambda each: np.nan_to_num(_rms(each[2]), nan=np.inf))
            if _rms(after) < _rms(residual):
                break
            damping *= 100
        self.damping = max(level, cut**2)
        return solve, trial, after, np.nan


def _damped_steps(a: np.ndarray, b: np.ndarray, cut: float) -> tuple[Callable, _linear.LeastSquares]:
    """``μ -> argmin ‖a x - b‖² + μ ‖x‖²``, all from one SVD."""
    if a.shape[0] > a.shape[1]:
        r = scipy.linalg.qr(np.column_stack([a, b]), mode="r", check_finite=False)[0]
        a, b = r[: a.shape[1], :-1], r[: a.shape[1], -1]
    u, s, vt = scipy.linalg.svd(a, full_matrices=False, check_finite=False)
    rank = int((s > cut * s[0]).sum())
    along = u.T @ b

    def step(damping: float) -> np.ndarray:
        return (s[:rank] / (s[:rank] ** 2 + damping) * along[:rank]) @ vt[:rank]

    return step, _linear.LeastSquares(step(0.0), rank, s, None)


def _judge(
    problem: Problem, apply: Apply, fit: _Fit, held_out: Mapping[str, Array], cut: float
) -> tuple[dict[str, Array], float]:
    """Held-out residuals by term, and what they say about the relative error.

    Two parts: the field that would take the held-out residuals away (what the fitted points left open), and those
    residuals themselves, in units of rows (what the network cannot follow).
    """
    by_term = _system.residuals(problem, apply, fit.params, held_out)
    residual = np.concatenate(list(by_term.values()))
    gradients = _system.jacobian(problem, apply, fit.params, held_out)
    scale = _system.row_scales(gradients)
    gradients *= scale[:, None]
    basis = fit.solve.basis
    solve = _linear.least_squares(gradients if basis is None else gradients @ basis, -scale * residual, cut)
    step = solve.x if basis is None else basis @ solve.x
    where = jnp.concatenate(list(held_out.values()))
    u = _system.values(apply, fit.params, where)
    unexplained = _rms(scale * residual) * _unit(apply, fit.params, where)
    correction = _rms(_system.change(apply, fit.params, step, where))
    return by_term, float((correction + unexplained) / max(_rms(u), np.finfo(u.dtype).tiny))


def _unit(apply: Apply, params: PyTree, x: Array) -> float:
    """Root mean square of ``‖∂u(x)/∂θ‖``: the field that a row of unit norm stands for."""
    few = x[:: max(1, len(x) // 200)]
    return _rms(np.linalg.norm(_system.gradients(identity, apply, params, few), axis=1))


def _row_weights(problem, weights, apply, params, points) -> np.ndarray:
    weights = dict.fromkeys(problem.conditions, 1.0) if weights is None else weights
    problems.check_names(problem, weights, "weights")
    problems.check_weights(weights)
    counts = ntk.row_counts(problem, apply, params, points)
    return np.concatenate([np.full(counts[name], np.sqrt(weights[name])) for name in problem.conditions])


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(x))))
