"""Loss weights as pairs of pure functions, in the manner of optax: a formula of `weight_rules`, and its pace.

A rule is used in any training loop in three lines:

    >>> import functools, jax, jax.numpy as jnp
    >>> from pinn_analysis import networks, problems, weighting
    >>> problem, network = problems.convection(30), networks.mlp((2, 16, 1))
    >>> params = network.init(jax.random.key(0))
    >>> points = problem.sample(jax.random.key(1), 64)
    >>> losses = problem.losses(functools.partial(network.apply, params), points)

    >>> rule = weighting.ntk_trace()
    >>> state = rule.init(problem)
    >>> weights, state = rule.update(state, problem, network.apply, params, points)
    >>> loss = sum(weights[name] * value for name, value in losses.items())

A rule of one's own is a formula, ``State -> weights``, with a pace (`moving`), or any other pair
(`Weighting`).  A weight may be one number per row instead of one per term, and the term then has the
loss ``mean(λ r²)``: slices of time, or points that weigh themselves, at the cost of one term.
Causal training (2203.07404) trusts a time when all times before it are learned, here in ten slices:

    >>> def update(state, problem, apply, params, points):
    ...     rows = problem.residuals(functools.partial(apply, params), points)["residual"]
    ...     slices = jnp.minimum(10 * points["residual"][:, 0], 9).astype(int)  # Time is in [0, 1].
    ...     count = jnp.bincount(slices, length=10)
    ...     losses = jnp.bincount(slices, rows**2, length=10) / jnp.maximum(count, 1)
    ...     before = jnp.cumsum(losses) - losses
    ...     return dict.fromkeys(problem.conditions, 1.0) | {"residual": jnp.exp(-before)[slices]}, state
    >>> causal = weighting.Weighting(init=lambda problem: (), update=update)
    >>> weights, _ = causal.update((), problem, network.apply, params, points)
    >>> weights["residual"].shape
    (64,)
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import PyTree

from pinn_analysis import weight_rules
from pinn_analysis._functions import as_pytree
from pinn_analysis.problems import Apply, Condition, Problem, check, check_names, check_weights
from pinn_analysis.weight_rules import State, Weights, trained


class Weighting(NamedTuple):
    """A rule for the weights of the loss terms.

    Attributes:
        init: ``problem -> state``, a pytree of arrays.
        update: ``(state, problem, apply, params, points) -> (weights, state)``, traceable;
            ``weights`` is a dict by trained term, held fixed under the gradient: scalars,
            or one weight per row of the term, ``(n_i,)``.
    """

    init: Callable[[Problem], PyTree]
    update: Callable[[PyTree, Problem, Apply, PyTree, Mapping[str, ArrayLike]], tuple[Weights, PyTree]]


class MovingState(NamedTuple):
    """State of a rule of `moving`.

    Attributes:
        weights: by trained term.
        count: updates so far.
    """

    weights: Weights
    count: Array


def fixed(**weights: ArrayLike) -> Weighting:
    """Constant weights by name of the term; all 1 if none is given.

    Raises:
        ValueError: a weight that is negative or not finite; in ``init``, names that are not
            those of the problem's trained conditions.
    """
    check_weights(weights)

    def init(problem: Problem) -> Weights:
        problem, _ = trained(problem, {})
        given = weights or dict.fromkeys(problem.conditions, 1.0)
        check_names(problem, given, "weights")
        return {name: jnp.asarray(given[name], float) for name in problem.conditions}

    def update(state: Weights, *now: object) -> tuple[Weights, Weights]:
        return state, state

    return Weighting(init, update)


def moving(
    formula: Callable[[State], Weights], *, every: int, decay: float, keep: bool = True, reference: str | None = None
) -> Weighting:
    """Weights that start at 1 and every so many steps move ``λ ← decay · λ + (1 - decay) · formula``.

    In a loop of one's own that is not jitted, ``update`` compiles at the first call only, as
    long as it is given the same functions.

    Args:
        formula: ``State -> weights``, one of `weight_rules` or of one's own.
        every: steps between two changes, the first of which is at once.
        decay: coefficient on the *old* weight.
        keep: whether a term whose new weight is not finite keeps its old one.
        reference: a term that the formula names: ``init`` checks that the problem has it.

    Raises:
        ValueError: a ``decay`` outside [0, 1), or ``every`` below 1; in ``init``, a ``reference``
            that is no trained condition; in ``update``, see `problems.check`, and weights that do not
            name the trained terms.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"`decay` is the share of the old weight, from 0 to below 1; got {decay}.")
    if every < 1:
        raise ValueError(f"`every` must be at least 1, got {every}.")

    def init(problem: Problem) -> MovingState:
        problem, _ = trained(problem, {})
        if reference is not None and reference not in problem.conditions:
            raise ValueError(
                f"`reference` must be one of the conditions of {problem.name!r}, {list(problem.conditions)}; "
                f"got {reference!r}."
            )
        return MovingState({name: jnp.ones(()) for name in problem.conditions}, jnp.zeros((), int))

    @jax.jit
    def moved(state: MovingState, now: "_Now") -> MovingState:
        def move() -> Weights:
            problem, points = now.problem(), dict(zip(now.names, now.points, strict=True))
            aims = formula(weight_rules.measure(problem, now.apply, now.params, points, state.weights))
            check_names(problem, aims, "weights")
            new = {name: decay * old + (1 - decay) * aims[name] for name, old in state.weights.items()}
            kept = {name: ~jnp.isfinite(aim) & keep for name, aim in aims.items()}
            return {name: jnp.where(kept[name], old, new[name]) for name, old in state.weights.items()}

        weights = jax.lax.cond(state.count % every == 0, move, lambda: state.weights)
        return MovingState(weights, state.count + 1)

    def update(
        state: MovingState, problem: Problem, apply: Apply, params: PyTree, points: Mapping[str, ArrayLike]
    ) -> tuple[Weights, MovingState]:
        problem, points = trained(problem, points)
        state = moved(state, _Now.of(problem, apply, params, check(problem, apply, params, points)))
        weights = {name: state.weights[name] for name in problem.conditions}  # `jax.jit` sorts the keys of dicts.
        return weights, state._replace(weights=weights)

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
    formula = {"siam": weight_rules.annealing_siam, "arxiv": weight_rules.annealing_arxiv}[rule]
    formula = functools.partial(formula, reference=reference)
    return moving(formula, every=every, decay=decay, reference=reference)


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
    return moving(functools.partial(weight_rules.grad_norm, total=jnp.sum), every=every, decay=decay)


