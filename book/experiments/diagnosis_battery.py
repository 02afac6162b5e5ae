"""Planted causes and healthy runs, trained and diagnosed: what `diagnosis.diagnose` sees.

    python book/experiments/diagnosis_battery.py [--equations poisson ...] [--plants "weak term" ...] [--seeds 2]

For chapter 24.  The plan, written down before any threshold was chosen.
Three equations, none of whose settings are the book's:

- ``poisson``: u'' = f on [0, 1], u = sin(2πx);
- ``heat``: u_t = u_xx / 10 on [0, 1]², u = exp(-π²t/10) sin(πx);
- ``ode``: u' + u + u³ = f on [0, 2], u = sin(2t) + 1/2, which is nonlinear.

Each is trained by Adam (rate 3e-3, falling as a cosine) on fixed points, tanh, two layers of 32, inputs
standardized, in float64: the clean run.  A plant changes one thing (`PLANTS`).  It counts where its relative error is
above 0.1; a healthy run counts where it is below 0.03.  The diagnosis gets the solution in the plants that nothing
else can reveal (wrong sign, wrong coefficient), and in no other.
Seeds that are even are for thresholds, odd ones for figures.

Inputs 100 times too large, an offset of 1e6 in float32, and four points for the ODE did not make the runs fail;
the plan has 1e4, 1e8 and two instead.  What is stored are the numbers that were measured, so that findings can be
asked for anew.
"""

import functools
import itertools
import json
import zlib
from typing import NamedTuple

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
import optax
from pinn_analysis import diagnosis, networks, problems, results, training, weighting
from pinn_analysis.operators import identity, partial
from pinn_analysis.problems import Condition, Problem, box, faces

import runs

EQUATIONS = ("poisson", "heat", "ode")
CAUSES = {  # What the first finding has to be, by plant; plants of one cause may be several.
    "weak term": "weak term",
    "unstable step": "unstable step",
    "too few points": "too few points",
    "overfitted points": "overfitted points",
    "frequency too high": "frequency too high",
    "inputs not scaled": "inputs not scaled",
    "precision": "precision",
    "wrong sign": "wrong sign or coefficient",
    "wrong coefficient": "wrong sign or coefficient",
    "missing condition": "missing condition",
    "contradictory data": "contradictory data",
    "collapsed constraint": "collapsed constraint",
    "saturated units": "saturated units",
    "units of terms": "units of terms",
    "too few steps": "too few steps",
}
HEALTHY = ("clean", "hard constraint", "sines", "fresh points")
PLANTS = (*CAUSES, *HEALTHY)
LEAVE_OUT = ("gradients", "hessian")  # Of the diagnosis: no finding needs them here.
STEPS, RATE, WIDTH = 2000, 3e-3, 32
POINTS = {"poisson": 64, "heat": 256, "ode": 64}  # Of the residual.
WEIGHTS = {"poisson": 100.0, "heat": 10.0, "ode": 10.0}  # Of the other terms.


class Axes(NamedTuple):
    """``x = offset + size * y`` for ``y`` in the equation's own box."""

    size: float = 1.0
    offset: float = 0.0


@functools.cache
def equation(name: str, plant: str) -> Problem:
    """An equation with what a plant changes in it; derivatives are by ``y`` of `Axes`."""
    axes = Axes(size=1e4) if plant == "inputs not scaled" else Axes(offset=1e8) if plant == "precision" else Axes()
    sign = -1.0 if plant == "wrong sign" else 1.0
    factor = 3.0 if plant == "wrong coefficient" else 1.0
    times = 12.0 if plant == "frequency too high" else 1.0
    one = {"poisson": _poisson, "heat": _heat, "ode": _ode}[name](axes, sign, factor, times)
    conditions = dict(one.conditions)
    if plant == "units of terms":
        conditions["residual"] = conditions["residual"].scaled(1e4)
    if plant == "contradictory data":
        low, up = one.domain
        x = low + (up - low) * jax.random.uniform(jax.random.key(5), (16, low.size))
        conditions["readings"] = problems.data(x, 1.5 * jax.vmap(one.solution)(x) + 0.3)
    if plant == "missing condition":
        low, up = one.domain
        if name == "poisson":
            conditions["boundary"] = conditions["boundary"]._replace(sample=faces(low, up, (0, 0)))
        else:
            del conditions["initial"]
    if plant in ("collapsed constraint", "hard constraint"):
        conditions = {"residual": conditions["residual"]}
    return one._replace(conditions=conditions)


