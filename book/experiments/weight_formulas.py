"""What each formula for loss weights does to training: Helmholtz and the wave equation.

    python book/experiments/weight_formulas.py [--steps 10000] [--seeds 1] [--width 50]

All formulas of `weight_rules` from the same parameters on the same points, updated every 100
steps with 0.9 of the old weight, so that nothing but the formula differs; and no weights.
Each run is kept in a folder of temporary files, so an interrupted experiment goes on.
"""

import argparse
import functools
import hashlib
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pinn_analysis import networks, problems, results, training, weight_rules

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
        rule = weight_rules.as_weighting(
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
    return {"error": np.asarray(history["error"]), **by_term, "table": np.stack(table, 1)}


def main(steps: int, seeds: int, width: int) -> None:
    folder = Path(tempfile.gettempdir()) / "pinn-analysis-weight_formulas"
    folder.mkdir(exist_ok=True)
    arrays, seconds = {}, 0.0
    for name, problem in PROBLEMS.items():
        run, cells = trainer(problem, width, steps), {}
        for seed in range(seeds):
            for index, rule in enumerate(RULES):
                cell = repr((name, rule, seed, steps, width, DEPTH, BATCH_SIZE, EVERY, DECAY, RECORD_EVERY))
                path = folder / f"{hashlib.sha256(cell.encode()).hexdigest()[:16]}.npz"
                if not path.exists():
                    start = time.perf_counter()
                    history = flatten(run(index, jax.random.key(seed)), list(problem.conditions))
                    np.savez(path, seconds=time.perf_counter() - start, **history)
                cells[rule, seed] = np.load(path)
                seconds += float(cells[rule, seed]["seconds"])
        for what in ("error", "losses", "weights"):  # (rule, seed, record, ...)
            rows = [[cells[rule, seed][what] for seed in range(seeds)] for rule in RULES]
            arrays[f"{name}_{what}"] = np.array(rows, np.float32)
        # All formulas along the run without weights: (seed, record, formula, term).
        arrays[f"{name}_table"] = np.array([cells["no weights", seed]["table"] for seed in range(seeds)], np.float32)
    config = {
        "problems": {name: list(problem.conditions) for name, problem in PROBLEMS.items()}, "rules": list(RULES),
        "formulas": list(FORMULAS), "sizes": (2, *[width] * DEPTH, 1), "steps": steps, "seeds": list(range(seeds)),
        "batch_size": BATCH_SIZE, "every": EVERY, "decay": DECAY, "optimizer": "adam 1e-3, 0.9 per 1,000",
        "precision": "float32", "inputs": "standardized",
    }  # fmt: skip
    results.save("weight_formulas", config, seconds=seconds, step=np.arange(0, steps + 1, RECORD_EVERY), **arrays)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--width", type=int, default=50)
    main(**vars(parser.parse_args()))
