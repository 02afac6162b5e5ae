"""The wave equation with weights from the kernel: Figs. 7 and 8 of the NTK paper.

    python book/experiments/wave_calibrated.py [--width 100] [--steps 80000] [--seeds 1]
        [--checkpoints FOLDER]

For chapter 16.  Algorithm 1 of the paper: three kernels (u, u_t, r), weights anew every 1,000 steps.  At the
paper's width 500 two CPU cores need hours per seed.  With a folder for checkpoints a run that is
cut off goes on where it was.
"""

import functools
import tempfile
from pathlib import Path

import jax
import numpy as np
from pinn_analysis import Condition, identity, networks, ntk, problems, results, weighting
from pinn_analysis.problems import faces

import runs

DEPTH = 5  # "five hidden layers", Fig. 6.
BATCH_SIZE = 300  # N_u = N_ut = N_r, Sec. 7.3.
EVERY = 1000
RECORD_EVERY = 400
SPECTRA_AT = (1, 1_000, 10_000, 40_000, 80_000)  # Steps after which the kernel is looked at,
SPECTRA_POINTS = 100  # on so many points per term.


def wave() -> problems.Problem:
    """The wave equation with the paper's three terms: both ends and the start together are ``u``."""
    problem = problems.wave_1d()
    on = faces(*problem.domain, (0, 0), (0, 1), (1, 0))  # A third of the points on each.
    terms = {name: problem.conditions[name] for name in ("initial_velocity", "residual")}
    return problem._replace(conditions={"u": Condition(identity, problem.solution, on)} | terms)


def make(config: dict, checkpoints: str) -> dict[str, np.ndarray]:
    problem, network = wave(), networks.mlp(tuple(config["sizes"]))
    apply = networks.standardized(network, *problem.domain).apply
    points = problem.sample(jax.random.key(10_000), config["spectra_points"])
    weights, spectra = weighting.ntk_trace(every=EVERY), []
    folder = Path(checkpoints or tempfile.mkdtemp()) / f"{config['sizes'][1]}-{config['seed']}"
    legs = [step for step in SPECTRA_AT if step < config["steps"]] + [config["steps"]]
    for leg in legs:
        run = runs.train(
            config, problem, network, weights, steps=leg, record_every=RECORD_EVERY, checkpoint=folder
        )  # fmt: skip
        kernel = ntk.empirical(problem, apply, run.params, points)
        blocks = [np.float64(kernel[name, name]) for name in problem.conditions]
        spectra.append(np.stack([np.linalg.eigvalsh(block)[::-1] for block in blocks]))
    output = jax.vmap(apply, (None, 0))(run.params, problems.grid(problem, 100)).reshape(100, 100)
    return {
        "output": np.float32(output), "spectra_step": np.array(legs), "spectra": np.float32(spectra),
        "terms": np.array(list(problem.conditions)), **runs.stored(run),
    }  # fmt: skip


def configs(width: int, steps: int, seeds: int) -> dict[str, dict]:
    return runs.by_seed(
        seeds, width, DEPTH, problem="wave_1d", steps=steps, batch_size=BATCH_SIZE,
        weights=f"ntk_trace every {EVERY}", spectra_points=SPECTRA_POINTS,
    )  # fmt: skip


def main(width: int = 100, steps: int = 80_000, seeds: int = 1, checkpoints: str = "") -> None:
    make_in = functools.partial(make, checkpoints=checkpoints)
    results.fill("wave_calibrated", configs(width, steps, seeds), make_in)


if __name__ == "__main__":
    runs.command_line(main)
