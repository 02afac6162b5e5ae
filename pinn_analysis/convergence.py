"""How fast each part of the error decays, from the kernel alone.

The loss is ``L = Σ_i λ_i mean(r_i²)``.  With ``D = diag(λ_i / n_i)`` over all rows, the
residuals of a network whose kernel stays constant follow

    dr/dt = -2 K D r            under gradient flow, and
    r ← (I - 2 η K D) r         in a step of gradient descent with learning rate η.

With ``s = D^½ r`` both are symmetric, ``ds/dt = -2 S s`` with ``S = D^½ K D^½ = V Λ Vᵀ``, and
every component ``Vᵀ s`` decays on its own.  (The NTK paper, Lemma 3.1, has ``½ Σ r²`` for the
loss, which is ``λ_i = n_i / 2`` here.)

A term of weight zero is not trained on, yet its rows of the kernel say where training drags it.
`with_output` adds such a term, the network's output itself: then ``residuals`` has the error of
the solution at any points, ``losses`` its mean square, and `steps_to` when it is small.

Shapes: ``n`` rows of all terms together.  Times are learning rate times steps.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from pinn_analysis.ntk import KernelBlocks
from pinn_analysis.operators import identity
from pinn_analysis.problems import Condition, Problem, box, check_weights

OUTPUT = "output"  # The term that `with_output` adds; its weight is 0 where none is given.


class _Modes(NamedTuple):
    """Eigendecomposition of ``S = D^½ K D^½``, ascending.

    Attributes:
        kernel: the kernel ``K``.
        scale: diagonal of ``D^½``, ``(n,)``.
        values: eigenvalues ``Λ`` of ``S``, those that rounding could have made set to zero.
        modes: eigenvectors ``V``, one a column.
    """

    kernel: KernelBlocks
    scale: Float[Array, " n"]
    values: Float[Array, " n"]
    modes: Float[Array, "n n"]


class Flow(NamedTuple):
    """Residuals and losses at any time; made by `gradient_flow`."""

    spectrum: _Modes

    @property
    def rates(self) -> Float[Array, " n"]:
        """Decay rate of each mode, ascending, in 1/time."""
        return 2 * self.spectrum.values

    @property
    def modes(self) -> Float[Array, "n n"]:
        """Orthonormal modes, one a column, as parts of ``D^½ r``."""
        return self.spectrum.modes

    def residuals(self, r0: Mapping[str, ArrayLike], t: ArrayLike) -> dict[str, Array]:
        """Residuals of each term, ``(*t.shape, n_i)``, from those at time 0.

        Raises:
            ValueError: a negative time, or parts of ``r0`` that do not fit the kernel.
        """
        t = _not_negative(t, "time")
        rates = self.rates
        return _evolve(
            self.spectrum,
            r0,
            decay=jnp.exp(-rates * t[..., None]),
            # ∫ exp(-rate τ) dτ up to t; a mode that is not moved does not drag either.
            integral=jnp.where(rates > 0, -jnp.expm1(-rates * t[..., None]) / _positive(rates), 0),
        )

    def losses(self, r0: Mapping[str, ArrayLike], t: ArrayLike) -> dict[str, Array]:
        """Mean square of the residuals of each term, unweighted, ``t.shape``."""
        return _mean_squares(self.residuals(r0, t))


class Descent(NamedTuple):
    """Residuals and losses after any number of steps; made by `gradient_descent`."""

    spectrum: _Modes
    learning_rate: float | int

    @property
    def rates(self) -> Float[Array, " n"]:
        """Factor of each mode in one step, descending."""
        return 1 - 2 * self.learning_rate * self.spectrum.values

    @property
    def modes(self) -> Float[Array, "n n"]:
        """Orthonormal modes, one a column, as parts of ``D^½ r``."""
        return self.spectrum.modes

    def residuals(self, r0: Mapping[str, ArrayLike], steps: ArrayLike) -> dict[str, Array]:
        """Residuals of each term, ``(*steps.shape, n_i)``, from those at step 0.

        Raises:
            ValueError: a number of steps that is negative or not whole (modes above half the
                largest learning rate change sign with each), or ``r0`` that does not fit the kernel.
        """
        steps = _not_negative(steps, "number of steps")
        if not bool((steps == jnp.floor(steps)).all()):
            raise ValueError(f"A number of steps must be whole, got {steps}; `gradient_flow` takes any time.")
        values = self.spectrum.values
        decay = self.rates ** steps[..., None]
        geometric = jnp.where(values > 0, (1 - decay) / _positive(2 * values), 0)
        return _evolve(self.spectrum, r0, decay, geometric)

    def losses(self, r0: Mapping[str, ArrayLike], steps: ArrayLike) -> dict[str, Array]:
        """Mean square of the residuals of each term, unweighted, ``steps.shape``."""
        return _mean_squares(self.residuals(r0, steps))


def gradient_flow(kernel: KernelBlocks, weights: Mapping[str, ArrayLike] | None = None) -> Flow:
    """Diagonalise once, O(n³); then any time costs O(n²).

    Args:
        kernel: of the network, finite or infinite.
        weights: ``λ_i`` by term, 1 if not given; 0 for the term of `with_output`.

    Raises:
        ValueError: weights that are negative or not finite, miss a term or name an unknown one;
            a kernel that is not positive semidefinite beyond rounding.
    """
    return Flow(_diagonalize(kernel, weights))


def gradient_descent(
    kernel: KernelBlocks, learning_rate: float | int, weights: Mapping[str, ArrayLike] | None = None
) -> Descent:
    """Like `gradient_flow`, for steps of a positive ``learning_rate``.

    Raises:
        ValueError: as `gradient_flow`; a learning rate that is not positive, or above
            `max_learning_rate`, where training diverges and there is nothing to predict.
    """
    spectrum = _diagonalize(kernel, weights)
    stable = _stable(spectrum)
    if not 0 < learning_rate <= stable:
        raise ValueError(
            f"`learning_rate` must be positive and at most {stable:.6g}, where gradient descent on this "
            f"kernel stops converging; got {learning_rate:.6g}."
        )
    return Descent(spectrum, learning_rate)


def rates(kernel: KernelBlocks) -> dict[str, Array]:
    """Average rate ``tr K_ii / n_i`` of each term: NTK paper, Definition 5.1.

    With the paper's loss, ``½ Σ r²``, it is the mean of the rates of the term's modes.  With
    ``λ_i mean(r_i²)``, where these are ``2 λ_i / n_i`` times the eigenvalues of ``K_ii``, they
    sum to ``2 λ_i`` times it.
    """
    return {name: jnp.trace(kernel[name, name]) / n for name, n in zip(kernel.names, kernel.sizes, strict=True)}


def max_learning_rate(kernel: KernelBlocks, weights: Mapping[str, ArrayLike] | None = None) -> float:
    """Largest learning rate with which gradient descent does not diverge: ``1 / max Λ``.

    It is 2 over the largest eigenvalue of the (Gauss-Newton) Hessian ``2 Jᵀ D J``.
    """
    return _stable(_diagonalize(kernel, weights))


def steps_to(
    kernel: KernelBlocks,
    residuals: Mapping[str, ArrayLike],
    tolerance: float | int,
    *,
    learning_rate: float | int,
    weights: Mapping[str, ArrayLike] | None = None,
) -> dict[str, float]:
    """Steps of gradient descent until ``‖r_i‖ ≤ tolerance · ‖r_i(0)‖``, for each term.

    Found by doubling and bisection, up to ``2**50`` steps: if the norm of a term is not
    monotone, a brief earlier crossing between two powers of two can be missed.

    Args:
        kernel: of the network, finite or infinite.
        residuals: at step 0, as of `Problem.residuals`.
        tolerance: relative to the initial norm of each term, between 0 and 1.
        learning_rate: positive, and stable.
        weights: ``λ_i`` by term, 1 if not given.

    Returns:
        Number of steps by term; ``inf`` where it is never reached.

    Raises:
        ValueError: as `gradient_descent`; a tolerance outside (0, 1).
    """
    if not 0 < tolerance < 1:
        raise ValueError(f"`tolerance` is relative to the initial residual, between 0 and 1; got {tolerance}.")
    descent = gradient_descent(kernel, learning_rate, weights)
    goals = {name: tolerance**2 * jnp.mean(r**2) for name, r in residuals.items()}
    powers = 2 ** np.arange(51)
    reached = {name: np.asarray(loss <= goals[name]) for name, loss in descent.losses(residuals, powers).items()}

    def bisect(name: str) -> float:
        if not reached[name].any():
            return float("inf")
        high = int(powers[np.argmax(reached[name])])
        low = high // 2
        while high - low > 1:
            middle = (low + high) // 2
            below = descent.losses(residuals, middle)[name] <= goals[name]
            low, high = (low, middle) if below else (middle, high)
        return float(high)

    return {name: bisect(name) for name in kernel.names}


def with_output(problem: Problem) -> Problem:
    """``problem`` with one more term, ``"output"``: the network itself, on any points of the domain.

    Its residual is the error ``u - solution`` (``u`` itself where no solution is known).  It is
    never trained on: its weight is 0 in this module, unless one is given.  ::

        extended = convergence.with_output(problem)
        points = points | {"output": problems.grid(problem, 100)}
        kernel = ntk.infinite(extended, network.kernel_fn, points)
        r0 = extended.residuals(field, points)
        error = convergence.gradient_descent(kernel, 1e-3).residuals(r0, 500)["output"]

    Raises:
        ValueError: there is a condition of that name already.
    """
    if OUTPUT in problem.conditions:
        raise ValueError(f"{problem.name!r} has a condition {OUTPUT!r} already, {list(problem.conditions)}.")
    target = problem.solution or (lambda x: jnp.zeros((), x.dtype))
    output = Condition(identity, target, box(*problem.domain))
    return problem._replace(conditions=problem.conditions | {OUTPUT: output})


def _diagonalize(kernel: KernelBlocks, weights: Mapping[str, ArrayLike] | None) -> _Modes:
    weights = {name: float(name != OUTPUT) for name in kernel.names} if weights is None else weights
    if OUTPUT in kernel.names:
        weights = {OUTPUT: 0.0, **weights}
    if set(weights) != set(kernel.names):
        raise ValueError(f"`weights` must name the terms of the kernel, {list(kernel.names)}; got {list(weights)}.")
    check_weights(weights)
    scale = [np.full(n, np.sqrt(weights[name] / n)) for name, n in zip(kernel.names, kernel.sizes, strict=True)]
    scale = jnp.asarray(np.concatenate(scale), kernel.matrix.dtype)
    values, vectors = jnp.linalg.eigh(scale[:, None] * kernel.matrix * scale)
    # The customary bound, as in `numpy.linalg.matrix_rank`; 50 times what kernels of PINNs show.
    rounding = len(values) * jnp.finfo(values.dtype).eps * jnp.abs(values).max()
    if not isinstance(values, jax.core.Tracer) and not values[0] >= -rounding:
        raise ValueError(
            f"The kernel is not positive semidefinite: its eigenvalues, weighted, go from {values[0]:.3g} to "
            f"{values[-1]:.3g}, where rounding explains {-rounding:.1g} at most.  It should be J Jᵀ of one network "
            "at one set of points; `ntk.empirical` and `ntk.infinite` make such."
        )
    return _Modes(kernel, scale, jnp.where(values > rounding, values, 0), vectors)


def _evolve(spectrum: _Modes, r0: Mapping[str, ArrayLike], decay: Array, integral: Array) -> dict[str, Array]:
    """Residuals from what becomes of each mode, and of its integral over time times 1 (or η)."""
    kernel, scale, _, modes = spectrum
    start = kernel.join(r0)
    amplitudes = modes.T @ (scale * start)
    weighted = ((decay * amplitudes) @ modes.T) / _positive(scale)
    # A term of weight zero has no part in `s`; it is dragged along by the others.
    dragged = start - 2 * ((integral * amplitudes) @ modes.T * scale) @ kernel.matrix
    return kernel.split(jnp.where(scale > 0, weighted, dragged))


def _mean_squares(residuals: Mapping[str, ArrayLike]) -> dict[str, Array]:
    return {name: jnp.mean(r**2, -1) for name, r in residuals.items()}


def _stable(spectrum: _Modes) -> float:
    largest = float(spectrum.values[-1])
    return 1 / largest if largest > 0 else float("inf")


def _positive(x: Array) -> Array:
    """``x`` with 1 for 0, for the branch of a `where` that is not taken."""
    return jnp.where(x > 0, x, 1)


def _not_negative(x: ArrayLike, what: str) -> Array:
    x = jnp.asarray(x, float)
    if not bool((x >= 0).all()):
        raise ValueError(f"A {what} cannot be negative or NaN, got {float(jnp.min(x))}.")
    return x
