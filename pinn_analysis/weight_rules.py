"""Formulas for loss weights that libraries ship, side by side on one state of training.

Several formulas go by the name of "NTK weights", and several by that of "learning-rate
annealing".  Here each is a pure function of one `State`, so that they can be compared:
`table` evaluates all of them, `weighting.moving` trains with one.

Letters.  The loss is ``L = Σ_i λ_i L_i`` with ``L_i = mean(r_i²)`` over ``n_i`` rows; ``J_i``
is the Jacobian of ``r_i``, ``K_ij = J_i J_jᵀ`` a block of the kernel and
``g_i = ∇L_i = (2 / n_i) J_iᵀ r_i``.  Sources were read in November 2026, at the commits that
`FORMULAS` names; their losses may be sums or carry other factors, here all are these means.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike
from jaxtyping import PyTree

from pinn_analysis import convergence, gradients, ntk
from pinn_analysis.problems import Apply, Problem

Weights = dict[str, Array]


class State(NamedTuple):
    """What the formulas look at; made by `measure`.  Terms that are not trained have no part in it.

    Attributes:
        kernel: all blocks ``K_ij``, unformed (`ntk.operator`) or written out (`ntk.empirical`).
        residuals: ``r_i`` by term, ``(n_i,)``.
        gradients: ``∇L_i`` by term, shaped like the parameters.
        weights: the weights ``λ_i`` at present, by term.
    """

    kernel: ntk.KernelOperator | ntk.KernelBlocks
    residuals: dict[str, Array]
    gradients: dict[str, PyTree]
    weights: Weights


def measure(
    problem: Problem,
    apply: Apply,
    params: PyTree,
    points: Mapping[str, ArrayLike],
    weights: Mapping[str, ArrayLike] | None = None,
) -> State:
    """The state of a network; traceable, and what a formula does not use `jax.jit` does not compute.

    The kernel in it is not formed: a formula of traces needs no matrix.  Weights are 1 if not given.

    Raises:
        ValueError: as `ntk.operator`.
    """
    problem, points = trained(problem, points)
    weights = dict.fromkeys(problem.conditions, 1.0) if weights is None else weights
    return State(
        ntk.operator(problem, apply, params, points),
        problem.residuals(functools.partial(apply, params), points),
        gradients.by_term(problem, apply, params, points),
        {name: jnp.asarray(weights[name], float) for name in problem.conditions},
    )


def trained(problem: Problem, given: Mapping) -> tuple[Problem, dict]:
    """The problem without the terms that are not trained (`Condition.trained`), and what is ``given`` for the rest.

    Raises:
        ValueError: none is trained.
    """
    left_out = {name for name, condition in problem.conditions.items() if not condition.trained}
    if len(left_out) == len(problem.conditions):
        raise ValueError(
            f"No term of {problem.name!r} is trained, of {list(problem.conditions)}: there is no loss.  Terms are, "
            "unless `Condition.trained` is False."
        )
    kept = problem.only(*(name for name in problem.conditions if name not in left_out))
    return kept, {name: x for name, x in given.items() if name not in left_out}


# Formulas of the kernel.


def trace_ratio(state: State) -> Weights:
    """``Σ_j tr K_jj / tr K_ii``: Algorithm 1 of the NTK paper (2007.14527), and its notebook.

    Assumes that a term converges at the average of the eigenvalues of its block, and as many
    points in each term.  Not invariant otherwise: a term whose points are all listed twice
    has the same loss and half the weight.  `mean_diagonal` mends that.
    """
    return _inverse(state.kernel.traces(), jnp.sum)


def mean_diagonal(state: State, total: Callable[[Array], Array] = jnp.mean) -> Weights:
    """``mean_j(c_j) / c_i`` with ``c_i = tr K_ii / n_i``: jaxpi's ``"ntk"``, for any ``n_i``.

    With ``total=jnp.sum`` the sum is on top, as in `weighting.ntk_trace`.

    On its own term ``i`` follows ``dr_i/dt = -2 (λ_i / n_i) K_ii r_i``, so its rates are the
    eigenvalues of ``2 λ_i K_ii / n_i``.  Their sum, ``2 λ_i tr K_ii / n_i``, has a limit for
    ``n_i → ∞`` (the trace of an integral operator), and is the same for all terms if and only
    if ``λ_i ∝ n_i / tr K_ii``.  Their average, ``2 λ_i tr K_ii / n_i²``, has none: it counts
    more and more modes that do not move, and would ask for ``λ_i ∝ n_i² / tr K_ii``.  With one
    ``n`` for all terms both are `trace_ratio`.  (jaxpi has since added ``1e-5 mean(c)`` to the
    denominator, which bounds the weights.)
    """
    return _inverse(convergence.rates(state.kernel), total)


def largest_eigenvalue(state: State) -> Weights:
    """``Σ_j μ_j / μ_i`` with ``μ_i = λ_max(K_ii) / n_i``: the same stable step for every term.

    Not of a library: the textbook's alternative, for comparison.
    """
    sizes = zip(state.kernel.names, state.kernel.sizes, strict=True)
    return _inverse({name: jnp.linalg.eigvalsh(state.kernel[name, name])[-1] / n for name, n in sizes}, jnp.sum)


def summed_kernel(state: State, reference: str = "residual") -> Weights:
    """``(s_r + s_b) / s_i`` with ``s = 1ᵀ K 1``: PINNacle's ``LR_Adaptor_NTK``.

    It differentiates the *sum* of the residuals, once over the ``reference`` term and once
    over all others together, which share a weight.  Assumes that the kernel acts on residuals
    of one sign; grows like ``n²``, and changes if an equation is multiplied by -1 at some points.
    """
    kernel, reference = state.kernel, _checked(state, reference)
    inside = kernel.repeat({name: float(name == reference) for name in kernel.names})
    product = kernel.linear()
    sums = [jnp.vdot(rows, product(rows)) for rows in (inside, 1 - inside)]
    return {name: sum(sums) / sums[name != reference] for name in kernel.names}


# Formulas of the kernel along the residual.


def root_gradient(state: State) -> Weights:
    """``Σ_j q_j / q_i`` with ``q_i = ‖∇√L_i‖``: PhysicsNeMo-Sym's ``NTK``.

    ``q_i² = r_iᵀ K_ii r_i / (n_i r_iᵀ r_i)``, the Rayleigh quotient of the block at the
    residual, so it does not depend on how large the residual is.  But it is ``q`` and not ``q²``
    that is inverted: if an operator is multiplied by ``c``, its weight changes by ``1 / c``, and
    its part in the loss by ``c``.
    """
    losses = {name: jnp.mean(r**2) for name, r in state.residuals.items()}
    return _inverse({name: norm / (2 * jnp.sqrt(losses[name])) for name, norm in _norms(state).items()}, jnp.sum)


# Formulas of the gradients.


def grad_norm(state: State, total: Callable[[Array], Array] = jnp.mean) -> Weights:
    """``mean_j ‖g_j‖ / ‖g_i‖``: jaxpi's ``"grad_norm"``.

    2308.08468 and `weighting.grad_norm` have the sum on top, ``total=jnp.sum``.

    Assumes that terms are in balance if their gradients are equally long *now*.  A term that
    is nearly met has a short gradient, and so a large weight.
    """
    return _inverse(_norms(state), total)


def accumulated_norm(state: State) -> Weights:
    """``Σ_j a_j / a_i`` with ``a_i = ‖g_1 + … + g_i‖``: PaddleScience's ``NTK``.

    Gradients are not cleared between two terms, so the order of the terms matters: the first
    is weighted like `grad_norm`, the last gets a weight near the sum over the largest.
    """
    flat = _flat(state)
    sums = jnp.cumsum(jnp.stack(list(flat.values())), axis=0)
    return _inverse(dict(zip(flat, jnp.linalg.norm(sums, axis=1), strict=True)), jnp.sum)


def proportional_norm(state: State) -> Weights:
    """``‖g_i‖ / Σ_j ‖g_j‖``: PINA's ``NeuralTangentKernelWeighting``.

    Proportional, not inverse: the term that already pulls hardest gets the largest weight.
    (Until November 2025 gradients were added up as in `accumulated_norm`.)
    """
    norms = _norms(state)
    total = sum(norms.values())
    return {name: norm / total for name, norm in norms.items()}


def annealing_arxiv(state: State, reference: str = "residual") -> Weights:
    """``max|g_r| / mean|g_i|``, 1 for the reference: 2001.04536, version 1, eq. 40.

    Assumes that one parameter's largest gradient and another's average can be compared.
    """
    return _over(state, reference, lambda name, g: gradients.statistics(g).mean)


def annealing_siam(state: State, reference: str = "residual") -> Weights:
    """``max|g_r| / mean|λ_i g_i|``, 1 for the reference: 10.1137/20M1318043, eq. 2.30.

    It depends on the weights of before.  The authors' code and PINNacle's ``LR_Adaptor`` have it.
    """
    return _over(state, reference, lambda name, g: state.weights[name] * gradients.statistics(g).mean)


def annealing_at_rest(state: State, reference: str = "residual") -> Weights:
    """The square root of `annealing_arxiv`, where `annealing_siam` comes to rest if nothing else moves."""
    return {name: jnp.sqrt(weight) for name, weight in annealing_arxiv(state, reference).items()}


def annealing_jinns(state: State, reference: str = "residual") -> Weights:
    """``max|g_r| / mean_l |mean(g_i,l)|``, ``l`` the arrays of parameters: jinns' ``lr_annealing``.

    The absolute value is taken after the mean, so entries of either sign cancel; turning the
    sign of a hidden unit, which leaves the network as it is, changes the weight.
    """
    return _over(
        state, reference, lambda name, g: jnp.mean(jnp.stack([abs(leaf.mean()) for leaf in jax.tree.leaves(g)]))
    )


def annealing_means(state: State, reference: str = "residual") -> Weights:
    """``mean|g_r| / mean|g_i|``: PhysicsNeMo-Sym's ``LRAnnealing``.

    There the reference is the first term unless it is named.
    """
    return _over(state, reference, lambda name, g: gradients.statistics(g).mean, top="mean")


class Formula(NamedTuple):
    """A formula and where it was read.

    Attributes:
        weights: ``State -> weights``.
        source: repository, path and commit, or the paper.
        every: steps between two updates, of the source.
        decay: coefficient on the old weight, of the source.
    """

    weights: Callable[[State], Weights]
    source: str
    every: int
    decay: float


#: The formulas of `table`, by name.
FORMULAS = {
    "NTK paper": Formula(trace_ratio, "2007.14527, Algorithm 1; PINNsNTK@1acf1f2 PINNsNTK_Wave1D.ipynb", 1000, 0.0),
    "jaxpi ntk": Formula(mean_diagonal, "PredictiveIntelligenceLab/jaxpi@127a306 jaxpi/models.py", 1000, 0.9),
    "largest eigenvalue": Formula(largest_eigenvalue, "equal stable steps; no library", 1000, 0.0),
    "PINNacle NTK": Formula(summed_kernel, "i207M/PINNacle@008bbeb src/optimizer/ntk.py", 1, 0.0),
    "PhysicsNeMo NTK": Formula(
        root_gradient, "NVIDIA/physicsnemo-sym@9a92586 physicsnemo/sym/loss/aggregator.py", 1000, 0.0
    ),
    "PaddleScience NTK": Formula(
        accumulated_norm, "PaddlePaddle/PaddleScience@4c14d41 ppsci/loss/mtl/ntk.py", 1000, 0.0
    ),
    "PINA NTK": Formula(proportional_norm, "mathLab/PINA@2820b20 pina/_src/weighting/ntk_weighting.py", 1, 0.5),
    "jaxpi grad_norm": Formula(grad_norm, "PredictiveIntelligenceLab/jaxpi@127a306 jaxpi/models.py", 1000, 0.9),
    "annealing, arXiv": Formula(annealing_arxiv, "2001.04536 version 1, eq. 40", 10, 0.1),
    "annealing, SIAM": Formula(annealing_at_rest, "10.1137/20M1318043, eq. 2.30, at rest", 10, 0.9),
    "annealing, PhysicsNeMo": Formula(
        annealing_means, "NVIDIA/physicsnemo-sym@9a92586 physicsnemo/sym/loss/aggregator.py", 1, 0.99
    ),
    "annealing, jinns": Formula(annealing_jinns, "mia-jinns/jinns@3fe42e1 jinns/loss/_loss_weight_updates.py", 1, 0.1),
}


def table(state: State) -> dict[str, Weights]:
    """All `FORMULAS` on one state: weights by formula, then by term.

    Optimisers like Adam do not see a common factor: compare ratios.
    """
    return {name: formula.weights(state) for name, formula in FORMULAS.items()}


def _flat(state: State) -> dict[str, Array]:
    """Gradients as vectors, in the order of the terms (`jax.jit` sorts the keys of dicts)."""
    return {name: ravel_pytree(state.gradients[name])[0] for name in state.kernel.names}


def _norms(state: State) -> dict[str, Array]:
    return {name: jnp.linalg.norm(gradient) for name, gradient in _flat(state).items()}


def _inverse(values: dict[str, Array], total: Callable) -> Weights:
    """Weights that are inverse to ``values``, with their sum or mean on top."""
    top = total(jnp.stack(list(values.values())))
    return {name: top / value for name, value in values.items()}


def _over(state: State, reference: str, below: Callable[[str, PyTree], Array], top: str = "max") -> Weights:
    """The largest (``top="max"``) or mean entry of the reference's gradient over that of each term; 1 for itself."""
    above = getattr(gradients.statistics(state.gradients[_checked(state, reference)]), top)
    one = jnp.ones_like(above)
    return {name: one if name == reference else above / below(name, g) for name, g in state.gradients.items()}


def _checked(state: State, reference: str) -> str:
    if reference not in state.kernel.names:
        raise ValueError(f"`reference` must be one of the terms, {list(state.kernel.names)}; got {reference!r}.")
    return reference
