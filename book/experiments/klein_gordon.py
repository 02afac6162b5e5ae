"""Klein-Gordon by four methods: Table 3 (arXiv) and Table 5 (SIAM) of the first paper.

    python book/experiments/klein_gordon.py [--models M1 M2 M3 M4] [--seeds 3] [--steps 40000]

For chapters 9, 10 and 11.
"""

import itertools

from pinn_analysis import problems, results

import runs

WIDTH, DEPTH = 50, 5  # "5 layers x 50", and five hidden layers in the code too.
BATCH_SIZE = {"boundary": 256, "initial": 128, "initial_velocity": 128, "residual": 128}
# The authors' code adds the means of the two ends; here it is one mean over both.
TWO_ENDS = {"boundary": 2.0, "initial": 1.0, "initial_velocity": 1.0, "residual": 1.0}


def make(config: dict) -> dict:
    return runs.train_model(config, problems.klein_gordon())


def configs(models: tuple[str, ...], seeds: int, steps: int) -> dict[str, dict]:
    return {
        f"{model} {seed}": runs.of_model(
            problems.klein_gordon(), model, TWO_ENDS, width=WIDTH, depth=DEPTH, seed=seed, steps=steps,
            batch_size=BATCH_SIZE,
        )
        for seed, model in itertools.product(range(seeds), models)
    }  # fmt: skip


def main(models: tuple[str, ...] = tuple(runs.MODELS), seeds: int = 3, steps: int = 40_000) -> None:
    results.fill("klein_gordon", configs(models, seeds, steps), make)


if __name__ == "__main__":
    runs.command_line(main, models=runs.MODELS)