def _poisson(axes: Axes, sign: float, factor: float, times: float) -> Problem:
    omega = 2 * np.pi * times
    solution = lambda x: jnp.sin(omega * (x[0] - axes.offset) / axes.size)
    operator = lambda u: lambda x: axes.size**2 * partial(0, 0)(u)(x)
    source = lambda x: -sign * factor * omega**2 * solution(x)
    low = jnp.array([axes.offset])
    high = low + axes.size
    return Problem("poisson", {
        "boundary": Condition(identity, solution, faces(low, high)),
        "residual": Condition(operator, source, box(low, high)),
    }, (low, high), solution)  # fmt: skip


def _heat(axes: Axes, sign: float, factor: float, times: float) -> Problem:
    k = np.pi * times
    rate = k**2 / 10 / times**2
    diffusion = rate / k**2
    y = lambda x: (x - axes.offset) / axes.size
    solution = lambda x: jnp.exp(-rate * y(x)[1]) * jnp.sin(k * y(x)[0])

    def operator(u):
        u_t, u_xx = partial(1)(u), partial(0, 0)(u)
        return lambda x: sign * axes.size * u_t(x) - factor * diffusion * axes.size**2 * u_xx(x)

    zero = lambda x: jnp.zeros((), x.dtype)
    low = jnp.full(2, axes.offset)
    high = low + axes.size
    return Problem("heat", {
        "boundary": Condition(identity, zero, faces(low, high, (0, 0), (0, 1))),
        "initial": Condition(identity, solution, faces(low, high, (1, 0))),
        "residual": Condition(operator, zero, box(low, high)),
    }, (low, high), solution)  # fmt: skip


def _ode(axes: Axes, sign: float, factor: float, times: float) -> Problem:
    y = lambda x: 2 * (x[0] - axes.offset) / axes.size
    solution = lambda x: jnp.sin(2 * times * y(x)) + 0.5
    slope = lambda x: 2 * times * jnp.cos(2 * times * y(x))
    left = lambda value, du: du + value + value**3
    operator = lambda u: lambda x: sign * axes.size / 2 * partial(0)(u)(x) + factor * u(x) + u(x) ** 3
    low = jnp.array([axes.offset])
    high = low + axes.size
    return Problem("ode", {
        "initial": Condition(identity, solution, faces(low, high, (0, 0))),
        "residual": Condition(operator, lambda x: left(solution(x), slope(x)), box(low, high)),
    }, (low, high), solution)  # fmt: skip


@functools.cache
def network(name: str, plant: str) -> networks.Network:
    """The network of a plant."""
    problem = equation(name, plant)
    d = len(problem.domain[0])
    net = networks.mlp((d, WIDTH, WIDTH, 1), bias_std=1.0)
    if plant == "sines":
        net = networks.mlp((d, WIDTH, WIDTH, 1), "sin", bias_std=1.0)
    if plant == "overfitted points":
        net = networks.mlp((d, 8 * WIDTH, 1), "sin", parameterization="ntk", weight_std=30.0, bias_std=1.0)
    if plant != "inputs not scaled":
        net = networks.standardized(net, *problem.domain)
    if plant in ("collapsed constraint", "hard constraint"):
        power, inner = 12 if plant == "collapsed constraint" else 1, net.apply

        def apply(params, x):
            at = (x - problem.domain[0]) / (problem.domain[1] - problem.domain[0])
            if name == "poisson":
                return (4 * at[0] * (1 - at[0])) ** power * inner(params, x)
            if name == "ode":
                return problem.solution(problem.domain[0]) + at[0] ** power * inner(params, x)
            factor = (4 * at[0] * (1 - at[0]) * at[1]) ** power
            return problem.solution(x.at[1].set(problem.domain[0][1])) + factor * inner(params, x)

        net = net._replace(apply=apply)
    if plant == "saturated units":
        init = net.init
        net = net._replace(init=lambda key: jax.tree.map(lambda leaf: 30.0 * leaf, init(key)))
    return net


class Setting(NamedTuple):
    """What a run is trained with; a cure changes some of it.

    Attributes:
        problem: the equation.
        network: with its own start.
        sizes: numbers of points.
        weights: of the loss.
        steps: of Adam.
        rate: its learning rate, or a schedule.
        fresh: whether points are drawn anew in every step.
        dtype: of points and parameters.
    """

    problem: Problem
    network: networks.Network
    sizes: dict[str, int]
    weights: dict[str, float]
    steps: int
    rate: float | optax.Schedule
    fresh: bool = False
    dtype: type = jnp.float64


