"""The NTK paper's Poisson notebook, and the same network in the NTK parametrisation.

    python book/experiments/ntk_notebook.py [--seeds 1] [--widest 512]

For chapter 13.  Every pair of runs starts from one function, written in both parametrisations, and both lose
their loss equally fast at the start.  The time is that of the notebook's 40,000 steps of
1e-5, taken in 10,000; a tenth of it is also run with the notebook's own step.  And both are
followed in small steps, down to the same losses.
"""

import functools

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from pinn_analysis import convergence, networks, ntk, problems, results

import runs

TIME, STEPS = 0.4, 10_000
WIDTH = 512  # The notebook's.
REPEAT = 50  # Each end is 50 times among its boundary points.
LEVELS = (0.5, 0.1, 1e-2)  # Of the loss at the start: how far the kernel has moved when it is reached,
SMALL = 0.1  # in steps of this part of the stable one, which is computed anew when the loss has halved,
LEG = 2000  # or after so many steps,
MOST = 200_000  # and at most so many.
FLOWS = (128, 512, 2048)  # Widths.
# Each: frequency and size of the solution, parametrisation, which rate, widths.
CASES = (
    (4, 1.0, "standard", "speed", (128, 512, 2048)),
    (4, 1.0, "ntk", "speed", (128, 512, 2048)),
    (4, 1.0, "ntk", "step", (512,)),
    (1, 1.0, "standard", "speed", (512,)),
    (1, 1.0, "ntk", "speed", (512,)),
    (4, 1 / 16, "standard", "speed", (512,)),
    (4, 1 / 16, "ntk", "speed", (512,)),
)
POINTS = {"boundary": np.array([[0.0], [1.0]]), "residual": np.linspace(0, 1, 100)[:, None]}
# The notebook scales by mean and deviation of its residual points; `standardized` wants a box.
HALF = float(np.std(POINTS["residual"])) * np.sqrt(3)


def network(width: int, parameterization: str) -> networks.Network:
    net = networks.mlp((1, width, 1), parameterization=parameterization, bias_std=1.0)
    return networks.standardized(net, np.array([0.5 - HALF]), np.array([0.5 + HALF]))


def to_standard(params):
    """The same function with the factors ``1 / √fan_in`` moved from the layers into the weights."""
    return [{"weight": p["weight"] / np.sqrt(len(p["weight"])), "bias": p["bias"]} for p in params]


def kernel(problem, apply, params) -> np.ndarray:
    """With each end 50 times among the points, up to a rotation of its rows."""
    k = ntk.empirical(problem, apply, params, POINTS)
    root = np.sqrt(np.repeat([REPEAT, 1], k.sizes))
    return root[:, None] * np.asarray(k.matrix) * root


def last_kernel(problem, apply):
    """The part of it that the last layer's weights have: those do not occur in it."""

    @jax.jit
    def part(params):
        def rows(weight) -> jax.Array:
            changed = [params[0], {"weight": weight, "bias": params[1]["bias"]}]
            return jnp.concatenate(list(problem.residuals(functools.partial(apply, changed), POINTS).values()))

        root = np.sqrt(np.repeat([REPEAT, 1], [len(x) for x in POINTS.values()]))
        jacobian = root[:, None] * jax.jacrev(rows)(params[1]["weight"])[..., 0]
        return jnp.matmul(jacobian, jacobian.T, precision="highest")

    return lambda params: np.asarray(part(params))


def scaled(a: float, size: float) -> problems.Problem:
    """Poisson with the solution ``size · sin(a π x)``."""

    def times(target):
        return lambda x: size * target(x)

    problem = problems.poisson_1d(a)
    conditions = {k: c._replace(target=times(c.target)) for k, c in problem.conditions.items()}
    return problem._replace(conditions=conditions, solution=times(problem.solution))


def gradient(problem, apply, params):
    return jax.grad(lambda p: sum(problem.losses(functools.partial(apply, p), POINTS).values()))(params)


def matched_rate(problem, nets: dict, starts: dict, config: dict) -> float:
    """So that ``dL/dt = -η ‖∇L‖²`` is that of the notebook's parametrisation."""
    slopes = {n: sum(jnp.sum(g**2) for g in jax.tree.leaves(gradient(problem, nets[n].apply, starts[n]))) for n in nets}
    return float(TIME / STEPS * WIDTH / config["width"] * slopes["standard"] / slopes[config["parameterization"]])


def to_equal_loss(config: dict, problem, apply, params) -> dict[str, np.ndarray]:
    """Change of the kernel, loss, steps, time, and the step relative to the stable one, at each of LEVELS."""
    weights = {name: 1.0 for name in POINTS}
    loss = lambda p: sum(problem.losses(functools.partial(apply, p), POINTS).values())

    @jax.jit
    def descend(p, rate, goal):
        def step(state):
            p, count = state
            return jax.tree.map(lambda a, g: a - rate * g, p, jax.grad(loss)(p)), count + 1

        return jax.lax.while_loop(lambda s: (s[1] < LEG) & (loss(s[0]) > goal), step, (p, 0))

    def stable(p) -> float:
        return convergence.max_learning_rate(ntk.empirical(problem, apply, p, POINTS), weights)

    first, at_start = kernel(problem, apply, params), float(loss(params))
    now, steps, time, reached = params, 0, 0.0, []
    limit = stable(now)
    for level in config["levels"]:
        while (value := float(loss(now))) > level * at_start and steps < config["most"]:
            rate = config["small"] * limit
            now, count = descend(now, rate, max(value / 2, level * at_start))
            limit = stable(now)
            steps, time = steps + int(count), time + rate * int(count)
        moved = np.linalg.norm(kernel(problem, apply, now) - first) / np.linalg.norm(first)
        reached.append([moved, value / at_start, steps, time, rate / limit])
    return {"levels": np.float32(reached)}