def ntk_trace(*, every: int = 100) -> Weighting:
    """Weights that give every term the same sum of rates: Algorithm 1 of the NTK paper.

    Under the loss ``Σ_i λ_i mean(r_i²)`` the modes of term ``i`` alone decay at the rates
    ``2 λ_i μ / n_i``, ``μ`` the eigenvalues of ``K_ii``.  They sum to ``2 λ_i c_i`` with
    ``c_i = tr K_ii / n_i`` (`convergence.rates`), the mean square norm of a row of the term's
    Jacobian, so that equal sums mean

        λ_i = Σ_j c_j / c_i,

    for any number of terms and of points.  With equally many points per term that is the
    paper's ``Σ_j tr K_jj / tr K_ii`` (eq. 7.13 to 7.15 for the wave).  There is no moving average, as
    in the paper.  Rates do not depend on the size of the residuals.  A term whose trace is zero is
    one that no parameter can change: its weight is infinite, at which `training.train` stops.

    Args:
        every: steps between two changes: 1,000 in the paper, 100 in the authors' code.

    Raises:
        ValueError: ``every`` below 1.
    """
    formula = functools.partial(weight_rules.mean_diagonal, total=jnp.sum)
    return moving(formula, every=every, decay=0.0, keep=False)


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["operators", "targets", "domain", "apply", "params", "points"],
    meta_fields=["name", "names", "rest"],
)
@dataclasses.dataclass(frozen=True)
class _Now:
    """Problem, network and points as data: what is compiled for one step serves the next."""

    operators: tuple
    targets: tuple
    domain: tuple[Array, Array]
    apply: Apply
    params: PyTree
    points: tuple[Array, ...]
    name: str
    names: tuple[str, ...]
    rest: tuple[Condition, ...]  # What of the conditions is no data.

    @staticmethod
    def of(problem: Problem, apply: Apply, params: PyTree, points: Mapping[str, Array]) -> "_Now":
        names, conditions = tuple(problem.conditions), tuple(problem.conditions.values())
        operators = tuple(as_pytree(condition.operator) for condition in conditions)
        targets = tuple(as_pytree(condition.target) for condition in conditions)
        rest = tuple(condition._replace(operator=None, target=None, sample=None) for condition in conditions)
        x = tuple(points[name] for name in names)
        return _Now(operators, targets, problem.domain, as_pytree(apply), params, x, problem.name, names, rest)

    def problem(self) -> Problem:
        terms = zip(self.names, self.rest, self.operators, self.targets, strict=True)
        conditions = {name: rest._replace(operator=o, target=t) for name, rest, o, t in terms}
        return Problem(self.name, conditions, self.domain)
