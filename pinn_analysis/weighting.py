"""Loss weights as pairs of pure functions, in the manner of optax.

A rule is used in any training loop in three lines::

    state = weighting.init(problem)
    weights, state = weighting.update(state, problem, apply, params, points)
    loss = sum(weights[name] * value for name, value in losses.items())
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import PyTree

from pinn_analysis import gradients, ntk
from pinn_analysis.problems import Problem, check_names, check_weights


class Weighting(NamedTuple):
    """A rule for the weights of the loss terms.

    Attributes:
        init: ``problem -> state``, a pytree of arrays.
        update: ``(state, problem, apply, params, points) -> (weights, state)``, traceable;
            ``weights`` is a dict of scalars by term, held fixed under the gradient.
    """

    init: Callable
    update: Callable


def fixed(**weights: ArrayLike) -> Weighting:
    """Constant weights by name of the term; all 1 if none is given.

    Raises:
        ValueError: a weight that is negative or not finite; in ``init``, names that are not
            those of the problem's conditions.
    """
    check_weights(weights)

    def init(problem: Problem) -> dict:
        given = weights or dict.fromkeys(problem.conditions, 1.0)
        check_names(problem, given, "weights")
        return {name: jnp.asarray(given[name], float) for name in problem.conditions}

    def update(state: dict, problem: Problem, apply: Callable, params: object, points: dict) -> tuple[dict, dict]:
        return state, state

    return Weighting(init, update)


def lr_annealing(
    rule: str = "siam", *, decay: float | None = None, every: int = 10, reference: str = "residual"
) -> Weighting:
    """Learning-rate annealing: Algorithm 1 of Wang, Teng, Perdikaris (2001.04536).

    Every ``every`` steps the weight of each term but ``reference`` moves towards

    ===========  ======================================  =================================
    ``rule``     target                                  where it comes to rest
    ===========  ======================================  =================================
    ``"arxiv"``  ``max|∇L_r| / mean|∇L_i|``              the target (eq. 40 of version 1)
    ``"siam"``   ``max|∇L_r| / mean|∇(λ_i L_i)|``        the square root of the one above
                                                         (eq. 2.30 of the journal version)
    ===========  ======================================  =================================

    as ``λ ← decay · λ + (1 - decay) · target``.  Maximum and mean are over all parameters,
    as both versions say; the authors' code leaves out biases and takes the mean of the means
    of the layers.

    The rules divide by gradients, so they have limits.  A term whose gradient is zero (or
    so small that the ratio overflows) keeps its weight.  If the gradient of ``reference`` is
    zero, the target is 0 and the other weights fall by ``decay`` an update; both rules
    recover when it returns, unless a weight has underflowed to 0, where ``"siam"`` stays.
    ``"arxiv"`` does not depend on how a term is scaled (``c L_i`` gets ``λ_i / c``); under
    ``"siam"`` the product ``λ_i c`` grows like ``√c``.

    Args:
        rule: ``"siam"``, which the authors' code follows, or ``"arxiv"``.
        decay: coefficient on the *old* weight; by default 0.9 for ``"siam"`` and 0.1 for
            ``"arxiv"``, the printed values (their α is 1 - decay).
        every: steps between two changes; the papers' 10.
        reference: the term ``r``, whose weight stays 1.

    Raises:
        ValueError: an unknown rule, a ``decay`` outside [0, 1), ``every`` below 1; in ``init``,
            a ``reference`` that is no condition of the problem.
    """
    if rule not in ("siam", "arxiv"):
        raise ValueError(f'`rule` must be "siam" or "arxiv", got {rule!r}.')
    decay = {"siam": 0.9, "arxiv": 0.1}[rule] if decay is None else decay

    def targets(weights: dict, *now: Any) -> dict:
        grads = gradients.by_term(*now)
        largest = gradients.statistics(grads[reference]).max
        means = {name: gradients.statistics(gradient).mean for name, gradient in grads.items()}
        if rule == "siam":
            means = {name: weights[name] * mean for name, mean in means.items()}
        return {name: jnp.ones_like(largest) if name == reference else largest / means[name] for name in grads}

    return _moving(targets, decay, every, reference)


def grad_norm(*, decay: float = 0.9, every: int = 1000) -> Weighting:
    """Weights that give every term a gradient of the same norm: ``Σ_j ‖∇L_j‖ / ‖∇L_i‖``.

    The rule of Wang, Sankaran, Wang, Perdikaris (2308.08468), with its moving average.  A
    term whose gradient is zero keeps its weight.

    Args:
        decay: coefficient on the *old* weight.
        every: steps between two changes.

    Raises:
        ValueError: a ``decay`` outside [0, 1), or ``every`` below 1.
    """

    def targets(weights: dict, *now: Any) -> dict:
        norms = {name: gradients.statistics(gradient).norm for name, gradient in gradients.by_term(*now).items()}
        total = sum(norms.values())
        return {name: total / norm for name, norm in norms.items()}

    return _moving(targets, decay, every, None)


def ntk_trace(*, every: int = 100) -> Weighting:
    """Weights that give every term the same sum of rates: Algorithm 1 of the NTK paper.

    Under the loss ``Σ_i λ_i mean(r_i²)`` the modes of term ``i`` alone decay at the rates
    ``2 λ_i μ / n_i``, ``μ`` the eigenvalues of ``K_ii``.  They sum to ``2 λ_i c_i`` with
    ``c_i = tr K_ii / n_i`` (`convergence.rates`), the mean square norm of a row of the term's
    Jacobian, so that equal sums mean

        λ_i = Σ_j c_j / c_i,

    for any number of terms and of points.  With equally many points a term that is the
    paper's ``Σ_j tr K_jj / tr K_ii`` (eq. 7.13 to 7.15 for the wave).  There is no moving average, as
    in the paper.  Rates do not see how large the residuals are.  A term whose trace is zero is
    one that no parameter can change: its weight is infinite, at which `training.train` stops.

    Args:
        every: steps between two changes: 1,000 in the paper, 100 in the authors' code.

    Raises:
        ValueError: ``every`` below 1.
    """

    def targets(weights: dict, problem: Problem, apply: Callable, params: PyTree, points: Mapping) -> dict:
        rows = ntk.row_counts(problem, apply, params, points)
        rates = {name: trace / rows[name] for name, trace in ntk.traces(problem, apply, params, points).items()}
        total = sum(rates.values())
        return {name: total / rate for name, rate in rates.items()}

    return _moving(targets, 0.0, every, None, keep=False)


def _moving(targets: Callable, decay: float, every: int, reference: str | None, *, keep: bool = True) -> Weighting:
    """Weights that start at 1 and move towards ``targets(weights, problem, apply, params, points)``.

    With ``keep`` a term whose target is not finite keeps its weight.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"`decay` is the share of the old weight, from 0 to below 1; got {decay}.")
    if every < 1:
        raise ValueError(f"`every` must be at least 1, got {every}.")

    def init(problem: Problem) -> tuple[dict, Array]:
        if reference is not None and reference not in problem.conditions:
            raise ValueError(
                f"`reference` must be one of the conditions of {problem.name!r}, {list(problem.conditions)}; "
                f"got {reference!r}."
            )
        return {name: jnp.ones(()) for name in problem.conditions}, jnp.zeros((), int)

    def update(
        state: tuple, problem: Problem, apply: Callable, params: PyTree, points: Mapping[str, Array]
    ) -> tuple[dict, tuple]:
        weights, count = state

        def move() -> dict:
            aims = targets(weights, problem, apply, params, points)
            moved = {name: decay * old + (1 - decay) * aims[name] for name, old in weights.items()}
            kept = {name: ~jnp.isfinite(aim) & keep for name, aim in aims.items()}
            return {name: jnp.where(kept[name], old, moved[name]) for name, old in weights.items()}

        weights = jax.lax.cond(count % every == 0, move, lambda: weights)
        return weights, (weights, count + 1)

    return Weighting(init, update)