AT_LEVEL = ("kernel", "loss", "steps", "time", "step / stable")
PATH = ("kernel", "kernel_last", "kernel_rest", "parameters", "first_layer", "last_layer", "boundary", "residual")


def make(config: dict) -> dict[str, np.ndarray]:
    """The columns of PATH along a run, and both ends of it."""
    nets = {name: network(config["width"], name) for name in ("standard", "ntk")}
    drawn = nets["ntk"].init(jax.random.key(config["seed"]))
    starts = {"ntk": drawn, "standard": to_standard(drawn)}
    problem = scaled(config["a"], config["size"])
    apply, params = nets[config["parameterization"]].apply, starts[config["parameterization"]]
    if config["rate"] == "small steps":
        return to_equal_loss(config, problem, apply, params)
    rate = matched_rate(problem, nets, starts, config) if config["rate"] == "speed" else TIME / STEPS
    rate *= config["time"] / TIME * STEPS / config["steps"]  # Other steps over the same time.

    losses = jax.jit(lambda p: problem.losses(functools.partial(apply, p), POINTS))
    flat = lambda p: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(p)])
    last = last_kernel(problem, apply)
    first, first_last, theta = kernel(problem, apply, params), last(params), flat(params)
    step = runs.descent(problem, apply, POINTS, rate)
    descend = jax.jit(lambda p, count: jax.lax.fori_loop(0, count, lambda _, p: step(p), p))
    now, path = params, []
    for more in np.diff(config["records"], prepend=0):
        now = descend(now, more)
        moved, terms = flat(now) - theta, losses(now)
        difference, of_last = kernel(problem, apply, now) - first, last(now) - first_last
        layers = [
            np.linalg.norm(q["weight"] - p["weight"]) / np.linalg.norm(p["weight"])
            for p, q in zip(params, now, strict=True)
        ]
        path.append(
            [
                *(np.linalg.norm(part) / np.linalg.norm(first) for part in (difference, of_last, difference - of_last)),
                np.linalg.norm(moved) / np.linalg.norm(theta),
                *layers,
                terms["boundary"],
                terms["residual"],
            ]
        )
    field, x = functools.partial(apply, now), problems.grid(problem, 1000)
    second = problem.conditions["residual"].operator(field)
    target = problem.conditions["residual"].target
    arrays = {
        "path": path,
        "errors": [
            problems.relative_l2_error(field, problem.solution, x),
            problems.relative_l2_error(second, target, x),
        ],
        "learning_rate": rate,
        "top": [np.linalg.eigvalsh(k)[-1] for k in (first, first[:2, :2])],  # Of K and of K_uu, at the start.
        "share_last": np.trace(first_last) / np.trace(first),  # Of the last layer's weights in the trace.
    }
    return {name: np.float32(value) for name, value in arrays.items()}


def configs(seeds: int, widest: int, cases: tuple, steps: int) -> dict[str, dict]:
    def config(a, size, parameterization, rate, width, seed, time=TIME, steps=steps, records=None) -> dict:
        return {
            "a": a, "size": size, "parameterization": parameterization, "rate": rate, "width": width, "seed": seed,
            "time": time, "steps": steps, "path": PATH,
            "records": records or np.unique(np.geomspace(1, steps, 21).astype(int)).tolist(),
            "activation": "tanh", "boundary_points": 100, "residual_points": 100,
            "inputs": "mean 0 and deviation 1 over the residual points",
        }  # fmt: skip

    found = {
        f"{a} {size} {parameterization} {rate} {width} {seed}":
            config(a, size, parameterization, rate, width, seed)
        for seed in range(seeds)
        for a, size, parameterization, rate, widths in cases
        for width in widths
        if width <= widest
    }  # fmt: skip
    # A tenth of the first run, with the notebook's own step and with ours.
    *first, widths = cases[0]
    width = min(widths, key=lambda width: abs(width - WIDTH))
    if width <= widest:
        for finer in (4, 1):
            count = finer * steps // 10
            name = f"{' '.join(map(str, first))} {width} 0, a tenth in {count}"
            found[name] = config(*first, width, 0, TIME / 10, count, [count])
    for seed in range(seeds):
        for parameterization in ("standard", "ntk"):
            for width in (w for w in FLOWS if w <= widest):
                found[f"to equal loss {parameterization} {width} {seed}"] = {
                    "a": 4, "size": 1.0, "parameterization": parameterization, "rate": "small steps", "width": width,
                    "seed": seed, "levels": LEVELS, "small": SMALL, "most": MOST, "columns": AT_LEVEL,
                }  # fmt: skip
    return found


def main(seeds: int = 1, widest: int = WIDTH) -> None:
    results.fill("ntk_notebook", configs(seeds, widest, CASES, STEPS), make)


if __name__ == "__main__":
    runs.command_line(main)
