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

Everything here takes a kernel, or the `spectra.Spectrum` of one: diagonalise once, ask often.  Where no memory
holds the kernel, `spectra.krylov_spectrum` takes its place, and ``errors`` says how far its predictions hold.
Functions are traceable; what they refuse, they refuse where the numbers are known.  A rate is one of
decay, in 1/time: ``2 Λ`` of a mode (`Flow.rates`), and on average over the rows of a term (`rates`).

Shapes: ``n`` rows of all terms together.  Times are learning rate times steps.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float

from pinn_analysis._functions import fails
from pinn_analysis.ntk import KernelBlocks, KernelOperator
from pinn_analysis.operators import identity
from pinn_analysis.problems import Condition, Problem, box
from pinn_analysis.spectra import KrylovSpectrum, Spectrum, spectrum

Kernel = KernelBlocks | KernelOperator
Weights = Mapping[str, ArrayLike]


class Flow(NamedTuple):
    """Residuals and losses at any time; made by `gradient_flow`."""

    spectrum: Spectrum

    @property
    def rates(self) -> Float[Array, " n"]:
        """Decay rate of each mode, ascending, in 1/time."""
        return self.spectrum.rates

    @property
    def modes(self) -> Float[Array, "n n"]:
        """Orthonormal modes, one per column, as parts of ``D^½ r``."""
        return self.spectrum.modes

    def residuals(self, r0: Mapping[str, ArrayLike], t: ArrayLike) -> dict[str, Array]:
        """Residuals of each term, ``(*t.shape, n_i)``, from those at time 0.

        Raises:
            ValueError: a negative time, or parts of ``r0`` that do not fit the kernel.
        """
        t = _not_negative(t, "time")
        exponents = self.rates * t[..., None]
        # ∫ exp(-rate τ) dτ up to t; a mode with rate 0 contributes nothing to the integral.
        integral = jnp.where(self.rates > 0, -jnp.expm1(-exponents) / _positive(self.rates), 0)
        return self.spectrum.evolve(r0, jnp.exp(-exponents), integral)

    def losses(self, r0: Mapping[str, ArrayLike], t: ArrayLike) -> dict[str, Array]:
        """Mean square of the residuals of each term, unweighted, ``t.shape``."""
        return _mean_squares(self.residuals(r0, t))

    def errors(self, t: ArrayLike) -> dict[str, Array]:
        """Bounds on what the root mean square of each term's residuals may be off, ``t.shape``.

        Zero, unless the spectrum is one of `spectra.krylov_spectrum`.
        """
        t = _not_negative(t, "time")
        exponents = self.rates * t[..., None]
        moving = jnp.where(self.rates > 0, -jnp.expm1(-exponents) / _positive(self.rates), t[..., None])
        return self.spectrum.errors(moving, t)


class Descent(NamedTuple):
    """Residuals and losses after any number of steps; made by `gradient_descent`."""

    spectrum: Spectrum
    learning_rate: ArrayLike

    @property
    def factors(self) -> Float[Array, " n"]:
        """Factor of each mode in one step, descending, which is 1 less ``learning_rate`` times its decay rate."""
        return 1 - self.learning_rate * self.spectrum.rates

    @property
    def modes(self) -> Float[Array, "n n"]:
        """Orthonormal modes, one per column, as parts of ``D^½ r``."""
        return self.spectrum.modes

    def residuals(self, r0: Mapping[str, ArrayLike], steps: ArrayLike) -> dict[str, Array]:
        """Residuals of each term, ``(*steps.shape, n_i)``, from those at step 0.

        Raises:
            ValueError: a number of steps that is negative or not whole (modes above half the
                largest learning rate change sign with each), or ``r0`` that does not fit the kernel.
        """
        steps = _not_negative(steps, "number of steps")
        if fails((steps == jnp.floor(steps)).all()):
            raise ValueError(f"A number of steps must be whole, got {steps}; `gradient_flow` takes any time.")
        return self.spectrum.evolve(r0, *self._after(steps))

    def losses(self, r0: Mapping[str, ArrayLike], steps: ArrayLike) -> dict[str, Array]:
        """Mean square of the residuals of each term, unweighted, ``steps.shape``."""
        return _mean_squares(self.residuals(r0, steps))

    def errors(self, steps: ArrayLike) -> dict[str, Array]:
        """Bounds on what the root mean square of each term's residuals may be off, ``steps.shape``.

        Zero, unless the spectrum is one of `spectra.krylov_spectrum`; sharp up to half the largest learning rate.
        """
        steps = _not_negative(steps, "number of steps")
        shrinking = 1 - jnp.abs(self.factors)
        left = 1 - jnp.abs(self.factors) ** steps[..., None]
        moving = jnp.where(shrinking > 0, left / _positive(shrinking), steps[..., None]) * self.learning_rate
        alternating = self.factors.min() < -1e-6
        return self.spectrum.errors(moving, steps * self.learning_rate, alternating)

    def _after(self, steps: Array) -> tuple[Array, Array]:
        """What is left of each mode, and the sum of that over the steps times the learning rate."""
        rates, decay = self.spectrum.rates, self.factors ** steps[..., None]
        return decay, jnp.where(rates > 0, (1 - decay) / _positive(rates), 0)