def asked(plant: str) -> float:
    """The rate of Adam that the diagnosis is given."""
    return 0.5 if plant == "unstable step" else RATE / 3


def setting(config: dict) -> Setting:
    """That of a plant."""
    name, plant, steps = config["equation"], config["plant"], config["updates"]
    problem = equation(name, plant)
    sizes = {term: POINTS[name] // 4 for term in problem.conditions} | {"residual": POINTS[name]}
    if plant == "too few points":
        sizes["residual"] = 2 if name == "ode" else 4
    weights = dict.fromkeys(problem.conditions, WEIGHTS[name]) | {"residual": 1.0}
    if plant == "weak term":
        weights = {term: weight if term == "residual" else weight / 1e5 for term, weight in weights.items()}
    if plant in ("collapsed constraint", "hard constraint", "units of terms"):
        weights = dict.fromkeys(problem.conditions, 1.0)
    rate = asked(plant) if plant == "unstable step" else optax.cosine_decay_schedule(RATE, steps)
    dtype = jnp.float32 if plant == "precision" else jnp.float64
    return Setting(problem, network(name, plant), sizes, weights, steps, rate, plant == "fresh points", dtype)


def train(chosen: Setting, seed: int) -> tuple:
    """``(parameters, points, relative error)`` after training; the last finite parameters of a run that diverges."""
    key = jax.random.key(seed)
    first, second = jax.random.split(key)
    problem, net = chosen.problem, chosen.network
    points = jax.tree.map(lambda x: x.astype(chosen.dtype), problem.sample(first, chosen.sizes))
    params = jax.tree.map(lambda x: x.astype(chosen.dtype), net.init(second))
    try:
        params = training.train(
            problem, net, key=key, steps=chosen.steps, optimizer=optax.adam(chosen.rate),
            weighting=weighting.fixed(**chosen.weights), params=params, record_every=chosen.steps, progress=False,
            **({"batch_size": chosen.sizes} if chosen.fresh else {"points": points}),
        ).params  # fmt: skip
    except training.DivergedError as diverged:
        params = diverged.run.params
    x = problems.test_points(problem)
    error = problems.relative_l2_error(functools.partial(net.apply, params), problem.solution, x)
    return params, points, float(error)


def make(config: dict) -> dict:
    """Train, measure the true error, diagnose."""
    chosen, plant = setting(config), config["plant"]
    params, points, error = train(chosen, config["seed"])
    known = chosen.problem.solution if plant in ("wrong sign", "wrong coefficient") else None
    found = diagnosis.diagnose(
        chosen.problem._replace(solution=known), chosen.network.apply, params, points, weights=chosen.weights,
        optimizer=optax.adam(asked(plant)), budget=1e6, leave_out=LEAVE_OUT,
    )  # fmt: skip
    return {
        "error": error, "measured": packed(found.measured), "seconds": sum(found.seconds.values()),
        "not_measured": json.dumps(found.not_measured),
    }  # fmt: skip


def packed(measured: dict) -> np.ndarray:
    """The numbers of a diagnosis, short lists included."""

    def short(value):
        if isinstance(value, dict):
            return {k: short(v) for k, v in value.items() if isinstance(k, str) and np.size(v) <= 32}
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, (list, tuple)):
            return [short(v) for v in value]
        return float(f"{value:.4g}") if isinstance(value, float) else value

    return np.frombuffer(zlib.compress(json.dumps(short(measured)).encode()), np.uint8)


def main(
    equations: tuple[str, ...] = EQUATIONS, plants: tuple[str, ...] = PLANTS, seeds: int = 4, steps: int = STEPS
) -> None:
    configs = {
        f"{name} {plant} {seed}": {
            "equation": name, "plant": plant, "seed": seed, "optimizer": f"adam {RATE:g}, cosine",
            "updates": steps // 20 if plant == "too few steps" else steps, "width": WIDTH,
        }
        for seed, name, plant in itertools.product(range(seeds), equations, plants)
    }  # fmt: skip
    results.fill("diagnosis_battery", configs, make)


if __name__ == "__main__":
    runs.command_line(main, equations=EQUATIONS, plants=PLANTS)
