"""The improved architecture on Helmholtz against plain networks of equal size and of equal cost.

    python book/experiments/architecture.py [--steps 40000] [--seeds 3]

One record a run; what is stored already is not run again, and more steps replace fewer.
"""

import argparse
import functools

import numpy as np
from pinn_analysis import networks, problems, weighting

from first_paper import fill

BATCH_SIZE = 128
MLP, MODIFIED = networks.mlp, networks.modified_mlp
BIAS_STD = float(np.sqrt(2 / 51))  # Of the encoders' biases in the improved architecture.
# Name: architecture, width, whether weights are annealed.  Three hidden layers each.
NETWORKS = {
    "plain 52": (MLP, 52, False),  # As many parameters as the improved architecture, and a few more.
    "modified 50": (MODIFIED, 50, False),
    "plain 50, random biases": (functools.partial(MLP, bias_std=BIAS_STD), 50, False),
    "plain 100": (MLP, 100, False),  # About as many operations a step.
    "plain 50": (MLP, 50, False),
    "modified 50, annealed": (MODIFIED, 50, True),
    "plain 100, annealed": (MLP, 100, True),
}


def main(steps: int, seeds: int) -> None:
    problem = problems.helmholtz_2d()
    configs = {
        f"{name} {seed}": {
            "problem": "helmholtz_2d", "network": name, "hidden_layers": 3, "seed": seed, "steps": steps,
            "batch_size": BATCH_SIZE, "optimizer": "adam 1e-3, 0.9 per 1,000", "precision": "float32",
            "weights": "lr_annealing siam 0.9, every 10" if annealed else "all 1", "inputs": "standardized",
        }
        for seed in range(seeds)
        for name, (_, _, annealed) in NETWORKS.items()
    }  # fmt: skip

    def build(_, config: dict):
        make, width, annealed = NETWORKS[config["network"]]
        return make((2, width, width, width, 1)), weighting.lr_annealing() if annealed else weighting.fixed()

    fill("architecture", lambda _: problem, configs, build)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--seeds", type=int, default=3)
    main(**vars(parser.parse_args()))
