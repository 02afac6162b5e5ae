"""One call that measures everything, and what it hands back."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import PyTree

from pinn_analysis import problems, results
from pinn_analysis.diagnosis import _report
from pinn_analysis.diagnosis._case import TEST, Case
from pinn_analysis.diagnosis._findings import Finding, find
from pinn_analysis.diagnosis._measure import LANES, MEASUREMENTS
from pinn_analysis.operators import Field
from pinn_analysis.problems import Apply, Problem, box
from pinn_analysis.weight_rules import trained


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """What was found, and from what; ``print`` it for one page.

    Attributes:
        problem: its name.
        findings: most important first; none for a network that solves its problem.
        measured: numbers and arrays, by measurement.
        not_measured: the reason, by measurement.
        seconds: by measurement, compilation included.
        test: the points at which fields were compared, ``(n, d)``.
    """

    problem: str
    findings: list[Finding]
    measured: dict[str, dict[str, Any]]
    not_measured: dict[str, str]
    seconds: dict[str, float]
    test: jax.Array

    @property
    def error(self) -> float | None:
        """Relative error of the network, None where it could not be measured."""
        return self.measured.get("error", {}).get("relative")

    @property
    def weights(self) -> dict[str, float]:
        """Loss weights that balance the traces of the kernel, the largest rate having 1, for any library.

        They belong to a loss of mean squares, ``Σ λ_i mean(r_i²)``, as of DeepXDE and PINA; the book's cheat sheet
        has factors for others.

        Raises:
            ValueError: the kernel was not measured.
        """
        if "kernel" not in self.measured:
            raise ValueError(f"The kernel was not measured: {self.not_measured.get('kernel')}.")
        return dict(self.measured["kernel"]["weights"])

    def __str__(self) -> str:
        return _report.text(self)

    def plot(self) -> Any:
        """A figure of Matplotlib: residuals, spectrum, steps of each term, the optimiser, and the error over space."""
        from pinn_analysis import plotting

        return plotting.diagnosis(self.measured, self.test)

    def to_html(self, path: str | Path) -> Path:
        """Write one page that needs nothing else, light and dark; whole or not at all."""
        from pinn_analysis import plotting

        return results.write_whole(path, _report.html(self, plotting.svg(self.plot())))


def diagnose(
    problem: Problem,
    apply: Apply,
    params: PyTree,
    points: Mapping[str, ArrayLike],
    *,
    weights: Mapping[str, float | int] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    solution: Field | None = None,
    budget: float | int = 60,
    leave_out: Sequence[str] = (),
    progress: Callable[[str], None] | None = None,
) -> Diagnosis:
    """Why a PINN does not train, how sure that is, and what to do.

    Everything is measured in float64 on copies, what concerns the problem beside what concerns its training,
    on two cores; a measurement that fails takes no other with it.  Nothing is found in a network whose relative
    error is below 3 %, but for what is wrong with the problem itself.

    Args:
        problem: what is to be solved; terms that are not trained are left out.
        apply: ``apply(params, x)``, any function of any pytree of floating-point arrays, of one point.
        params: as they are: after a run that failed, or at its start.
        points: those of the training, or of one of its steps, ``(n_i, d)`` for each condition.
        weights: loss weights of the training, 1 if not given.
        optimizer: of the training, any of optax; without it nothing is found about steps.
        solution: ``x -> u(x)`` if known; that of ``problem`` if not given.
        budget: seconds after which no further measurement is begun.
        leave_out: names of measurements not to make, out of `Diagnosis.measured`.
        progress: called with the name of each measurement as it begins, of two at a time.

    Raises:
        ValueError: see `problems.check`; weights that do not fit; a budget not above 0; an unknown measurement.
    """
    if not budget > 0:
        raise ValueError(f"`budget` is a number of seconds, positive; got {budget}.")
    unknown = set(leave_out) - set(MEASUREMENTS)
    if unknown:
        raise ValueError(f"`leave_out` must name measurements, {list(MEASUREMENTS)}; got {sorted(unknown)}.")
    problem, points = trained(problem, points)
    weights = dict.fromkeys(problem.conditions, 1.0) if weights is None else weights
    weights = {name: float(w) for name, w in weights.items()}
    problems.check_names(problem, weights, "weights")
    problems.check_weights(weights)
    points = problems.check(problem, apply, params, points)
    given, x64 = (problem, params, points), bool(jax.config.read("jax_enable_x64"))
    begun, measured, missing, seconds = time.perf_counter(), {"weights": weights}, {}, {}
    device = jax.config.jax_default_device
    with jax.enable_x64(True):
        case = _case(given, x64, apply, weights, optimizer, solution)

    def measure(lane: Sequence[str]) -> None:
        with jax.enable_x64(True), jax.default_device(device):  # A thread begins with JAX's own settings.
            for name in lane:
                start = time.perf_counter()
                if name in leave_out:
                    missing[name] = "left out"
                    continue
                if start - begun > budget:
                    missing[name] = f"the budget of {budget:g} s was spent"
                    continue
                if progress is not None:
                    progress(name)
                try:
                    measured[name] = MEASUREMENTS[name](case, measured)
                except KeyError as error:
                    missing[name] = f"needs {error.args[0]!r}, which is not measured" if error.args else "KeyError"
                except Exception as error:  # Whatever it is, the others go on.
                    missing[name] = f"{type(error).__name__}: {error}"[:300]
                seconds[name] = time.perf_counter() - start

    with ThreadPoolExecutor(len(LANES)) as pool:  # Tracing, compiling and LAPACK take one core each.
        try:
            list(pool.map(measure, LANES))
        except BaseException:  # An interrupt, or `progress`: what has begun is ended, and no more is begun.
            budget = 0.0
            raise
    return Diagnosis(problem.name, find(measured), measured, missing, seconds, case.test)


def _case(given: tuple, x64: bool, apply: Apply, weights: dict, optimizer: Any, solution: Field | None) -> Case:
    problem, params, points = given
    double = lambda tree: jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), tree)
    problem = problem._replace(domain=double(problem.domain))
    sizes = {name: min(max(len(x), 64), 2000) for name, x in points.items()}
    held_out = double(problem.sample(jax.random.key(19), sizes))
    test = problem.test if callable(problem.test) else box(*problem.domain)
    x = double(jnp.asarray(problem.test) if problem.test is not None and not callable(problem.test) else
               test(jax.random.key(23), TEST))  # fmt: skip
    x = x[:: max(1, len(x) // TEST)][:TEST]
    return Case(
        problem, apply, double(params), double(points), held_out, x, weights, optimizer,
        solution or problem.solution, (given, x64),
    )  # fmt: skip
