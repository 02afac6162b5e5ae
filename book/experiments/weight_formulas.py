"""What each formula for loss weights does to training: Helmholtz and the wave equation.

    python book/experiments/weight_formulas.py [--problems helmholtz_2d wave_1d] [--steps 10000]
        [--seeds 3] [--width 50]

All formulas of `weight_rules` from the same parameters on the same points, updated every 100
steps with 0.9 of the old weight, so that nothing but the formula differs; and no weights.
One record a run; what is stored already is not run again, and more steps replace fewer.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pinn_analysis import networks, problems, results, training, weight_rules, weighting

PROBLEMS = {"helmholtz_2d": problems.helmholtz_2d(), "wave_1d": problems.wave_1d()}
FORMULAS = {name: formula.weights for name, formula in weight_rules.FORMULAS.items()}
RULES = {"no weights": lambda state: dict.fromkeys(state.kernel.names, jnp.ones(())), **FORMULAS}
DEPTH, BATCH_SIZE, EVERY, DECAY, RECORD_EVERY = 3, 128, 100, 0.9, 500


def trainer(problem: problems.Problem, width: int, steps: int):
    """``(index of a rule, key) -> history``; the index is traced, so all rules share one compilation."""
    network = networks.standardized(networks.mlp((2, *[width] * DEPTH, 1)), *problem.domain)
    optimizer, grid = training.adam(), problems.grid(problem, 100)

    def losses(params, points) -> dict:
        return problem.losses(functools.partial(network.apply, params), points)

    def run(index: jax.Array, key: jax.Array) -> dict:
        start, draw = jax.random.split(key)
        rule = weighting.moving(
            lambda state: jax.lax.switch(index, list(RULES.values()), state), every=EVERY, decay=DECAY
        )

        def points(step: jax.Array) -> dict:
            return problem.sample(jax.random.fold_in(draw, step), BATCH_SIZE)

        def step(number: jax.Array, carry: tuple) -> tuple:
            params, state, weights, weighting_state = carry
            batch = points(number)
            weights, weighting_state = rule.update(weighting_state, problem, network.apply, params, batch)
            gradient = jax.grad(lambda p: sum(weights[name] * value for name, value in losses(p, batch).items()))
            updates, state = optimizer.update(gradient(params), state, params)
            return optax.apply_updates(params, updates), state, weights, weighting_state

        def record(carry: tuple, at: jax.Array) -> dict:
            params, _, weights, _ = carry
            batch = points(at)
            return {
                "error": problems.relative_l2_error(functools.partial(network.apply, params), problem.solution, grid),
                "losses": losses(params, batch),
                "weights": weights,
                "table": weight_rules.table(weight_rules.measure(problem, network.apply, params, batch)),
            }

        def advance(carry: tuple, at: jax.Array) -> tuple:
            after = jax.lax.fori_loop(at, at + RECORD_EVERY, step, carry)
            return after, record(after, at + RECORD_EVERY)

        params = network.init(start)
        weighting_state = rule.init(problem)
        carry = params, optimizer.init(params), weighting_state[0], weighting_state
        first = record(carry, jnp.zeros((), int))
        _, rest = jax.lax.scan(advance, carry, jnp.arange(0, steps, RECORD_EVERY))
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)

    return jax.jit(run)


def flatten(history: dict, terms: list[str]) -> dict[str, np.ndarray]:
    """Arrays ``(record,)``, ``(record, term)``, ``(record, formula, term)``."""
    by_term = {name: np.stack([history[name][term] for term in terms], -1) for name in ("losses", "weights")}
    table = [np.stack([history["table"][formula][term] for term in terms], -1) for formula in FORMULAS]
    arrays = {"error": history["error"], **by_term, "table": np.stack(table, 1)}
    return {name: np.float32(array) for name, array in arrays.items()}


def main(names: list[str], steps: int, seeds: int, width: int) -> None:
    for name in names:
        problem = PROBLEMS[name]
        configs = {
            f"{name} {rule} {seed}": {
                "problem": name, "rule": rule, "seed": seed, "steps": steps, "sizes": (2, *[width] * DEPTH, 1),
                "terms": list(problem.conditions), "formulas": list(FORMULAS), "batch_size": BATCH_SIZE,
                "every": EVERY, "decay": DECAY, "optimizer": "adam 1e-3, 0.9 per 1,000", "precision": "float32",
                "inputs": "standardized",
            }
            for seed in range(seeds)
            for rule in RULES
        }  # fmt: skip
        run = trainer(problem, width, steps)
        for record in results.missing("weight_formulas", configs):
            config = configs[record]
            start = time.perf_counter()
            history = flatten(run(list(RULES).index(config["rule"]), jax.random.key(config["seed"])), config["terms"])
            results.add(
                "weight_formulas", record, config, seconds=time.perf_counter() - start,
                step=np.arange(0, steps + 1, RECORD_EVERY), **history,
            )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", dest="names", nargs="+", choices=list(PROBLEMS), default=list(PROBLEMS))
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=50)
    main(**vars(parser.parse_args()))
