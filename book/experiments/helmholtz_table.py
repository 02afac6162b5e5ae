"""Helmholtz by four methods and nine architectures: Table 2 (arXiv) and Table 3 (SIAM) of the first paper.

    python book/experiments/helmholtz_table.py [--models M1 M2 M3 M4] [--widths 30 50 100]
        [--depths 3 5 7] [--seeds 10] [--steps 40000] [--k 1]

One record a cell and seed; what is stored already is not run again, and more steps replace
fewer.  A GPU is used where there is one.  `--k 2` and so on are Table 4 of the SIAM version
(with its `--widths 50 --depths 5`), which goes to `helmholtz_wavenumber`.
"""

import argparse
import itertools
import time

import jax
import numpy as np
from pinn_analysis import networks, problems, results, training, weighting

# The boundary loss of the authors' code is the sum of four edge means of 128 points each; here
# it is one mean over 512 points, a quarter of that.  Algorithm 1 finds its weight either way.
BATCH_SIZE = {"boundary": 512, "residual": 128}
FOUR_EDGES = {"boundary": 4.0, "residual": 1.0}
RECORD_EVERY = 400
MODELS = {  # Architecture, and whether the weights are annealed.
    "M1": (networks.mlp, False),
    "M2": (networks.mlp, True),
    "M3": (networks.modified_mlp, False),
    "M4": (networks.modified_mlp, True),
}


def settings(model: str, width: int, depth: int, k: int, seed: int, steps: int) -> dict:
    return {
        "problem": "helmholtz_2d", "k": k, "model": model, "width": width, "depth": depth, "seed": seed,
        "steps": steps, "batch_size": BATCH_SIZE, "optimizer": "adam 1e-3, 0.9 per 1,000", "precision": "float32",
        "weights": "lr_annealing siam 0.9, every 10" if MODELS[model][1] else FOUR_EDGES, "inputs": "standardized",
    }  # fmt: skip


def main(models: list[str], widths: list[int], depths: list[int], seeds: int, steps: int, k: int) -> None:
    name = "helmholtz_table" if k == 1 else "helmholtz_wavenumber"
    cells = list(itertools.product(range(seeds), depths, widths, models))
    configs = {
        f"k{k} {model} {width}x{depth} {seed}": settings(model, width, depth, k, seed, steps)
        for seed, depth, width, model in cells
    }
    problem = problems.helmholtz_2d(k=k)
    for record in results.missing(name, configs):
        config = configs[record]
        architecture, annealed = MODELS[config["model"]]
        network = architecture((2, *[config["width"]] * config["depth"], 1))
        start = time.perf_counter()
        run = training.train(
            problem, networks.standardized(network, *problem.domain), key=jax.random.key(config["seed"]), steps=steps,
            batch_size=BATCH_SIZE, record_every=RECORD_EVERY,
            weighting=weighting.lr_annealing() if annealed else weighting.fixed(**FOUR_EDGES),
        )  # fmt: skip
        history = {
            key.replace("/", "_"): np.float32(run.history[key])
            for key in ("error", "loss/boundary", "loss/residual", "weight/boundary")
        }
        results.add(name, record, config, seconds=time.perf_counter() - start, step=run.history["step"], **history)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--widths", nargs="+", type=int, default=[30, 50, 100])
    parser.add_argument("--depths", nargs="+", type=int, default=[3, 5, 7])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--k", type=int, default=1)
    main(**vars(parser.parse_args()))
