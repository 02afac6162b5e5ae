"""Predicted steps against measured ones: gradient descent from a random start, as a diagnosis foresees it.

    python book/experiments/diagnosis_steps.py [--equations poisson ...] [--seeds 2]

For chapter 24.  The clean runs of `diagnosis_battery`, with networks of several widths in two parametrisations, by
gradient descent on all points at half the largest stable rate.  What is stored, by term: steps until its residual is
10 % of what it was at the start, predicted and measured (infinite where it took more than `MOST`), and how far the
kernel moved in the diagnosis' 200 steps, which is known beforehand.
"""

import itertools

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from pinn_analysis import diagnosis, mlp, results, standardized

import runs
from diagnosis_battery import EQUATIONS, POINTS, WEIGHTS, equation

PARAMETERIZATIONS = ("ntk", "standard")
SHAPES = ((32,), (256,), (1024,), (32, 32), (128, 128))
MOST = 20_000
LEAVE_OUT = tuple(sorted(set(diagnosis.MEASUREMENTS) - {"residuals", "kernel", "movement"}))


def make(config: dict) -> dict:
    """Predict, then train until all terms are there."""
    name = config["equation"]
    problem = equation(name, "clean")
    net = mlp((len(problem.domain[0]), *config["hidden"], 1), parameterization=config["parameterization"], bias_std=1.0)
    net = standardized(net, *problem.domain)
    first, second = jax.random.split(jax.random.key(config["seed"]))
    points = problem.sample(first, {term: 16 for term in problem.conditions} | {"residual": min(POINTS[name], 64)})
    params = net.init(second)
    weights = dict.fromkeys(problem.conditions, WEIGHTS[name]) | {"residual": 1.0}
    found = diagnosis.diagnose(
        problem, net.apply, params, points, weights=weights, budget=1e6, leave_out=LEAVE_OUT
    ).measured
    step = runs.descent(problem, net.apply, points, found["kernel"]["in use"]["largest step"] / 2, weights)
    names = list(problem.conditions)

    def norms(params):
        r = problem.residuals(lambda x: net.apply(params, x), points)
        return jnp.stack([jnp.linalg.norm(r[term]) for term in names])

    @jax.jit
    def reached(params):
        start = norms(params)

        def on(carry):
            count, params, first = carry
            params = step(params)
            met = (norms(params) <= 0.1 * start) & jnp.isinf(first)
            return count + 1, params, jnp.where(met, count + 1.0, first)

        going = lambda carry: (carry[0] < MOST) & jnp.isinf(carry[2]).any()
        return jax.lax.while_loop(going, on, (0, params, jnp.full(len(names), jnp.inf)))[2]

    predicted = found["kernel"]["in use"]["steps to 10 %"]
    return {
        "predicted": np.array([predicted[term] for term in names]), "measured": np.asarray(reached(params)),
        "kernel": max(found["movement"]["kernel"].values()), "linearisation": found["movement"]["linearisation"],
    }  # fmt: skip


def main(equations: tuple[str, ...] = EQUATIONS, seeds: int = 2) -> None:
    configs = {
        f"{name} {how} {'x'.join(map(str, hidden))} {seed}": {
            "equation": name, "parameterization": how, "hidden": hidden, "seed": seed, "most": MOST,
            "optimizer": "gradient descent, half the largest stable rate",
        }
        for seed, name, how, hidden in itertools.product(range(seeds), equations, PARAMETERIZATIONS, SHAPES)
    }  # fmt: skip
    results.fill("diagnosis_steps", configs, make)


if __name__ == "__main__":
    runs.command_line(main, equations=EQUATIONS)
