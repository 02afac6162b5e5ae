"""Helmholtz by four methods and nine architectures: Table 2 (arXiv) and Table 3 (SIAM) of the first paper.

    python book/experiments/helmholtz_table.py [--models M1 M2 M3 M4] [--widths 30 50 100]
        [--depths 3 5 7] [--seeds 10] [--steps 40000] [--k 1]

For chapters 7, 8, 10 and 11.  With `--k 2 --widths 50 --depths 5` and so on, Table 4 of the SIAM
version.
"""

import itertools

from pinn_analysis import problems, results

import runs

# The boundary loss of the authors' code is the sum of four edge means of 128 points each; here
# it is one mean over 512 points, a quarter of that.  Algorithm 1 finds its weight either way.
BATCH_SIZE = {"boundary": 512, "residual": 128}
FOUR_EDGES = {"boundary": 4.0, "residual": 1.0}


def make(config: dict) -> dict:
    return runs.train_model(config, problems.helmholtz_2d(k=config["k"]))


def configs(models, widths, depths, seeds: int, steps: int, k: int) -> dict[str, dict]:
    return {
        f"k{k} {model} {width}x{depth} {seed}": runs.of_model(
            problems.helmholtz_2d(k=k), model, FOUR_EDGES, k=k, width=width, depth=depth, seed=seed, steps=steps,
            batch_size=BATCH_SIZE,
        )
        for seed, depth, width, model in itertools.product(range(seeds), depths, widths, models)
    }  # fmt: skip


def main(
    models: tuple[str, ...] = tuple(runs.MODELS),
    widths: tuple[int, ...] = (30, 50, 100),
    depths: tuple[int, ...] = (3, 5, 7),
    seeds: int = 10,
    steps: int = 40_000,
    k: int = 1,
) -> None:
    results.fill("helmholtz_table", configs(models, widths, depths, seeds, steps, k), make)


if __name__ == "__main__":
    runs.command_line(main, models=runs.MODELS)
