"""A boundary condition weighted, or removed by a factor in front of the network, on two equations.

    python book/experiments/hard_constraints.py [--cases poisson helmholtz] [--seeds 5]

For chapter 26.  ``u = D N`` with ``D = 0`` on the boundary meets the condition whatever ``N`` is.  Each way is
predicted from the kernel of infinite width, and trained: Poisson by gradient descent at a quarter of the largest step
that is stable in the limit, both equations by Adam.  Points are the same in every step, and on a grid unless said.
"""

import functools
import time

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from pinn_analysis import (
    Condition,
    Problem,
    convergence,
    identity,
    networks,
    ntk,
    partial,
    problems,
    results,
    spectra,
    training,
)  # fmt: skip

import runs

CASES = {"poisson": lambda: problems.poisson_1d(4), "helmholtz": lambda: problems.helmholtz_2d(1, 4)}
HIDDEN = {"poisson": (128,), "helmholtz": (32, 32)}  # Of Adam; descent has one layer of the config's width.
WIDTHS = (512, 128)
GRIDS = {"poisson": (100,), "helmholtz": (12, 32)}  # Of residual points.
KERNEL_GRIDS = {"poisson": (100,), "helmholtz": (8, 20)}
WEIGHTS = (1.0, 10.0, 100.0, 1000.0)
FACTORS = {  # Of one coordinate in [0, 1], at most about 1.
    "1": lambda s: 4 * s * (1 - s),
    "10 x 1": lambda s: 40 * s * (1 - s),
    "1.5": lambda s: (4 * s * (1 - s)) ** 1.5,
    "2": lambda s: (4 * s * (1 - s)) ** 2,
    "3": lambda s: (4 * s * (1 - s)) ** 3,
    "sine": lambda s: jnp.sin(jnp.pi * s),
    "tanh 1": lambda s: jnp.tanh(s) * jnp.tanh(1 - s) / jnp.tanh(0.5) ** 2,
    "tanh 0.3": lambda s: jnp.tanh(s / 0.3) * jnp.tanh((1 - s) / 0.3),
    "tanh 0.1": lambda s: jnp.tanh(s / 0.1) * jnp.tanh((1 - s) / 0.1),
    "tanh 0.03": lambda s: jnp.tanh(s / 0.03) * jnp.tanh((1 - s) / 0.03),
}
BY_ADAM = ("1", "10 x 1", "2", "tanh 0.3", "tanh 0.1")
STEPS = {"descent": 2000, "adam": 2000, "kernel": 10**9}
LONGER = 6000
RATE = 1e-2  # Of Adam, at the start; it falls to zero like a cosine.


def factor(case: str, name: str):
    """``D``: one factor per axis."""
    low, high = CASES[case]().domain
    return lambda x: jnp.prod(FACTORS[name]((x - low) / (high - low)))


def midpoints(problem: Problem, counts: tuple[int, ...]) -> Array:
    """Of the cells of a grid, so that none is on the boundary."""
    low, high = problem.domain
    axes = [a + (b - a) * (np.arange(n) + 0.5) / n for a, b, n in zip(low, high, counts, strict=True)]
    return jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(counts))


def edge(case: str) -> Array:
    """Boundary points: both ends, or 24 on each edge."""
    if case == "poisson":
        return jnp.array([[0.0], [1.0]])
    s = (jnp.arange(24) + 0.5) / 12 - 1
    return jnp.concatenate([jnp.stack(pair, -1) for e in (-1.0, 1.0) for pair in ((s, 0 * s + e), (0 * s + e, s))])


def network(case: str, width: int | None = None) -> networks.Network:
    """In the standard form for Adam, and of a given width in that of the theory for descent."""
    problem = CASES[case]()
    sizes = (len(problem.domain[0]), *(HIDDEN[case] if width is None else (width,) * len(HIDDEN[case])), 1)
    options = {} if width is None else {"parameterization": "ntk", "bias_std": 1.0}
    return networks.standardized(networks.mlp(sizes, **options), *problem.domain)


