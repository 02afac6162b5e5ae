"""The wave equation without weights: Fig. 6 of the NTK paper.

    python book/experiments/wave_plain.py [--width 500] [--steps 80000] [--seeds 3]

Every seed by itself; a GPU is used where there is one.  At the paper's width 500 two CPU
cores need hours a seed.
"""

import argparse
import time

import jax
import numpy as np
from pinn_analysis import networks, problems, results, training, weighting

DEPTH = 5  # "five hidden layers", Fig. 6.
# N_u = N_ut = N_r = 300 (Sec. 7.3), a third of N_u on each side of the domain that has data.
BATCH_SIZE = {"boundary": 200, "initial": 100, "initial_velocity": 300, "residual": 300}
# The paper's L_u is one mean over boundary and initial points.
WEIGHTS = {"boundary": 2 / 3, "initial": 1 / 3, "initial_velocity": 1.0, "residual": 1.0}
RECORD_EVERY = 400


def main(width: int, steps: int, seeds: int) -> None:
    start = time.perf_counter()
    problem = problems.wave_1d()
    sizes = (2, *[width] * DEPTH, 1)
    network = networks.standardized(networks.mlp(sizes), *problem.domain)
    test = problems.grid(problem, 100)
    runs = [
        training.train(
            problem, network, key=jax.random.key(seed), steps=steps, batch_size=BATCH_SIZE,
            weighting=weighting.fixed(**WEIGHTS), record_every=RECORD_EVERY,
        )
        for seed in range(seeds)
    ]  # fmt: skip
    outputs = [jax.vmap(network.apply, (None, 0))(run.params, test).reshape(100, 100) for run in runs]

    def stack(name: str) -> np.ndarray:
        return np.stack([run.history[name] for run in runs]).astype(np.float32)

    config = {
        "problem": "wave_1d", "sizes": sizes, "steps": steps, "seeds": list(range(seeds)), "batch_size": BATCH_SIZE,
        "weights": WEIGHTS, "optimizer": "adam 1e-3, 0.9 per 1,000", "precision": "float32", "inputs": "standardized",
    }  # fmt: skip
    losses = {f"loss_{name}": stack(f"loss/{name}") for name in problem.conditions}
    results.save(
        "wave_plain", config, seconds=time.perf_counter() - start,
        step=runs[0].history["step"], error=stack("error"), output=np.stack(outputs).astype(np.float32), **losses,
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--steps", type=int, default=80_000)
    parser.add_argument("--seeds", type=int, default=3)
    main(**vars(parser.parse_args()))
