"""Klein-Gordon by four methods: Table 3 (arXiv) and Table 5 (SIAM) of the first paper.

    python book/experiments/klein_gordon.py [--models M1 M2 M3 M4] [--seeds 3] [--steps 40000]

One record a method and seed; what is stored already is not run again, and more steps replace
fewer.  A GPU is used where there is one.
"""

import argparse
import itertools

from pinn_analysis import problems

from first_paper import MODELS, fill, settings

WIDTH, DEPTH = 50, 5  # "5 layers x 50", and five hidden layers in the code too.
BATCH_SIZE = {"boundary": 256, "initial": 128, "initial_velocity": 128, "residual": 128}
# The authors' code adds the means of the two ends; here it is one mean over both.
TWO_ENDS = {"boundary": 2.0, "initial": 1.0, "initial_velocity": 1.0, "residual": 1.0}


def main(models: list[str], seeds: int, steps: int) -> None:
    problem = problems.klein_gordon()
    configs = {
        f"{model} {seed}": settings(problem, model, WIDTH, DEPTH, seed, steps, BATCH_SIZE, TWO_ENDS)
        for seed, model in itertools.product(range(seeds), models)
    }
    fill("klein_gordon", lambda _: problem, configs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=40_000)
    main(**vars(parser.parse_args()))