@functools.cache
def jets(case: str) -> ntk.KernelBlocks:
    """The limit's kernel of all that ``L(D N) = D L N + 2 ∇D·∇N + N ΔD`` is made of."""
    problem = CASES[case]()
    zero = lambda x: jnp.zeros((), x.dtype)
    axes = {f"N_{i}": partial(i) for i in range(len(problem.domain[0]))}
    inner = {"N": identity, **axes, "LN": problem.conditions["residual"].operator}
    rows = {"boundary": identity, **inner, "output": identity}
    where = dict.fromkeys(inner, midpoints(problem, KERNEL_GRIDS[case]))
    points = {"boundary": edge(case), **where, "output": problems.grid(problem, {1: 101, 2: 10}[len(axes)])}
    jet = Problem("jet", {name: Condition(one, zero, None) for name, one in rows.items()}, problem.domain)
    return ntk.infinite(jet, network(case, 1).kernel_fn, points)


def kernel(case: str, arm: dict) -> ntk.KernelBlocks:
    """Of the residual, of the boundary unless it is removed, and of the output."""
    whole, problem = jets(case), CASES[case]()
    d = len(problem.domain[0])
    sizes = dict(zip(whole.names, whole.sizes, strict=True))
    if "weight" in arm:
        names = ("boundary", "LN", "output")
        matrix = jnp.block([[whole[a, b] for b in names] for a in names])
        counts = tuple(sizes[name] for name in names)
        return ntk.KernelBlocks(matrix, ("boundary", "residual", "output"), counts, ("output",))
    D, x = factor(case, arm["factor"]), midpoints(problem, KERNEL_GRIDS[case])
    output = problems.grid(problem, {1: 101, 2: 10}[d])
    value, slope, second = jax.vmap(D)(x), jax.vmap(jax.grad(D))(x), jax.vmap(jax.hessian(D))(x)
    parts = {"N": jnp.trace(second, axis1=1, axis2=2), "LN": value} | {f"N_{i}": 2 * slope[:, i] for i in range(d)}
    here = jax.vmap(D)(output)
    rr = sum(parts[a][:, None] * whole[a, b] * parts[b] for a in parts for b in parts)
    ro = sum(parts[a][:, None] * whole[a, "output"] * here for a in parts)
    oo = here[:, None] * whole["output", "output"] * here
    matrix = jnp.block([[rr, ro], [ro.T, oo]])
    return ntk.KernelBlocks((matrix + matrix.T) / 2, ("residual", "output"), (len(x), len(output)), ("output",))


def predict(case: str, arm: dict, steps: np.ndarray) -> dict:
    """From the limit: errors of ``u``, zero at the start, at a quarter of the largest stable step; the spectrum."""
    problem = convergence.with_output(CASES[case]())
    found = kernel(case, arm)
    weights = {"boundary": arm.get("weight"), "residual": 1.0, "output": 0.0}
    spectrum = spectra.spectrum(found, {name: weights[name] for name in found.names})
    points = {"boundary": edge(case), "residual": midpoints(problem, KERNEL_GRIDS[case])}
    points["output"] = problems.grid(problem, {1: 101, 2: 10}[len(problem.domain[0])])
    zero = problem.residuals(lambda x: jnp.zeros((), x.dtype), points)
    zero = {name: zero[name] for name in found.names}
    rate = 0.25 * spectrum.max_learning_rate
    descent = convergence.gradient_descent(spectrum, rate)
    first = jnp.mean(zero["output"] ** 2)
    error = [jnp.sqrt(descent.losses(zero, at)["output"] / first) for at in np.array_split(steps, 8)]
    counts = {
        f"steps/{goal}": convergence.steps_to(spectrum, zero, goal, learning_rate=rate)["output"]
        for goal in (0.3, 0.1, 0.01)
    }
    values = np.asarray(spectrum.values)[::-1][: sum(found.sizes) - found.sizes[-1]]
    traces = found.traces()
    ratio = 0.0
    if "weight" in arm:
        ratio = float(traces["residual"] / found.sizes[1] / (traces["boundary"] / found.sizes[0]))
    return counts | {
        "predicted": np.concatenate(error), "rate": rate, "values": values, "trace_ratio": ratio,
        "effective_rank": spectra.effective_rank(jnp.asarray(values)), "condition": values[0] / values[values > 0][-1],
    }  # fmt: skip