def gradient_flow(kernel: Kernel | Spectrum, weights: Weights | None = None) -> Flow:
    """Diagonalise once, O(n³); then any time costs O(n²).

    Args:
        kernel: of the network, finite or infinite; or its spectrum, which has its weights.
        weights: ``λ_i`` by term, 1 if not given; 0 for terms that are not trained, unless given.

    Raises:
        ValueError: as `spectra.spectrum`; weights beside a spectrum.
    """
    return Flow(_spectrum(kernel, weights))


def gradient_descent(kernel: Kernel | Spectrum, learning_rate: ArrayLike, weights: Weights | None = None) -> Descent:
    """Like `gradient_flow`, for steps of a positive ``learning_rate``.

    Raises:
        ValueError: as `gradient_flow`; a learning rate that is not positive, or above
            `max_learning_rate`, where training diverges and there is nothing to predict.
    """
    found = _spectrum(kernel, weights)
    stable = found.max_learning_rate
    if fails((0 < learning_rate) & (learning_rate <= stable)):
        raise ValueError(
            f"`learning_rate` must be positive and at most {stable:.6g}, where gradient descent on this "
            f"kernel stops converging; got {learning_rate:.6g}."
        )
    return Descent(found, learning_rate)


def rates(kernel: Kernel) -> dict[str, Array]:
    """Average rate ``tr K_ii / n_i`` of each term: NTK paper, Definition 5.1.

    With the paper's loss, ``½ Σ r²``, it is the mean of the rates of the term's modes.  With
    ``λ_i mean(r_i²)``, where these are ``2 λ_i / n_i`` times the eigenvalues of ``K_ii``, they
    sum to ``2 λ_i`` times it.  Of an `ntk.operator` it needs no matrix.
    """
    return {name: trace / n for (name, trace), n in zip(kernel.traces().items(), kernel.sizes, strict=True)}


def max_learning_rate(kernel: Kernel | Spectrum, weights: Weights | None = None) -> float | Array:
    """Largest learning rate with which gradient descent does not diverge: ``1 / max Λ``.

    It is 2 over the largest eigenvalue of the (Gauss-Newton) Hessian ``2 Jᵀ D J``.
    """
    return _number(_spectrum(kernel, weights).max_learning_rate)


def steps_to(
    kernel: Kernel | Spectrum,
    residuals: Mapping[str, ArrayLike],
    tolerance: ArrayLike,
    *,
    learning_rate: ArrayLike,
    weights: Weights | None = None,
) -> dict[str, float | Array]:
    """Steps of gradient descent until ``‖r_i‖ ≤ tolerance · ‖r_i(0)‖``, for each term.

    Found by doubling and bisection, up to ``2**50`` steps: if the norm of a term is not
    monotone, a brief earlier crossing between two powers of two can be missed.

    Args:
        kernel: of the network, finite or infinite; or its spectrum, which has its weights; where no memory
            holds it, `spectra.krylov_spectrum` of these residuals.
        residuals: at step 0, as of `Problem.residuals`.
        tolerance: relative to the initial norm of each term, between 0 and 1.
        learning_rate: positive, and stable.
        weights: ``λ_i`` by term, 1 if not given; 0 for terms that are not trained, unless given.

    Returns:
        Number of steps by term; ``inf`` where it is never reached, or not within what the
        rounding of float64 leaves of the spectrum (`Spectrum.lost`).  From a Krylov space, between the
        steps to tolerances a tenth greater and a tenth smaller.

    Raises:
        ValueError: as `gradient_descent`; a tolerance outside (0, 1); a tolerance that is not reached
            by the modes that a kernel in float32 leaves; one that the products of a Krylov space do not decide.
    """
    if fails((0 < tolerance) & (tolerance < 1)):
        raise ValueError(f"`tolerance` is relative to the initial residual, between 0 and 1; got {tolerance}.")
    descent = gradient_descent(kernel, learning_rate, weights)
    found, blocks = descent.spectrum, descent.spectrum.kernel
    found.amplitudes(residuals)  # Checks them.
    first = _first_steps(descent, dict(residuals), tolerance)
    steps = {name: _number(first[name]) for name in blocks.names}
    never = [name for name, count in steps.items() if isinstance(count, float) and count == float("inf")]
    if isinstance(found, KrylovSpectrum):
        _check_errors(descent, residuals, tolerance, first)
        return steps
    precision = blocks.matrix.dtype
    if never and jnp.finfo(precision).bits < 64 and found.lost > 0:
        raise ValueError(
            f"The modes that a kernel in {precision} leaves do not reduce the residuals of {never} to {tolerance} of "
            f"their start: {int(found.lost)} of its {len(found.values)} are within rounding of zero.  Make the kernel "
            "in float64, of parameters and points in float64 with `jax_enable_x64`, or ask for less."
        )
    return steps


