"""What each formula for loss weights does to training: Helmholtz and the wave equation.

    python book/experiments/weight_formulas.py [--equations helmholtz_2d wave_1d] [--steps 10000]
        [--seeds 3] [--width 50]

For chapter 17.  All formulas of `weight_rules` from the same parameters on the same points, updated every 100
steps with 0.9 of the old weight, so that nothing but the formula differs; and no weights.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pinn_analysis import networks, problems, results, training, weight_rules, weighting

import runs

PROBLEMS = {"helmholtz_2d": problems.helmholtz_2d(), "wave_1d": problems.wave_1d()}
FORMULAS = {name: formula.weights for name, formula in weight_rules.FORMULAS.items()}
RULES = {"no weights": lambda state: dict.fromkeys(state.kernel.names, jnp.ones(())), **FORMULAS}
DEPTH, BATCH_SIZE, EVERY, DECAY, RECORD_EVERY = 3, 128, 100, 0.9, 500


@functools.cache
def trainer(equation: str, sizes: tuple[int, ...], steps: int):
    """``(index of a rule, key) -> history``; the index is traced, so all rules share one compilation."""
    problem = PROBLEMS[equation]
    network = networks.standardized(networks.mlp(sizes), *problem.domain)
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


def make(config: dict) -> dict[str, np.ndarray]:
    run = trainer(config["problem"], tuple(config["sizes"]), config["steps"])
    history = run(list(RULES).index(config["rule"]), jax.random.key(config["seed"]))
    return {"step": np.arange(0, config["steps"] + 1, RECORD_EVERY), **flatten(history, config["terms"])}


def configs(equations, steps: int, seeds: int, width: int) -> dict[str, dict]:
    return {
        f"{name} {rule} {seed}": runs.settings(
            problem=name, rule=rule, seed=seed, steps=steps, sizes=(2, *[width] * DEPTH, 1),
            terms=list(PROBLEMS[name].conditions), formulas=list(FORMULAS), batch_size=BATCH_SIZE, every=EVERY,
            decay=DECAY,
        )
        for name in equations
        for seed in range(seeds)
        for rule in RULES
    }  # fmt: skip


def main(equations: tuple[str, ...] = tuple(PROBLEMS), steps: int = 10_000, seeds: int = 3, width: int = 50) -> None:
    results.fill("weight_formulas", configs(equations, steps, seeds, width), make)


if __name__ == "__main__":
    runs.command_line(main, equations=PROBLEMS)
