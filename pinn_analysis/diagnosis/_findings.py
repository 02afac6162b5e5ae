"""What the measurements mean: one function per cause, in one table."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from pinn_analysis.diagnosis._case import Measured
from pinn_analysis.diagnosis._measure import TRIAL_STEPS
from pinn_analysis.solving._linear import over

BATTERY = "book/experiments/diagnosis_battery.py"
HEALTHY = 0.03  # Relative error of a network that there is nothing to say about.
MET = HEALTHY  # A term is met that is missed by less, of what an error of 100 % would leave.
SOLVED = 0.03  # An estimate of the error with which solving without training is the advice.
ILL_POSED = 1e5  # Two fields so much further apart than either is from meeting the terms are two solutions.


@dataclasses.dataclass(frozen=True)
class Finding:
    """One cause, with its evidence.

    Attributes:
        cause: one of ``CAUSES``.
        where: the term, axis or layer that it is about; empty if it is about the whole.
        number: what was measured.
        threshold: beyond which it is a finding.
        evidence: the number, in a sentence.
        source: where the threshold comes from.
        certainty: what the battery says about findings of this cause.
        advice: what to try, as code.
        gain: what to expect of it.
    """

    cause: str
    where: str
    number: float
    threshold: float
    evidence: str
    source: str
    certainty: str
    advice: str
    gain: str

    @property
    def severity(self) -> float:
        """How far beyond its threshold the number is, as a factor."""
        big, small = max(self.number, self.threshold), min(self.number, self.threshold)
        return float(big / small) if small > 0 else float("inf")


class Seen(NamedTuple):
    """What a cause found: the rest of a `Finding` stands in its row of the table."""

    where: str
    number: float
    evidence: str
    advice: str
    gain: str


class Cause(NamedTuple):
    """A row of the table.

    Attributes:
        find: ``(measured, threshold) -> Seen``, or None; a measurement it needs and that is missing is a `KeyError`.
        threshold: as chosen on the first half of the battery.
        always: also of a network that solves the problem it was given.
    """

    find: Callable[[Measured, float], Seen | None]
    threshold: float
    always: bool = False


def wrong_equation(measured: Measured, threshold: float) -> Seen | None:
    """The known solution does not solve a term that is an equation."""
    found = measured["substitution"]
    worst = _worst({name: left for name, left in found["left"].items() if not found["of values"][name]})
    if worst is None or found["left"][worst] < threshold:
        return None
    advice = f'problem.only("{worst}").residuals(solution, points)   # must be zero: compare sign and coefficients'
    gain = "everything: no training can make up for another equation"
    if worst in found["coefficients"]:
        now, fits = found["coefficients"][worst]
        gain = f"with {fits:.6g} for {now:.6g} the solution solves it"
    return Seen(
        worst, found["left"][worst],
        f"the known solution leaves {found['left'][worst]:.2g} times what an error of 100 % would leave in this "
        "equation",
        advice, gain,
    )  # fmt: skip


def contradictory_data(measured: Measured, threshold: float) -> Seen | None:
    """A term about values that the known solution does not have, or that no field can meet beside the others."""
    if "substitution" in measured:
        found = measured["substitution"]
        worst = _worst({name: left for name, left in found["left"].items() if found["of values"][name]})
        if worst is not None and found["left"][worst] > threshold:
            return _contradiction(worst, found["left"][worst], f"the known solution misses the values of {worst!r}")
    found = measured["reference"]
    best = None
    for name, without in found.get("without", {}).items():
        missed = over(without["residual"], found["units"][name] * (without["size"] or found["size"]))
        # Solvable without it, uniquely where the term is, and then the term is not met.
        # Of the field that was found, which an error may be all of; of the solution it may be any number of times.
        solvable = without["estimate"] < 0.1 * found["estimate"] / (1 + found["estimate"])
        if solvable and without["disagreement"] < 0.1 and missed > threshold:
            if best is None or missed > best[1]:
                best = name, missed
    if best is None:
        return None
    return _contradiction(
        *best, f"without {best[0]!r} the problem is solvable (error {found['without'][best[0]]['estimate']:.1e}, "
        f"with it {found['estimate']:.1e}), and its solution misses these values"
    )  # fmt: skip


def _contradiction(name: str, number: float, why: str) -> Seen:
    return Seen(
        name, number, f"{why} by {number:.2g} of its size",
        f'solving.solve(problem.only(*(set(problem.conditions) - {{"{name}"}})), key=key)   # then compare "{name}"',
        "the error falls to what the other terms allow",
    )  # fmt: skip


def missing_condition(measured: Measured, threshold: float) -> Seen | None:
    """Two solutions of one problem."""
    found = measured["reference"]
    number = found["disagreement"]
    met = max(over(r, found["units"][name] * found["size"]) for name, r in found["residuals"].items())
    # Where the problem has more than one solution, the estimate, of an error, may be anything.
    if number < threshold or (number < 5 * found["estimate"] and number < ILL_POSED * met):
        return None
    return Seen(
        "", number,
        f"two fields meet every term to about {met:.0e} and differ by {100 * number:.2g} %: "
        "the problem has more than one solution",
        'problem.conditions["initial"] = Condition(identity, u0, faces(low, high, (1, 0)))   # or whichever is missing',
        "everything: which of the solutions a network finds is chance",
    )  # fmt: skip


def lost_precision(measured: Measured, threshold: float) -> Seen | None:
    """Residuals of the size of the rounding."""
    found = measured["precision"]
    worst = _worst(found["rounding"])
    if worst is None or found["dtype"] == "float64" or found["rounding"][worst] < threshold:
        return None
    number = found["rounding"][worst]
    return Seen(
        worst, number, f"residuals in {found['dtype']} and in float64 differ by {100 * number:.2g} % of themselves",
        'jax.config.update("jax_enable_x64", True)   # or make inputs and units of order 1',
        "training goes on where rounding stopped it",
    )  # fmt: skip


def unscaled_inputs(measured: Measured, threshold: float) -> Seen | None:
    """An axis of a size far from 1 that reaches the first layer as it is."""
    found, worst = measured["inputs"], None
    for axis, (mean, std, varies) in enumerate(
        zip(found["mean"], found["deviation"], found["first activation varies by"], strict=True)
    ):
        off = max(std, 1 / std, abs(mean) / max(std, 1.0))
        felt = max(varies, over(1, varies))
        saturated = found["saturated"][0] > 0.5
        if off > threshold and (felt > 5 or saturated) and (worst is None or off > worst[1]):
            worst = axis, off, mean, std, varies
    if worst is None:
        return None
    axis, off, mean, std, varies = worst
    return Seen(
        f"axis {axis}", off,
        f"axis {axis} has mean {mean:.3g} and deviation {std:.3g}; the first activations vary by {varies:.2g} "
        f"along it, {100 * found['saturated'][0]:.0f} % of them are saturated",
        "network = standardized(network, *problem.domain)   # or scale x inside `apply`",
        "features that vary over the domain; train anew",
    )  # fmt: skip


def saturated_units(measured: Measured, threshold: float) -> Seen | None:
    """Activations whose slope is a hundredth of the largest, or less."""
    found = measured["inputs"]
    share = found["saturated"][0]  # Later layers saturate in training too, for high frequencies.
    if share < threshold:
        return None
    return Seen(
        "first layer", share, f"{100 * share:.0f} % of the activations of the first layer are saturated",
        "params = network.init(key)   # smaller weights and biases: Glorot's, `mlp(..., weight_std=1.0)`",
        "units that can move again; train anew",
    )  # fmt: skip


def collapsed_constraint(measured: Measured, threshold: float) -> Seen | None:
    """A factor in front of the network that leaves it nothing to say on much of the domain."""
    share = 1 - measured["output"]["share that moves"]
    if share < threshold:
        return None
    return Seen(
        "", share,
        f"on {100 * share:.0f} % of the domain the network can move less than a hundredth as far as elsewhere",
        "apply = lambda params, x: a(x) + jnp.prod(x * (1 - x)) * net(params, x)   # a factor linear at the edge",
        "the residual can be reduced everywhere",
    )  # fmt: skip


def units_of_terms(measured: Measured, threshold: float) -> Seen | None:
    """Terms whose residuals are in units of different size, whatever the network."""
    units = {name: measured["reference"]["units"][name] for name in measured["kernel"]["rates"]}
    large, small = max(units, key=units.__getitem__), min(units, key=units.__getitem__)
    number = over(units[large], units[small])
    if number < threshold:
        return None
    return Seen(
        large, number,
        f"an error of the field makes residuals {number:.1e} times as large in {large!r} as in {small!r}",
        f'condition = problem.conditions["{large}"].scaled({1 / units[large]:.1e})   # make the equation dimensionless',
        "one learning rate and weights of order 1 serve all terms",
    )  # fmt: skip


def unstable_step(measured: Measured, threshold: float) -> Seen | None:
    """A step that moves the field by more than its size, or a rate of plain descent above the stable one."""
    found = measured["step"]
    if found["moves"] > threshold:
        factor = 0.1 / found["moves"]
        return Seen(
            "", found["moves"], f"one step moves the field by {found['moves']:.2g} times its size",
            f"optimizer = optax.chain(optimizer, optax.scale_by_schedule(optax.cosine_decay_schedule({factor:.1g}, "
            "steps)))   # train anew",
            "a loss that falls",
        )  # fmt: skip
    if found["learning rate"] is not None and "hessian" in measured:
        number = found["learning rate"] / measured["hessian"]["largest step"]
        if number > threshold and found["ratio"] > 2:
            return Seen(
                "", number,
                f"the learning rate {found['learning rate']:.2g} is {number:.2g} times the largest stable one",
                f"optimizer = optax.sgd({0.5 * measured['hessian']['largest step']:.2g})", "a loss that falls",
            )  # fmt: skip
    return None


def _gap(measured: Measured, threshold: float) -> tuple[str, float] | None:
    missed = _missed(measured)  # A residual that is small beside the points, too, may be as much smaller at them.
    gap = {name: by for name, by in measured["points"]["gap"].items() if missed[name] > MET}
    worst = _worst(gap)
    return None if worst is None or gap[worst] < threshold else (worst, gap[worst])


def too_few_points(measured: Measured, threshold: float) -> Seen | None:
    """Residuals that are large beside the points, which do not determine the solution."""
    found = _gap(measured, threshold)
    if found is None or measured["points"]["reference on them"] < 0.03:
        return None
    name, number = found
    count = measured["points"]["counts"][name]
    return Seen(
        name, number,
        f"between its {count} points the residual is {number:.2g} times as large, and the best fit to them is off "
        f"by {100 * measured['points']['reference on them']:.2g} %",
        f"points = problem.sample(key, {4 * max(measured['points']['counts'].values())})   # or fresh ones every step",
        "the error falls to that of the residual on held-out points",
    )  # fmt: skip


def overfitted_points(measured: Measured, threshold: float) -> Seen | None:
    """Residuals that are large beside points that do determine the solution."""
    found = _gap(measured, threshold)
    if found is None or measured["points"]["reference on them"] >= 0.03:
        return None
    name, number = found
    return Seen(
        name, number,
        f"between its points the residual is {number:.2g} times as large, though they determine the solution to "
        f"{100 * measured['points']['reference on them']:.1g} %",
        _features(measured["reference"]["scale"]) + "   # smooth between the points",
        "held-out residuals as small as those of the training",
    )  # fmt: skip


def weak_term(measured: Measured, threshold: float) -> Seen | None:
    """A term that the others outpull and that is far from met: balanced, it would be so much sooner."""
    pull = {name: measured["weights"][name] * rate for name, rate in measured["kernel"]["rates"].items()}
    missed = _missed(measured)
    worst, strongest = _worst(missed), _worst(pull)
    number = over(pull[strongest], pull[worst])
    if number < threshold or missed[strongest] > MET:  # What is not met itself leaves others behind for another cause.
        return None
    now = measured["kernel"]["in use"]["steps to 10 %"][worst]
    then = measured["kernel"]["balanced"]["steps to 10 %"][worst]
    balanced = {name: float(f"{w:.2g}") for name, w in measured["kernel"]["weights"].items()}
    return Seen(
        worst, number,
        f"another term pulls {number:.2g} times as hard, and this one is met worst: "
        f"it leaves {missed[worst]:.2g} times what an error of 100 % would leave",
        f"weights = {balanced}   # `diagnosis.weights`; or weighting=weighting.ntk_trace()",
        f"10 % of it after {_count(then)} of descent instead of {_count(now)}, as the kernel predicts",
    )  # fmt: skip


def frequency_too_high(measured: Measured, threshold: float) -> Seen | None:
    """Most of a residual is in modes that do not move, though the weights are balanced."""
    left, now = measured["kernel"]["balanced"]["left after 10,000 steps"], measured["residuals"]["training"]
    stays = {name: over(left[name], now[name]) for name, by in _missed(measured).items() if by > MET}
    worst = _worst(stays)
    if worst is None or stays[worst] < threshold:
        return None
    estimate, scale = measured["reference"]["estimate"], max(measured["reference"]["scale"], 2.0)
    if estimate < SOLVED:
        advice = "solution = solving.solve(problem, key=jax.random.key(0))   # .field, .error_estimate"
        gain = f"an error of about {estimate:.0e}, to which this problem was solved here"
    else:
        advice, gain = _features(scale), "the frequencies of the solution are among the features"
    return Seen(
        worst, stays[worst],
        f"10,000 steps at half the largest stable rate, with balanced weights, leave {100 * stays[worst]:.0f} % of "
        "this residual, as the kernel predicts",
        advice, gain,
    )  # fmt: skip


def _features(scale: float) -> str:
    return (
        f'network = standardized(mlp((d, 100, 1), "sin", parameterization="ntk", weight_std={scale:g}, bias_std=1.0), '
        "*problem.domain)"
    )


def too_few_steps(measured: Measured, threshold: float) -> Seen | None:
    """A loss that falls as it should, and was not given the time."""
    fall = measured["step"]["fall"]
    if fall < threshold:
        return None
    return Seen(
        "", fall, f"the loss falls by a factor of {fall:.2g} in {TRIAL_STEPS} more steps",
        "train(problem, network, key=key, steps=10 * steps, params=params)", "as far as the loss goes on falling",
    )  # fmt: skip


#: The causes, upstream first: one stands before those whose symptoms it brings about.
CAUSES: dict[str, Cause] = {
    "wrong sign or coefficient": Cause(wrong_equation, 0.01, always=True),
    "contradictory data": Cause(contradictory_data, 0.05, always=True),
    "missing condition": Cause(missing_condition, 1e-3, always=True),
    "precision": Cause(lost_precision, 0.3),
    "inputs not scaled": Cause(unscaled_inputs, 5.0),
    "unstable step": Cause(unstable_step, 1.0),
    "saturated units": Cause(saturated_units, 0.5),
    "collapsed constraint": Cause(collapsed_constraint, 0.2),
    "units of terms": Cause(units_of_terms, 3e3),
    "too few points": Cause(too_few_points, 10.0),
    "overfitted points": Cause(overfitted_points, 10.0),
    "weak term": Cause(weak_term, 30.0),
    "frequency too high": Cause(frequency_too_high, 0.5),
    "too few steps": Cause(too_few_steps, 2.0),
}
#: Right of all first findings of a cause, on the half of the battery that thresholds were not chosen on.
CERTAINTY: dict[str, tuple[int, int]] = {
    "wrong sign or coefficient": (12, 12),
    "contradictory data": (6, 6),
    "missing condition": (6, 6),
    "precision": (6, 6),
    "inputs not scaled": (6, 6),
    "unstable step": (6, 6),
    "saturated units": (6, 6),
    "collapsed constraint": (6, 6),
    "units of terms": (6, 6),
    "too few points": (6, 8),
    "overfitted points": (6, 6),
    "weak term": (6, 6),
    "frequency too high": (4, 4),
    "too few steps": (5, 5),
}


def find(measured: Measured) -> list[Finding]:
    """All causes whose function finds something, upstream first; what lacks a measurement finds nothing."""
    found = []
    relative = measured.get("error", {}).get("relative")
    for cause, (function, threshold, always) in CAUSES.items():
        if not always and relative is not None and relative < HEALTHY:
            continue
        try:
            seen = function(measured, threshold)
        except KeyError:
            continue
        if seen is not None:
            right, of = CERTAINTY.get(cause, (0, 0))
            certainty = f"right in {right} of {of} held-out cases of the battery" if of else "not calibrated yet"
            found.append(
                Finding(cause, seen.where, float(seen.number), threshold, seen.evidence, BATTERY, certainty,
                        seen.advice, seen.gain)
            )  # fmt: skip
    return found


def _missed(measured: Measured) -> dict[str, float]:
    """How badly each term is met beside its points: 1 is what an error of 100 % would leave."""
    units, size = measured["reference"]["units"], measured["reference"]["size"]
    held_out = measured["residuals"]["held_out"]
    return {name: over(held_out[name], units[name] * size) for name in measured["kernel"]["rates"]}


def _worst(numbers: Mapping[str, float]) -> str | None:
    return max(numbers, key=numbers.__getitem__) if numbers else None


def _count(steps: float) -> str:
    if steps == 1:
        return "1 step"
    return (f"{steps:.0f}" if steps < 1e5 else "more than 10^15" if np.isinf(steps) else f"{steps:.0e}") + " steps"
