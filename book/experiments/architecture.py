"""The improved architecture on Helmholtz against plain networks of equal size and of equal cost.

    python book/experiments/architecture.py [--steps 40000] [--seeds 3] [--names "plain 52" "modified 50" ...]

For chapter 8.
"""

import functools

import numpy as np
from pinn_analysis import networks, problems, results, weighting

import runs

BATCH_SIZE = 128
MLP, MODIFIED = networks.mlp, networks.modified_mlp
BIAS_STD = float(np.sqrt(2 / 51))  # Of the encoders' biases in the improved architecture.
# Name: architecture, width, whether weights are annealed.  Three hidden layers each.
NETWORKS = {
    "plain 52": (MLP, 52, False),  # As many parameters as the improved architecture, and a few more.
    "modified 50": (MODIFIED, 50, False),
    "plain 50, random biases": (functools.partial(MLP, bias_std=BIAS_STD), 50, False),
    "plain 100": (MLP, 100, False),  # About as many operations per step.
    "plain 50": (MLP, 50, False),
    "modified 50, annealed": (MODIFIED, 50, True),
    "plain 100, annealed": (MLP, 100, True),
}


def make(config: dict) -> dict:
    architecture, width, annealed = NETWORKS[config["network"]]
    network = architecture((2, width, width, width, 1))
    weights = weighting.lr_annealing() if annealed else weighting.fixed()
    return runs.stored(runs.train(config, problems.helmholtz_2d(), network, weights))


def configs(steps: int, seeds: int, names: tuple[str, ...]) -> dict[str, dict]:
    return {
        f"{name} {seed}": runs.settings(
            problem="helmholtz_2d", network=name, hidden_layers=3, seed=seed, steps=steps, batch_size=BATCH_SIZE,
            weights=runs.ANNEALED if NETWORKS[name][2] else "all 1",
        )
        for seed in range(seeds)
        for name in names
    }  # fmt: skip


def main(steps: int = 40_000, seeds: int = 3, names: tuple[str, ...] = tuple(NETWORKS)) -> None:
    results.fill("architecture", configs(steps, seeds, names), make)


if __name__ == "__main__":
    runs.command_line(main, names=NETWORKS)
