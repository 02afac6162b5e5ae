"""The problem of a network solved without training, so that a wrong problem and a bad training can be distinguished."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

from pinn_analysis import problems, solving
from pinn_analysis.diagnosis._case import Across, Case, Measured, residuals
from pinn_analysis.networks import Network, linearized
from pinn_analysis.operators import identity
from pinn_analysis.problems import Condition, Problem, faces
from pinn_analysis.solving import _system
from pinn_analysis.solving._features import sines, stretched
from pinn_analysis.solving._linear import over, rms
from pinn_analysis.solving._system import of_field

READINGS = 256  # Of a term of measurements.
FEATURES = {1: 200}  # Parameters, by dimension; MORE in others.
MORE = 500
SCALES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
RESOLVED = 1e-4  # An estimate of the error with which no finer one is tried.


def reference(case: Case, measured: Measured) -> dict[str, Any]:
    """The problem solved without training, twice: fields on the test points, how sure, how far the network is off.

    One hidden layer of sines, linearised, begun at zero and, with other features, at a random field: where the problem
    has one solution, both find it (`solving.least_squares`).  A step of least squares leaves what no term can see as it
    was.  What the network cannot help doing (hard constraints) is made part of the problem.
    """
    problem, points, held_out = with_hard_constraints(case, measured["output"])
    network = features(case)
    first, scale = _finest(problem, network, points, held_out)
    second = _solved(problem, network, points, held_out, scale, 1)
    u, v, here = (of_field(f, case.test) for f in (first.field, second.field, case.field))
    size = max(rms(u), np.finfo(float).tiny)
    found = {
        "estimate": max(first.error_estimate, second.error_estimate), "scale": scale, "size": size, "field": u,
        "disagreement": rms(u - v) / size, "distance": rms(here - u) / size,
        "units": _units(problem, tangent(network, scale, 0), points, case.test), "difference": here - u,
        "residuals": {name: rms(r) for name, r in first.residuals.items()},
    }  # fmt: skip
    if found["estimate"] > 1e-3:
        found["without"] = {
            name: _without(name, problem, network, points, held_out, case.test) for name in case.problem.conditions
        }
    return found


def _finest(problem: Problem, network: Network, points: dict, held_out: dict) -> tuple[solving.Solution, float]:
    """The solution with the smallest estimate, and the scale of its features: no finer one than it takes."""
    best = None
    for scale in SCALES:
        solution = _solved(problem, network, points, held_out, scale, 0)
        if best is None or solution.error_estimate < best[0].error_estimate:
            best = solution, scale
        if best[0].error_estimate < RESOLVED:
            break
    return best


def _without(name: str, problem: Problem, network: Network, points: dict, held_out: dict, x: Array) -> dict[str, float]:
    """Solved without a term, with two seeds: error, disagreement, size at ``x``, and how badly the term is met then.

    With a scale of its own: where terms contradict each other no scale is better than another.
    """
    rest = [other for other in problem.conditions if other != name]
    if not rest:
        return {"estimate": np.inf, "disagreement": np.inf, "residual": np.inf, "size": np.nan}
    fewer = problem.only(*rest)
    chosen, judged = ({other: x[other] for other in rest} for x in (points, held_out))
    one, scale = _finest(fewer, network, chosen, judged)
    two = _solved(fewer, network, chosen, judged, scale, 1)
    u, v = (of_field(f.field, points[name][:, : len(problem.domain[0])]) for f in (one, two))
    r = residuals(problem.only(name), one.field, {name: points[name]})[name]
    return {
        "estimate": max(one.error_estimate, two.error_estimate), "residual": rms(r),
        "disagreement": over(rms(u - v), rms(u)), "size": rms(of_field(one.field, x)),
    }  # fmt: skip


def with_hard_constraints(case: Case, output: Mapping[str, Any]) -> tuple[Problem, dict[str, Array], dict[str, Array]]:
    """The problem, with what the network meets by construction as further terms; points that cover it, twice."""
    conditions, d = dict(case.problem.conditions), len(case.problem.domain[0])
    if len(output["fixed points"]):
        x = jnp.asarray(output["fixed points"])
        u = jax.vmap(case.field)(x)
        conditions["hard constraint"] = problems.data(x, u[:, 0] if u.ndim == 2 and u.shape[1] == 1 else u)
    for axis in output["periodic axes"]:
        low, high = (float(corner[axis]) for corner in case.problem.domain)
        zero = jnp.zeros(2 * max(1, jax.eval_shape(case.field, case.test[0]).size))
        conditions[f"period of axis {axis}"] = Condition(
            Across(np.eye(d)[axis], low, high),
            lambda x, zero=zero: zero,
            faces(*case.problem.domain, (axis, 0)),
        )
    problem = case.problem._replace(conditions=conditions)
    inside = int(1.25 * FEATURES.get(d, MORE)) // _components(case)
    drawn = problem.sample(jax.random.key(11), {name: 4 * inside for name in conditions})
    low, high = case.problem.domain
    points, others = {}, {}
    for name, x in drawn.items():
        spans = np.ptp(np.asarray((x[:, :d] - low) / (high - low)), axis=0) > 1e-9
        dimensions = int(spans.sum())
        share = inside if dimensions == d else max(2, inside // 6) if dimensions else 2 * d
        if problem.conditions[name].values:
            x = jnp.asarray(np.unique(np.asarray(x), axis=0))
            share = len(x) if len(x) <= READINGS else READINGS
            x = jax.random.permutation(jax.random.key(13), x)
        points[name], others[name] = x[:share], x[-share:]
    return problem, points, others


def _components(case: Case) -> int:
    return max(1, jax.eval_shape(case.field, case.test[0]).size)


def features(case: Case) -> Network:
    """Sines, as many as the dimension needs."""
    d, m = len(case.problem.domain[0]), _components(case)
    return sines(case.problem, FEATURES.get(d, MORE) // (d + 1 + m), m)


def tangent(network: Network, scale: float, seed: int) -> Network:
    """Their linearisation at a random start of a scale."""
    return linearized(network, stretched(jax.jit(network.init)(jax.random.key(seed)), scale), centered=True)


def _solved(
    problem: Problem, network: Network, points: dict, held_out: dict, scale: float, seed: int
) -> solving.Solution:
    """Begun at the field that is zero for seed 0, and at a random one for any other."""
    linear = tangent(network, scale, seed)
    flat, unravel = ravel_pytree(linear.init(jax.random.key(0)))
    start = unravel(flat + min(seed, 1) * np.random.default_rng(seed).standard_normal(flat.shape))
    return solving.least_squares(problem, linear, points, params=start, held_out=held_out, steps=15)


def _units(problem: Problem, network: Network, points: dict, x: Array) -> dict[str, float]:
    """Residual of each term for a field of size one that varies as the solution does."""
    params = network.init(jax.random.key(0))
    norm = lambda operator, x: rms(np.linalg.norm(_system.gradients(operator, network.apply, params, x), axis=1))
    one = norm(identity, x[:128])
    return {name: norm(c.operator, points[name]) / one for name, c in problem.conditions.items()}
