"""Helmholtz by four methods and nine architectures: Table 2 (arXiv) and Table 3 (SIAM) of the first paper.

    python book/experiments/helmholtz_table.py [--models M1 M2 M3 M4] [--widths 30 50 100]
        [--depths 3 5 7] [--seeds 10] [--steps 40000] [--k 1]

One record a cell and seed; what is stored already is not run again, and more steps replace
fewer.  A GPU is used where there is one.  With `--k 2 --widths 50 --depths 5` and so on, Table
4 of the SIAM version.
"""

import argparse
import itertools

from pinn_analysis import problems

from first_paper import MODELS, fill, settings

# The boundary loss of the authors' code is the sum of four edge means of 128 points each; here
# it is one mean over 512 points, a quarter of that.  Algorithm 1 finds its weight either way.
BATCH_SIZE = {"boundary": 512, "residual": 128}
FOUR_EDGES = {"boundary": 4.0, "residual": 1.0}


def main(models: list[str], widths: list[int], depths: list[int], seeds: int, steps: int, k: int) -> None:
    problem = problems.helmholtz_2d(k=k)
    configs = {
        f"k{k} {model} {width}x{depth} {seed}": {"k": k}
        | settings(problem, model, width, depth, seed, steps, BATCH_SIZE, FOUR_EDGES)
        for seed, depth, width, model in itertools.product(range(seeds), depths, widths, models)
    }
    fill("helmholtz_table", lambda _: problem, configs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--widths", nargs="+", type=int, default=[30, 50, 100])
    parser.add_argument("--depths", nargs="+", type=int, default=[3, 5, 7])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--k", type=int, default=1)
    main(**vars(parser.parse_args()))