def _check_errors(
    descent: Descent, residuals: Mapping[str, ArrayLike], tolerance: ArrayLike, steps: Mapping[str, Array]
) -> None:
    """Raise `ValueError` where the error of a Krylov space decides when a term is within ``tolerance``."""
    for name, count in steps.items():
        goal = tolerance * jnp.sqrt(jnp.mean(jnp.asarray(residuals[name]) ** 2))
        error = descent.errors(jnp.where(jnp.isfinite(count), count, 2.0**50))[name]
        if fails(error <= 0.1 * goal):
            raise ValueError(
                f"When {name!r} is within {tolerance} of its start is not decided by {len(descent.spectrum.values)} "
                f"products: its residuals there are known to {float(error):.1g}, and {float(goal):.1g} is wanted.  "
                "Give `spectra.krylov_spectrum` more of them, or a greater tolerance."
            )


@jax.jit
def _first_steps(descent: Descent, r0: dict[str, Array], tolerance: ArrayLike) -> dict[str, Array]:
    """First step at which each term is within ``tolerance``; infinite if there is none up to ``2**50``."""

    def first(name: str) -> Array:
        goal = tolerance**2 * jnp.mean(jnp.asarray(r0[name]) ** 2)

        def within(steps: Array) -> Array:
            r = descent.spectrum.evolve(r0, *descent._after(steps), names=[name])[name]
            return jnp.mean(r**2, -1) <= goal

        def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = ends
            middle = jnp.floor((low + high) / 2)
            below = within(middle)
            return jnp.where(below, low, middle), jnp.where(below, middle, high)

        powers = 2.0 ** jnp.arange(51)
        reached = within(powers)
        high = powers[jnp.argmax(reached)]
        high = jax.lax.fori_loop(0, 50, halve, (jnp.floor(high / 2), high))[1]
        return jnp.where(reached.any(), high, jnp.inf)

    return {name: first(name) for name in r0}


def with_output(problem: Problem, name: str = "output") -> Problem:
    """``problem`` with one more term, by default ``"output"``: the network itself, on any points of the domain.

    Its residual is the error ``u - solution`` (``u`` itself where no solution is known).  It is
    never trained (`Condition.trained`): its weight is 0, unless one is given.

    >>> import jax
    >>> from pinn_analysis import convergence, mlp, ntk, problems
    >>> problem = convergence.with_output(problems.poisson_1d(a=1))
    >>> network = mlp((1, 64, 1), parameterization="ntk", bias_std=1.0)
    >>> params = network.init(jax.random.key(0))
    >>> points = problem.sample(jax.random.key(1), {"boundary": 2, "residual": 10, "output": 20})
    >>> kernel = ntk.empirical(problem, network.apply, params, points)
    >>> start = problem.residuals(lambda x: network.apply(params, x), points)
    >>> rate = convergence.max_learning_rate(kernel) / 2
    >>> error = convergence.gradient_descent(kernel, rate).residuals(start, 500)["output"]
    >>> error.shape
    (20,)

    Raises:
        ValueError: there is a condition of that name already.
    """
    if name in problem.conditions:
        raise ValueError(
            f"{problem.name!r} has a condition {name!r} already, {list(problem.conditions)}; give another `name`."
        )
    target = problem.solution or (lambda x: jnp.zeros((), x.dtype))
    output = Condition(identity, target, box(*problem.domain), trained=False)
    return problem._replace(conditions=problem.conditions | {name: output})


def _spectrum(kernel: Kernel | Spectrum, weights: Weights | None) -> Spectrum:
    if not isinstance(kernel, Spectrum):
        return spectrum(kernel, weights)
    if weights is not None:
        raise ValueError("A spectrum has its weights already: give them to `spectra.spectrum`, and not here.")
    return kernel


def _mean_squares(residuals: Mapping[str, ArrayLike]) -> dict[str, Array]:
    return {name: jnp.mean(r**2, -1) for name, r in residuals.items()}


def _number(x: Array) -> float | Array:
    """A number of Python's, unless it is not known yet."""
    return x if isinstance(x, jax.core.Tracer) else float(x)


def _positive(x: Array) -> Array:
    """``x`` with 1 for 0, for the branch of a `where` that is not taken."""
    return jnp.where(x > 0, x, 1)


def _not_negative(x: ArrayLike, what: str) -> Array:
    x = jnp.asarray(x, float)
    if fails((x >= 0).all()):
        raise ValueError(f"A {what} cannot be negative or NaN, got {float(jnp.min(x))}.")
    return x
