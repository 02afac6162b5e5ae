"""Gauss-Newton in least-squares form, of a network or of its linearisation."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from pinn_analysis import ntk, problems
from pinn_analysis.networks import Network, _linearized
from pinn_analysis.networks._core import check_network
from pinn_analysis.operators import identity
from pinn_analysis.problems import Apply, Points, Problem
from pinn_analysis.solving import _linear, _system
from pinn_analysis.solving._linear import relative_to_solution, rms
from pinn_analysis.solving._solution import Solution
from pinn_analysis.solving._steps import LevenbergMarquardt, Newton
from pinn_analysis.weight_rules import trained

FEW = 64  # Held-out points of a term that has no more.
LINEAR = 1e-9  # Of the residual before: a step that misses its prediction by less has nothing left to do.
PATIENCE = 10  # Damped steps that together must lower the residual by a hundredth.


def least_squares(
    problem: Problem,
    network: Network,
    points: Points,
    *,
    key: Array | None = None,
    params: PyTree | None = None,
    weights: Mapping[str, float | int] | None = None,
    held_out: Points | None = None,
    steps: int | None = None,
    cut: float | None = None,
    memory: float | int | None = None,
) -> Solution:
    """Solve ``problem`` with ``network`` by Gauss-Newton on the Jacobian of all residual rows.

    Each row is scaled to unit norm at the start, times the root of its term's weight.  Singular values below ``cut``
    times the largest count as zero.

    - A **linearised** network (`networks.linearized`): the full step of Newton's method in function space, halved until
      the residual falls.  A linear equation takes one step, and a second one where that takes off rounding.
    - **Any other** network: Levenberg-Marquardt with Marquardt's scaling, the damping divided by 3 after a good step
      and doubled after a bad one, and geodesic acceleration (Transtrum, Sethna, 1201.5885), without which it crawls
      along the narrow valleys that networks have.

    A trial step with NaN or infinity is rejected like one that does not improve.  In float64 ten to thirteen digits can
    be had, in float32 (parameters of that type, or of half precision) three to five.

    Args:
        problem: linear or not, with any number of components.
        network: any network; `Solution.params` are its parameters.
        points: ``(n_i, d)`` for each condition, as many rows as the rank needs or more.
        key: for parameters and held-out points; ``jax.random.key(0)`` if not given.
        params: where to start; ``network.init(key)`` if not given.
        weights: of the terms, relative to rows of unit norm; 1 if not given.
        held_out: points to judge by; half as many as ``points``, or as many up to 64, drawn anew, if not given.
        steps: at most; 30, or 200 for a network that is not linearised.
        cut: relative size of the smallest singular value; five units in the last place if not given.
        memory: bytes to use; half of the machine's if not given.

    Raises:
        ValueError: see `problems.check`; ``steps`` below 1; a ``cut`` outside [0, 1); weights that are negative or
            miss a term; a Jacobian that needs more than ``memory``, with the size that fits; residuals that are not
            finite at the start, with the point; no parameter that changes a residual.
    """
    if steps is not None and steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}.")
    keys = jax.random.split(jax.random.key(0) if key is None else key)
    problem, params, points, held_out, cut = prepared(problem, network, points, keys, params, held_out, cut)
    limit = _system.half_of_memory() if memory is None else memory
    _system.require_memory(problem, network.apply, params, points, float(limit))

    linear = isinstance(network.apply, _linearized._Tangent)
    fit = _fit(problem, network.apply, params, points, weights, cut, linear, steps or (30 if linear else 200))
    residuals, error = _judge(problem, network.apply, fit, held_out, weights, cut)
    return Solution(
        functools.partial(network.apply, fit.params), residuals, error, tuple(fit.history), fit.solve.rank,
        fit.solve.condition, fit.reason, fit.params,
    )  # fmt: skip


def prepared(
    problem: Problem,
    network: Network,
    points: Points,
    keys: Array,
    params: PyTree | None,
    held_out: Points | None,
    cut: float | None,
) -> tuple[Problem, PyTree, dict[str, Array], dict[str, Array], float]:
    """The trained problem, where to start, the points and held-out ones, checked and of one precision, and the cut."""
    _linear.check_cut(cut)
    check_network(network)
    params = network.init(keys[0]) if params is None else params
    problem, points = trained(problem, points)
    points = problems.check(problem, network.apply, params, points)
    if held_out is None:
        held_out = problem.sample(keys[1], {name: held_out_size(len(x)) for name, x in points.items()})
    held_out = problems.check(problem, network.apply, params, trained(problem, held_out)[1])
    params = problems.at_least_single(params)
    dtype = ravel_pytree(params)[0].dtype
    points, held_out = (jax.tree.map(lambda x: x.astype(dtype), x) for x in (points, held_out))
    return problem, params, points, held_out, _linear.rounding(dtype) if cut is None else cut


def held_out_size(n: int) -> int:
    """How many points judge ``n`` fitted ones."""
    return max(min(n, FEW), n // 2)


class _Fit(NamedTuple):
    params: PyTree
    history: list[float]
    solve: _linear.LeastSquares
    reason: str
    gradients: np.ndarray  # Of the last step, scaled.
    residual: np.ndarray  # At the end, scaled.


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
        found = problems.explain_not_finite(problem, apply, params, points)
        raise ValueError(
            f"The residuals of {problem.name!r}, or their derivatives, are not finite at the start.  {found}"
        )
    if not gradients.any():
        raise ValueError(
            f"No parameter changes any residual of {problem.name!r}: all derivatives are zero at the start.  Does the "
            "operator use its field, and the network its parameters?"
        )
    scale = _system.row_scales(gradients) * row_weights(problem, weights, apply, params, points).astype(theta.dtype)
    advance = Newton(theta) if linear else LevenbergMarquardt()
    rounding = np.finfo(theta.dtype).eps

    def at(theta: np.ndarray) -> np.ndarray:
        return scale * _system.rows(problem, apply, unravel(jnp.asarray(theta)), points)

    def bend(theta: np.ndarray, direction: np.ndarray) -> np.ndarray:
        return scale * _system.second_derivative(problem, apply, unravel(jnp.asarray(theta)), direction, points)

    residual, reason = scale * residual, f"{steps} steps were taken, and the residual was still falling"
    history = [rms(residual)]
    for step in range(steps):
        if step:
            gradients = _system.jacobian(problem, apply, unravel(jnp.asarray(theta)), points)
        gradients *= scale[:, None]
        solve, trial, after, predicted, whole = advance(theta, gradients, residual, at, bend, cut)
        if not rms(after) < history[-1]:
            reason = "no step lowers the residual"
            break
        theta, residual = trial, after
        history.append(rms(after))
        if history[-1] <= rounding:
            reason = "the residual is rounding"
        elif rms(predicted) > 0.5 * history[-2] or (whole and rms(after - predicted) <= LINEAR * history[-2]):
            reason = "what is left is beyond the network, and no further step would halve it"
        elif step >= PATIENCE and history[-1] > 0.99 * history[-1 - PATIENCE]:
            reason = f"{PATIENCE} steps lowered the residual by less than a hundredth"
        else:
            continue
        break
    return _Fit(unravel(jnp.asarray(theta)), history, solve, reason, gradients, residual)


def _judge(
    problem: Problem, apply: Apply, fit: _Fit, held_out: Mapping[str, Array], weights: Mapping | None, cut: float
) -> tuple[dict[str, np.ndarray], float]:
    residual = _system.rows(problem, apply, fit.params, held_out)
    gradients = _system.jacobian(problem, apply, fit.params, held_out)
    unit = _system.row_scales(gradients)
    scale = unit * row_weights(problem, weights, apply, fit.params, held_out).astype(unit.dtype)
    gradients *= scale[:, None]
    both, wanted = np.concatenate([fit.gradients, gradients]), -np.concatenate([fit.residual, scale * residual])
    return judged(problem, apply, fit.params, held_out, unit, _linear.least_squares(both, wanted, cut).x)


def judged(
    problem: Problem, apply: Apply, params: PyTree, held_out: Mapping[str, Array], unit: np.ndarray, step: np.ndarray
) -> tuple[dict[str, np.ndarray], float]:
    """Held-out residuals by term, and what they say about the relative error.

    Two parts: by how much the field moves if the held-out points are fitted too, by a ``step`` of the parameters (what
    the fitted ones left open), and the held-out residuals themselves, in units of rows (what the network cannot
    follow).  ``unit`` makes the norm of each row 1, whatever its weight.
    """
    by_term = _system.residuals(problem, apply, params, held_out)
    ends = np.cumsum([len(r) for r in by_term.values()])
    scaled = np.split(unit * np.concatenate(list(by_term.values())), ends[:-1])
    where = jnp.concatenate([x[:, : len(problem.domain[0])] for x in held_out.values()])  # Without measured values.
    few = where[:: max(1, len(where) // 200)]
    # The field that a row of unit norm stands for.
    of_row = rms(np.linalg.norm(_system.gradients(identity, apply, params, few), axis=1))
    # Term by term, so that two ends are not lost among a thousand points inside.
    unexplained = np.linalg.norm([rms(part) for part in scaled]) * of_row
    correction = rms(_system.change(apply, params, step, where))
    return by_term, relative_to_solution(correction + unexplained, rms(_system.values(apply, params, where)))


def row_weights(
    problem: Problem,
    weights: Mapping[str, float | int] | None,
    apply: Apply,
    params: PyTree,
    points: Mapping[str, Array],
) -> np.ndarray:
    """The root of the weight of each row's term, ``(n,)``."""
    weights = dict.fromkeys(problem.conditions, 1.0) if weights is None else weights
    problems.check_names(problem, weights, "weights")
    problems.check_weights(weights)
    roots = {name: np.sqrt(weight) for name, weight in weights.items()}
    return np.asarray(ntk.operator(problem, apply, params, points).repeat(roots))
