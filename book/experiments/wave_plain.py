"""The wave equation without weights: Fig. 6 of the NTK paper.

    python book/experiments/wave_plain.py [--width 500] [--steps 80000] [--seeds 3]

For chapters 1 and 16.  At the paper's width 500 two CPU cores need hours per seed.
"""

import jax
import numpy as np
from pinn_analysis import networks, problems, results, weighting

import runs

DEPTH = 5  # "five hidden layers", Fig. 6.
# N_u = N_ut = N_r = 300 (Sec. 7.3), a third of N_u on each side of the domain that has data.
BATCH_SIZE = {"boundary": 200, "initial": 100, "initial_velocity": 300, "residual": 300}
# The paper's L_u is one mean over boundary and initial points.
WEIGHTS = {"boundary": 2 / 3, "initial": 1 / 3, "initial_velocity": 1.0, "residual": 1.0}
RECORD_EVERY = 400


def make(config: dict) -> dict[str, np.ndarray]:
    problem, network = problems.wave_1d(), networks.mlp(tuple(config["sizes"]))
    run = runs.train(config, problem, network, weighting.fixed(**config["weights"]), record_every=RECORD_EVERY)
    apply = networks.standardized(network, *problem.domain).apply
    output = jax.vmap(apply, (None, 0))(run.params, problems.grid(problem, 100)).reshape(100, 100)
    return {"output": np.float32(output), **runs.stored(run, ("error", "loss"))}


def configs(width: int, steps: int, seeds: int) -> dict[str, dict]:
    return runs.by_seed(seeds, width, DEPTH, problem="wave_1d", steps=steps, batch_size=BATCH_SIZE, weights=WEIGHTS)


def main(width: int = 500, steps: int = 80_000, seeds: int = 3) -> None:
    results.fill("wave_plain", configs(width, steps, seeds), make)


if __name__ == "__main__":
    runs.command_line(main)