def make(config: dict) -> dict:
    case, arm = config["case"], config["arm"]
    begun = time.process_time()
    steps = np.unique(np.geomspace(1, config["steps"], 80).astype(int))
    found = {"step": steps}
    if config["optimizer"] != "adam":
        found |= predict(case, arm, steps)
    if config["optimizer"] != "kernel":
        found |= trained(config, steps, found.get("rate"))
    return found | {"cpu_seconds": time.process_time() - begun}


def trained(config: dict, steps: np.ndarray, rate: Array | None) -> dict:
    """Errors and residual losses of all seeds."""
    case, arm = config["case"], config["arm"]
    problem = CASES[case]()
    net = network(case, config["width"])
    points = {"boundary": edge(case), "residual": midpoints(problem, GRIDS[case])}
    if config["points"] == "random":
        points["residual"] = problem.conditions["residual"].sample(jax.random.key(7), 256)
    weights = {"boundary": arm.get("weight"), "residual": 1.0}
    if "factor" in arm:
        problem, D, inner = problem.only("residual"), factor(case, arm["factor"]), net.apply
        net = net._replace(apply=lambda params, x: D(x) * inner(params, x))
    points = {name: points[name] for name in problem.conditions}
    weights = {name: weights[name] for name in problem.conditions}
    schedule = optax.cosine_decay_schedule(config["rate"], config["steps"]) if rate is None else None
    optimizer = optax.sgd(rate) if rate is not None else optax.adam(schedule)
    test = problems.grid(problem, {1: 400, 2: 40}[len(problem.domain[0])])

    def look(state):
        field = lambda x: net.apply(state[0], x)
        error = problems.relative_l2_error(field, problem.solution, test)
        return {"error": error, "loss": problem.losses(field, points)["residual"]}

    def run(key):
        params = net.init(key)
        step = training.stepper(problem, net.apply, points, optimizer, weights)
        return training.follow(step, look, steps)((params, optimizer.init(params)))[1]

    return {
        name: np.float32(v) for name, v in jax.vmap(run)(jax.random.split(jax.random.key(0), config["seeds"])).items()
    }


def main(cases: tuple[str, ...] = tuple(CASES), seeds: int = 5) -> None:
    configs = {}

    def add(label: str, case: str, optimizer: str, arm: dict, **own) -> None:
        usual = {"width": WIDTHS[0] if optimizer == "descent" else None, "rate": RATE, "points": "grid"} | own
        label = " ".join([case, optimizer, *(f"{k} {v}" for k, v in arm.items()), *label.split()])
        steps = STEPS[optimizer]
        configs[label] = {"case": case, "optimizer": optimizer, "arm": arm, "steps": steps, "seeds": seeds} | usual

    for case, optimizer in (
        ("poisson", "descent"),
        ("poisson", "adam"),
        ("helmholtz", "kernel"),
        ("helmholtz", "adam"),
    ):
        if case not in cases:
            continue
        names = BY_ADAM if optimizer == "adam" else FACTORS
        for arm in [{"factor": name} for name in names] + [{"weight": weight} for weight in WEIGHTS]:
            add("", case, optimizer, arm)
    for arm in ({"factor": "1"}, {"weight": 100.0}):
        if "poisson" in cases:
            add("narrow", "poisson", "descent", arm, width=WIDTHS[1])
        if "helmholtz" in cases:
            add("random", "helmholtz", "adam", arm, points="random")
    if "helmholtz" in cases:
        for arm in ({"factor": "1"}, {"factor": "10 x 1"}, {"weight": 100.0}, {"weight": 1000.0}):
            add("longer", "helmholtz", "adam", arm, steps=LONGER)
    results.fill("hard_constraints", configs, make)


if __name__ == "__main__":
    runs.command_line(main, cases=CASES)
