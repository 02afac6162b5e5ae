"""The wave equation with weights from the kernel: Figs. 7 and 8 of the NTK paper.

    python book/experiments/wave_calibrated.py [--width 100] [--steps 80000] [--seeds 1]
        [--checkpoints FOLDER]

Algorithm 1 of the paper: three kernels (u, u_t, r), weights anew every 1,000 steps.  At the
paper's width 500 two CPU cores need hours a seed.  With a folder for checkpoints a run that is
cut off goes on where it was.
"""

import argparse
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from pinn_analysis import Condition, identity, networks, ntk, problems, results, training, weighting
from pinn_analysis.problems import faces

DEPTH = 5  # "five hidden layers", Fig. 6.
BATCH_SIZE = 300  # N_u = N_ut = N_r, Sec. 7.3.
EVERY = 1000
RECORD_EVERY = 400
SPECTRA_AT = (1, 1_000, 10_000, 40_000, 80_000)  # Steps after which the kernel is looked at,
SPECTRA_POINTS = 100  # on so many points a term.


def wave() -> problems.Problem:
    """The wave equation with the paper's three terms: both ends and the start together are ``u``."""
    problem = problems.wave_1d()
    on = faces(*problem.domain, (0, 0), (0, 1), (1, 0))  # A third of the points on each.
    terms = {name: problem.conditions[name] for name in ("initial_velocity", "residual")}
    return problem._replace(conditions={"u": Condition(identity, problem.solution, on)} | terms)


def main(width: int, steps: int, seeds: int, checkpoints: str | None) -> None:
    problem = wave()
    sizes = (2, *[width] * DEPTH, 1)
    network = networks.standardized(networks.mlp(sizes), *problem.domain)
    test = problems.grid(problem, 100)
    points = problem.sample(jax.random.key(10_000), SPECTRA_POINTS)
    configs = {
        f"{width} {seed}": {
            "problem": "wave_1d", "sizes": sizes, "steps": steps, "seed": seed, "batch_size": BATCH_SIZE,
            "weights": f"ntk_trace every {EVERY}", "optimizer": "adam 1e-3, 0.9 per 1,000", "precision": "float32",
            "inputs": "standardized", "spectra_points": SPECTRA_POINTS,
        }
        for seed in range(seeds)
    }  # fmt: skip
    for record in results.missing("wave_calibrated", configs):
        config, start, spectra = configs[record], time.perf_counter(), []
        folder = Path(checkpoints or tempfile.mkdtemp()) / record.replace(" ", "-")
        legs = [step for step in SPECTRA_AT if step < steps] + [steps]
        for leg in legs:
            run = training.train(
                problem, network, key=jax.random.key(config["seed"]), steps=leg, batch_size=BATCH_SIZE,
                weighting=weighting.ntk_trace(every=EVERY), record_every=RECORD_EVERY, checkpoint=folder,
            )  # fmt: skip
            kernel = ntk.empirical(problem, network.apply, run.params, points)
            blocks = [np.float64(kernel[name, name]) for name in problem.conditions]
            spectra.append(np.stack([np.linalg.eigvalsh(block)[::-1] for block in blocks]))
        output = jax.vmap(network.apply, (None, 0))(run.params, test).reshape(100, 100)
        kept = {name.replace("/", "_"): np.float32(v) for name, v in run.history.items() if "gradient" not in name}
        results.add(
            "wave_calibrated", record, config, seconds=time.perf_counter() - start, output=np.float32(output),
            spectra_step=np.array(legs), spectra=np.float32(spectra), terms=np.array(list(problem.conditions)), **kept,
        )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=100)
    parser.add_argument("--steps", type=int, default=80_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--checkpoints", default=None)
    main(**vars(parser.parse_args()))
