"""The NTK paper's Poisson notebook, and the same network in the NTK parametrisation.

    python book/experiments/ntk_notebook.py [--seeds 1] [--widest 512]

Every pair of runs starts from one function, written in both parametrisations, and both lose
their loss equally fast at the start.  The time is that of the notebook's 40,000 steps of
1e-5, taken in 10,000; a tenth of it is also run with the notebook's own step.  The file is
written after every run, and what it has is kept.
"""

import argparse
import functools
import json
import time

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from pinn_analysis import networks, ntk, problems, results

TIME, STEPS = 0.4, 10_000
WIDTH = 512  # The notebook's.
REPEAT = 50  # Each end is 50 times among its boundary points.
RECORDS = np.unique(np.geomspace(1, STEPS, 21).astype(int))
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
WIDTHS = (128, 512, 2048)
POINTS = {"boundary": np.array([[0.0], [1.0]]), "residual": np.linspace(0, 1, 100)[:, None]}
# The notebook scales by mean and deviation of its residual points; `standardized` wants a box.
HALF = float(np.std(POINTS["residual"])) * np.sqrt(3)


def network(width: int, parameterization: str) -> networks.Network:
    net = networks.mlp((1, width, 1), parameterization=parameterization, bias_std=1.0)
    return networks.standardized(net, [0.5 - HALF], [0.5 + HALF])


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


def gradient_of(problem, apply):
    def loss(params) -> jax.Array:
        return sum(problem.losses(functools.partial(apply, params), POINTS).values())

    return jax.value_and_grad(loss)


def train(problem, apply, params, learning_rate: float, steps: int) -> dict[str, np.ndarray]:
    gradient = gradient_of(problem, apply)

    @jax.jit
    def descend(params, count: int):
        step = lambda _, p: jax.tree.map(lambda q, g: q - learning_rate * g, p, gradient(p)[1])
        return jax.lax.fori_loop(0, count, step, params)

    losses = jax.jit(lambda p: problem.losses(functools.partial(apply, p), POINTS))
    flat = lambda p: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(p)])
    last = last_kernel(problem, apply)
    first, first_last, theta = kernel(problem, apply, params), last(params), flat(params)
    now, done, path = params, 0, []
    for at in np.unique(RECORDS * steps // STEPS):
        now, done = descend(now, int(at - done)), int(at)
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
    errors = [problems.relative_l2_error(field, problem.solution, x), problems.relative_l2_error(second, target, x)]
    return {"path": np.array(path), "errors": np.array(errors), "start": first, "last": first_last}


PATH = ("kernel", "kernel_last", "kernel_rest", "parameters", "first_layer", "last_layer", "boundary", "residual")


def resume(arrays: dict[str, np.ndarray], config: dict) -> float:
    """Fill what is missing from the stored file, if it is of this configuration; the seconds it took."""
    if not (results.FOLDER / "ntk_notebook.npz").exists():
        return 0.0
    stored, how = results.load("ntk_notebook")
    if how["config"] != json.loads(json.dumps(config)):
        return 0.0
    for name, values in arrays.items():
        arrays[name] = np.where(np.isnan(values), stored[name], values)
    return how["seconds"]


def main(seeds: int, widest: int) -> None:
    begin = time.perf_counter()
    cases = tuple((*case, tuple(w for w in widths if w <= widest)) for *case, widths in CASES)
    cells = (len(WIDTHS), len(cases), seeds)
    arrays = {
        "path": np.full((*cells, len(RECORDS), len(PATH)), np.nan),
        "errors": np.full((*cells, 2), np.nan),  # Of u and u''.
        "learning_rate": np.full(cells, np.nan),
        "top": np.full((*cells, 2), np.nan),  # Largest eigenvalue of K and of K_uu, at the start.
        "share_last": np.full(cells, np.nan),  # Of the last layer's weights in the trace.
        "own_step": np.full((2, len(PATH)), np.nan),  # A tenth of the first run: in 4,000 steps, and in 1,000.
    }
    config = {
        "activation": "tanh", "widths": WIDTHS, "cases": cases, "seeds": list(range(seeds)), "time": TIME,
        "steps": STEPS, "records": RECORDS.tolist(), "path": PATH, "precision": "float64", "boundary_points": 100,
        "residual_points": 100, "inputs": "mean 0 and deviation 1 over the residual points",
    }  # fmt: skip
    before = resume(arrays, config)

    def keep() -> None:
        resume(arrays, config)
        small = {key: values.astype(np.float32) for key, values in arrays.items()}
        results.save("ntk_notebook", config, seconds=before + time.perf_counter() - begin, **small)

    def matched_rate(problem, nets, starts, name: str) -> float:
        """So that ``dL/dt = -η ‖∇L‖²`` is that of the notebook's parametrisation."""
        gradients = {n: gradient_of(problem, nets[n].apply)(starts[n])[1] for n in nets}
        slopes = {n: sum(jnp.sum(g**2) for g in jax.tree.leaves(gradients[n])) for n in nets}
        width = len(starts[name][1]["weight"])
        return float(TIME / STEPS * WIDTH / width * slopes["standard"] / slopes[name])

    for width in sorted(WIDTHS, key=lambda w: abs(w - WIDTH)):  # The notebook's first.
        i = WIDTHS.index(width)
        nets = {name: network(width, name) for name in ("standard", "ntk")}
        for seed in range(seeds):
            drawn = nets["ntk"].init(jax.random.key(seed))
            starts = {"ntk": drawn, "standard": to_standard(drawn)}
            for j, (a, size, name, rule, widths) in enumerate(cases):
                at = (i, j, seed)
                if width not in widths or np.isfinite(arrays["errors"][at][0]):
                    continue
                problem = scaled(a, size)
                rate = matched_rate(problem, nets, starts, name) if rule == "speed" else TIME / STEPS
                run = train(problem, nets[name].apply, starts[name], rate, STEPS)
                arrays["path"][at], arrays["errors"][at], arrays["learning_rate"][at] = run["path"], run["errors"], rate
                arrays["top"][at] = [np.linalg.eigvalsh(k)[-1] for k in (run["start"], run["start"][:2, :2])]
                arrays["share_last"][at] = np.trace(run["last"]) / np.trace(run["start"])
                if at == (WIDTHS.index(WIDTH), 0, 0):
                    for row, finer in enumerate((4, 1)):
                        tenth = train(problem, nets[name].apply, starts[name], rate / finer, finer * STEPS // 10)
                        arrays["own_step"][row] = tenth["path"][-1]
                keep()
                print(width, *cases[j][:4], seed, round(time.perf_counter() - begin), run["errors"], flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--widest", type=int, default=WIDTH, choices=WIDTHS)
    main(**vars(parser.parse_args()))
