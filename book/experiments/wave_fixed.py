"""The wave equation with weights from the kernel, updated, or fixed at their first or last values.

    python book/experiments/wave_fixed.py [--width 64] [--steps 20000] [--seeds 3]

For chapter 16.  Smaller than the paper's, so that two CPU cores do it in twenty minutes: what differs between the runs
of one seed are the weights alone.
"""

import jax
import numpy as np
from pinn_analysis import networks, ntk, problems, results, weighting

import runs
import wave_calibrated

DEPTH = wave_calibrated.DEPTH
BATCH_SIZE = 100
EVERY = wave_calibrated.EVERY
RECORD_EVERY = 400
RULES = ("updated", "first", "last", "none")


def make(config: dict) -> dict[str, np.ndarray]:
    """Errors, weights and amplitudes of both modes; the last weights are those of the run that updates them."""
    problem, network = wave_calibrated.wave(), networks.mlp(tuple(config["sizes"]))
    apply = networks.standardized(network, *problem.domain).apply
    grid = problems.grid(problem, 100)
    modes = np.stack([np.sin(k * np.pi * grid[:, 0]) * np.cos(2 * k * np.pi * grid[:, 1]) for k in (1, 4)])
    updated = runs.train(config, problem, network, weighting.ntk_trace(every=EVERY), record_every=RECORD_EVERY)
    start = network.init(jax.random.key(config["seed"]))
    traces = ntk.traces(problem, apply, start, problem.sample(jax.random.key(10_000), config["spectra_points"]))
    first = {name: float(sum(traces.values()) / trace) for name, trace in traces.items()}  # Equally many points.
    fixed = {"first": first, "last": {name: float(w) for name, w in updated.weights.items()}}
    fixed["none"] = {name: 1.0 for name in first}
    found = {}
    for rule in RULES:
        rest = weighting.fixed(**fixed[rule]) if rule in fixed else None
        run = runs.train(config, problem, network, rest, record_every=RECORD_EVERY) if rest else updated
        u = np.asarray(jax.vmap(apply, (None, 0))(run.params, grid))
        found["step"] = run.history["step"]
        found[f"error/{rule}"] = np.float32(run.history["error"])
        found[f"amplitudes/{rule}"] = np.float32(modes @ u / (modes**2).sum(1))
        found[f"weights/{rule}"] = np.float32([run.weights[name] for name in problem.conditions])
    return found


def configs(width: int, steps: int, seeds: int) -> dict[str, dict]:
    return runs.by_seed(
        seeds, width, DEPTH, problem="wave_1d", steps=steps, batch_size=BATCH_SIZE, weights=RULES,
        updated=f"ntk_trace every {EVERY}", modes=(1, 4), spectra_points=BATCH_SIZE,
        terms=list(wave_calibrated.wave().conditions),
    )  # fmt: skip


def main(width: int = 64, steps: int = 20_000, seeds: int = 3) -> None:
    results.fill("wave_fixed", configs(width, steps, seeds), make)


if __name__ == "__main__":
    runs.command_line(main)
