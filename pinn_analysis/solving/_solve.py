"""One call that chooses everything: scales, width, points."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import PyTree

from pinn_analysis.networks import linearized
from pinn_analysis.problems import Problem
from pinn_analysis.problems._field_shape import field_shape
from pinn_analysis.solving import _system
from pinn_analysis.solving._features import sines, stretched
from pinn_analysis.solving._least_squares import held_out_size, least_squares
from pinn_analysis.solving._linear import over, rms
from pinn_analysis.solving._points import Cover, cover
from pinn_analysis.solving._solution import Solution
from pinn_analysis.weight_rules import trained

FIRST_PARAMETERS, MOST_PARAMETERS = 400, 4000
MOST = int(1.1 * MOST_PARAMETERS)
ROWS = 1.25  # For each parameter; the rank is a half to a fifth of those.
LARGEST_SCALE = 256.0
FULL = 0.9  # Of the smaller side of the Jacobian: a rank above it is no longer that of the equation.
COARSE, FINE = 2.0, 1.4  # Between a scale and the next one tried, in the first network and in wider ones.
RESOLVED = 0.1  # An estimate that is worth refining.
GAIN = 0.5  # A wider network has to lower the estimate to this part.
ACCURATE = 5e-13  # Estimates below it are rounding.
TOO_SMALL = 5  # Times that the estimate of a trial may be.


def solve(
    problem: Problem, *, key: Array, components: int | None = None, memory: float | int | None = None
) -> Solution:
    """Solve ``problem`` with one call that chooses everything, and say how well.

    The network is one hidden layer of sines, linearised; every row of its Jacobian is scaled to unit norm
    (`least_squares`).  What decides is the scale of its first layer, a frequency for each axis.  It is found by small
    trials, without the solution: each is judged by `Solution.error_estimate`, from residuals on points that were not
    fitted.  First one scale for all axes, doubled until the Jacobian has full rank; then each axis by itself; then the
    width is doubled, the scale raised where that helps, until the estimate no longer halves.  In the end all trials are
    compared: where another one differs by more than both estimates admit, and no more of them contradict it than this
    one, that difference is the estimate.

    Points cover what the samplers fill (farthest-point sampling), edges at half the distance of the inside.

    What no condition determines, as the constant of a pressure, needs a value somewhere, as by `problems.data` with one
    reading.  Without it least squares puts any number there if a residual is left, and the estimate is that number's.

    Args:
        problem: linear or not, in a box or what its samplers fill.
        key: for features and points.
        components: of the field; found from the problem if not given.
        memory: bytes to use; half of the machine's if not given.

    Raises:
        ValueError: the number of components does not follow from the problem; too little memory for the smallest trial.
    """
    problem, _ = trained(problem, {})
    if components is not None and components < 1:
        raise ValueError(f"`components` must be at least 1, got {components}.")
    if components is None:
        components = math.prod(field_shape(problem, problem.sample(jax.random.key(0), 1), mend="pass `components=`"))
    trials = _Trials(problem, key, components, _system.half_of_memory() if memory is None else memory)
    d = len(problem.domain[0])
    width = trials.width(FIRST_PARAMETERS)
    while True:
        best = trials.scan(width)
        if best.error < RESOLVED:
            break
        width *= 2
        if not trials.fits(width):
            return trials.finished(best, "no scale resolves the solution in the widest network that may be")
    best = trials.climb_axes(best, COARSE)
    wide = 2 * width  # Wide enough to distinguish the axes.
    while best.error > ACCURATE:
        before = best
        width = 2 * before.width
        if not trials.fits(width):
            return trials.finished(best, "a wider network exceeds what it may have")
        best = trials.climb(trials.at(width, before.scales), np.full(d, FINE))
        if width == wide:
            best = trials.climb_axes(best, FINE)
        if best.error > GAIN * before.error:
            best = min(best, before, key=lambda trial: trial.error)
            return trials.finished(best, "twice the width does not halve the estimate")
    return trials.finished(best, "the estimate is at rounding")


@dataclasses.dataclass(frozen=True)
class _Trial:
    width: int
    scales: tuple[float, ...]
    solution: Solution

    @property
    def error(self) -> float:
        error = self.solution.error_estimate
        return error if np.isfinite(error) else np.inf


class _Trials:
    """Solutions by width and scales, each computed once."""

    def __init__(self, problem: Problem, key: Array, components: int, memory: float | int):
        d = len(problem.domain[0])
        self.problem, self.components, self.memory, self.done = problem, components, memory, {}
        start_key, points_key, held_out_key = jax.random.split(key, 3)
        # The width is in the shapes of parameters alone, so that one network serves all.
        self.network = sines(problem, 1, components)
        self.per_unit = d + 1 + components
        # All that is drawn is drawn once, and a trial takes the first of it: what compiles is what is computed.
        most = int(ROWS * MOST_PARAMETERS)
        self.start = jax.tree.map(np.asarray, sines(problem, self.width(MOST), components).init(start_key))
        self.cover: Cover = cover(problem, points_key, most)
        self.held_out = {name: np.asarray(x) for name, x in problem.sample(held_out_key, most // 2).items()}

    def width(self, parameters: int) -> int:
        return max(1, parameters // self.per_unit)

    def fits(self, width: int) -> bool:
        p = width * self.per_unit
        return p <= MOST and _system.COPIES * ROWS * p**2 * 8 <= self.memory

    def params(self, width: int, scales: tuple[float, ...]) -> PyTree:
        first, last = self.start
        params = [
            {"weight": first["weight"][:, :width], "bias": first["bias"][:width]},
            last | {"weight": last["weight"][:width]},
        ]
        return stretched(jax.tree.map(jnp.asarray, params), scales)

    def at(self, width: int, scales: tuple[float, ...]) -> _Trial:
        scales = tuple(float(s) for s in scales)
        if (width, scales) not in self.done:
            network = linearized(self.network, self.params(width, scales), centered=True)
            points = self.cover.take(int(ROWS * width * self.per_unit))
            held_out = {name: self.held_out[name][: held_out_size(len(x))] for name, x in points.items()}
            solution = least_squares(self.problem, network, points, held_out=held_out, memory=self.memory)
            self.done[width, scales] = _Trial(width, scales, solution)
        return self.done[width, scales]

    def scan(self, width: int) -> _Trial:
        """One scale for all axes, doubled until the Jacobian has full rank."""
        scale, best = 1.0, None
        while scale <= LARGEST_SCALE:
            trial = self.at(width, (scale,) * len(self.problem.domain[0]))
            best = trial if best is None or trial.error < best.error else best
            if trial.solution.rank > FULL * width * self.per_unit or best.error <= ACCURATE:
                break
            scale *= 2
        return best

    def climb(self, best: _Trial, factors: np.ndarray) -> _Trial:
        """Scales times ``factors`` as long as it helps."""
        while best.error > ACCURATE:
            further = self.at(best.width, tuple(np.asarray(best.scales) * factors))
            if not further.error < best.error:
                return best
            best = further
        return best

    def climb_axes(self, best: _Trial, factor: float) -> _Trial:
        """Each axis by itself, down and up."""
        d = len(best.scales)
        for axis in range(d) if d > 1 else ():
            along = np.where(np.arange(d) == axis, factor, 1.0)
            lower = self.climb(best, 1 / along)
            best = lower if lower is not best else self.climb(best, along)
        return best

    def finished(self, best: _Trial, reason: str) -> Solution:
        points, d = self.cover.take(int(ROWS * best.width * self.per_unit)), len(best.scales)
        where = [jnp.asarray(self.held_out[name][: held_out_size(len(x)), :d]) for name, x in points.items()]
        apart = contradiction(
            best.solution, [each.solution for each in self.done.values() if each is not best], jnp.concatenate(where)
        )
        settings = {"width": best.width, "scales": best.scales, "points": sum(map(len, points.values()))}
        if apart > best.error:
            reason = f"{reason}; other trials contradict its estimate, {best.error:.0e}"
        return dataclasses.replace(
            best.solution, settings=settings | {"trials": len(self.done)}, error_estimate=max(best.error, apart),
            reason=f"{reason}; in its best trial {best.solution.reason}",
        )  # fmt: skip


def contradiction(solution: Solution, others: list[Solution], x: Array) -> float:
    """How far the farthest of others is from a solution, if their estimates do not admit it; relative, else 0.

    Residuals are blind to an error that the equation amplifies and that no feature can take back, but another network
    makes another one.  By the triangle inequality two fields differ by no more than both their errors together.  Of two
    that contradict each other, the one that more of them all contradict is taken to be wrong.
    """
    found = [solution, *others]
    u = [_system.values(each.field.func, each.params, x) for each in found]
    apart = np.array([[rms(a - b) for a in u] for b in u])
    admitted = TOO_SMALL * np.array([each.error_estimate * rms(a) for each, a in zip(found, u, strict=True)])
    contradicted = apart > admitted + admitted[:, None]
    votes = contradicted.sum(1)
    return over(float(max(apart[0][contradicted[0] & (votes <= votes[0])], default=0.0)), rms(u[0]))
