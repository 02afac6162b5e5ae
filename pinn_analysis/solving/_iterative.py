"""Least squares of a linearised network whose Jacobian no memory holds: LSMR, preconditioned by some of its rows."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse.linalg
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from pinn_analysis import ntk, problems
from pinn_analysis.networks import Network, _linearized
from pinn_analysis.ntk import _rows
from pinn_analysis.problems import Apply, Points, Problem
from pinn_analysis.solving import _system
from pinn_analysis.solving._least_squares import judged, prepared, row_weights
from pinn_analysis.solving._linear import rms
from pinn_analysis.solving._solution import Solution

COPIES = 4  # Of the sampled rows: themselves, and the factors of their decomposition.
HALVINGS = 12
ITERATIONS = 200  # Of LSMR; a sample of twice as many rows as parameters takes some thirty.


def iterative(
    problem: Problem,
    network: Network,
    points: Points,
    *,
    key: Array | None = None,
    params: PyTree | None = None,
    weights: Mapping[str, float | int] | None = None,
    held_out: Points | None = None,
    steps: int = 10,
    sampled: int | None = None,
    cut: float | None = None,
    memory: float | int | None = None,
) -> Solution:
    """`least_squares` of a linearised network with more rows than memory holds: from products with the Jacobian.

    Some rows, drawn from all terms, are decomposed, ``U Σ Vᵀ``; with ``V Σ⁻¹`` in front of the parameters, the
    Jacobian of all rows has a condition number near 1, and LSMR (Fong, Saunders, 2011, doi:10.1137/10079687X) takes a
    few dozen products instead of as many as the condition number (Blendenpik's idea: Avron et al., 2010,
    doi:10.1137/090767911, with sampled rows in place of mixed ones).  The parameters move in the span of the sampled
    rows.  With at least as many of them as the rank, as by default where memory allows, that is all there is; with
    fewer, it is the best fit to all rows within it.  What a step leaves, the next one corrects.

    Args:
        problem: as of `least_squares`, as for the next four arguments.
        network: one of `networks.linearized`.
        points: ``(n_i, d)`` for each condition, any number.
        key: for parameters, held-out points, and the sample.
        params: where to start.
        weights: of the terms, relative to rows of unit norm; 1 if not given.
        held_out: points to judge by.
        steps: at most.
        sampled: rows to decompose; twice as many as parameters, or what ``memory`` holds, if not given.
        cut: relative size of the smallest singular value; five units in the last place if not given.
        memory: bytes to use for them; half of the machine's if not given.

    Raises:
        ValueError: as `least_squares`; a network that is not linearised; ``sampled`` below 1, or more than ``memory``
            holds.
    """
    if steps < 1 or (sampled is not None and sampled < 1):
        raise ValueError(f"`steps` and `sampled` must be at least 1, got {steps} and {sampled}.")
    keys = jax.random.split(jax.random.key(0) if key is None else key, 3)
    problem, params, points, held_out, cut = prepared(problem, network, points, keys, params, held_out, cut)
    if not isinstance(network.apply, _linearized._Tangent):
        raise ValueError(
            "`solving.iterative` takes a network of `networks.linearized`; damped steps of another one need its "
            "Jacobian, as `solving.least_squares` forms it."
        )
    flat, unravel = ravel_pytree(params)
    few = _sample(problem, network.apply, params, points, sampled, memory, keys[2])
    system = functools.partial(_system_at, problem, network.apply, weights=weights)

    theta, now = np.asarray(flat), system(params, points)
    if not np.isfinite(now.residual).all():
        found = problems.explain_not_finite(problem, network.apply, params, points)
        raise ValueError(f"The residuals of {problem.name!r} are not finite at the start.  {found}")
    history, reason = [rms(now.residual)], f"{steps} steps were taken, and the residual was still falling"
    for _ in range(steps):
        basis = _basis(problem, network.apply, unravel(jnp.asarray(theta)), few, weights, cut)
        step = basis.toward @ _fitted(now, basis)
        for halvings in range(HALVINGS):
            trial = (theta + 0.5**halvings * step).astype(theta.dtype)
            after = now.scale * _system.rows(problem, network.apply, unravel(jnp.asarray(trial)), points)
            if rms(after) < history[-1]:
                break
        else:
            reason = "no step lowers the residual"
            break
        kernel = ntk.operator(problem, network.apply, unravel(jnp.asarray(trial)), points)
        theta, now = trial, now._replace(kernel=kernel, residual=after)
        history.append(rms(after))
        if history[-1] > 0.5 * history[-2]:
            reason = "what is left is beyond the network, and no further step would halve it"
            break
    params = unravel(jnp.asarray(theta))
    residuals, error = _judge(problem, network.apply, params, system, points, held_out, basis)
    return Solution(
        functools.partial(network.apply, params), residuals, error, tuple(history), basis.toward.shape[1],
        basis.condition, reason, params, {"sampled rows": basis.rows},
    )  # fmt: skip


class _LinearSystem(NamedTuple):
    """Scaled rows at some parameters: the Jacobian as an operator, and the residual."""

    kernel: ntk.KernelOperator
    scale: np.ndarray
    residual: np.ndarray


class _Basis(NamedTuple):
    """Directions of the parameters in which the sampled rows have orthonormal derivatives, ``(p, r)``."""

    toward: np.ndarray
    condition: float
    rows: int


def _system_at(
    problem: Problem, apply: Apply, params: PyTree, points: Mapping[str, Array], weights: Mapping | None
) -> _LinearSystem:
    kernel = ntk.operator(problem, apply, params, points)
    norms = np.sqrt(np.asarray(kernel.diagonal()))
    scale = row_weights(problem, weights, apply, params, points) / np.where(norms > 0, norms, 1)
    return _LinearSystem(kernel, scale, scale * _system.rows(problem, apply, params, points))


def _sample(
    problem: Problem,
    apply: Apply,
    params: PyTree,
    points: Mapping[str, Array],
    sampled: int | None,
    memory: float | int | None,
    key: Array,
) -> dict[str, Array]:
    """Points of each term, the same number of rows of each while it has them."""
    counts = ntk.row_counts(problem, apply, params, points)
    flat = ravel_pytree(params)[0]
    limit = float(_system.half_of_memory() if memory is None else memory)
    most = int(limit / (COPIES * flat.size * flat.dtype.itemsize))
    if most < len(counts) or (sampled or 0) > most:
        raise ValueError(
            f"{max(sampled or 0, len(counts))} sampled rows of {flat.size} parameters and their factors need more than "
            f"{limit / 1e9:.3g} GB, which hold {most}: take fewer of them or of the parameters, or raise `memory`."
        )
    left, terms = min(sampled or 2 * flat.size, most), sorted(counts, key=lambda name: counts[name])
    few = {}
    for i, (name, each) in enumerate(zip(terms, jax.random.split(key, len(terms)), strict=True)):
        components = counts[name] // len(points[name])
        taken = min(len(points[name]), max(1, left // ((len(terms) - i) * components)))
        few[name] = points[name][jax.random.permutation(each, len(points[name]))[:taken]]
        left -= taken * components
    return {name: few[name] for name in points}


def _basis(
    problem: Problem,
    apply: Apply,
    params: PyTree,
    few: Mapping[str, Array],
    weights: Mapping | None,
    cut: float,
) -> _Basis:
    gradients = _system.jacobian(problem, apply, params, few)
    if not np.isfinite(gradients).all():
        raise ValueError(
            f"The derivatives of {problem.name!r} are not finite.  "
            + problems.explain_not_finite(problem, apply, params, few)
        )
    gradients *= (_system.row_scales(gradients) * row_weights(problem, weights, apply, params, few))[:, None]
    n, p = gradients.shape
    if n > p:
        gradients = scipy.linalg.qr(gradients, mode="r", overwrite_a=True, check_finite=False)[0][:p]
    _, s, vt = scipy.linalg.svd(gradients, full_matrices=False, overwrite_a=True, check_finite=False)
    rank = int((s > cut * s[0]).sum())
    if not rank:
        raise ValueError(f"No parameter changes any of the sampled residuals of {problem.name!r}.")
    return _Basis(vt[:rank].T / s[:rank], float(s[0] / s[rank - 1]), n)


def _fitted(system: _LinearSystem, basis: _Basis) -> np.ndarray:
    """How far to go along each direction of the basis for the least sum of squares, ``(r,)``."""
    rounding = float(np.finfo(basis.toward.dtype).eps)
    return scipy.sparse.linalg.lsmr(
        _Preconditioned(system, basis), -system.residual, atol=rounding, btol=rounding, conlim=0, maxiter=ITERATIONS
    )[0]


class _Preconditioned(scipy.sparse.linalg.LinearOperator):
    """The scaled Jacobian times the directions of a basis, ``(n, r)``."""

    def __init__(self, system: _LinearSystem, basis: _Basis) -> None:
        super().__init__(basis.toward.dtype, (len(system.scale), basis.toward.shape[1]))
        self.system, self.toward = system, basis.toward

    def _matvec(self, y: np.ndarray) -> np.ndarray:
        direction = self.toward @ y.ravel().astype(self.toward.dtype)
        return self.system.scale * np.asarray(_push(self.system.kernel, direction))

    def _rmatvec(self, v: np.ndarray) -> np.ndarray:
        scaled = (self.system.scale * v.ravel()).astype(self.toward.dtype)
        return self.toward.T @ np.asarray(_pull(self.system.kernel, scaled))


@jax.jit
def _push(kernel: ntk.KernelOperator, direction: Array) -> Array:
    with jax.default_matmul_precision("highest"):
        return _rows.passes(kernel).push(ravel_pytree(kernel.params)[1](direction))


@jax.jit
def _pull(kernel: ntk.KernelOperator, v: Array) -> Array:
    with jax.default_matmul_precision("highest"):
        return ravel_pytree(_rows.passes(kernel).pull(v))[0]


def _judge(
    problem: Problem,
    apply: Apply,
    params: PyTree,
    system: Callable[[PyTree, Mapping[str, Array]], _LinearSystem],
    points: Mapping[str, Array],
    held_out: Mapping[str, Array],
    basis: _Basis,
) -> tuple[dict[str, np.ndarray], float]:
    """As `least_squares` judges: what fitting the held-out points too would change, and what they leave unexplained."""
    both = system(params, {name: jnp.concatenate([points[name], held_out[name]]) for name in points})
    step = basis.toward @ _fitted(both, basis)
    return judged(problem, apply, params, held_out, _system_at(problem, apply, params, held_out, None).scale, step)
