"""1-D Poisson, u = sin(C x): Table 1 of the first paper (SIAM version).

    python book/experiments/poisson_frequency.py [--steps 40000] [--seeds 3]

For chapters 1 and 11.  With a learning rate that falls, as in the authors' code for other
problems, and with a constant one: the paper does not say which, and there is no code for this
example.
"""

import itertools

import jax
import numpy as np
import optax
from pinn_analysis import networks, problems, results, training

import runs

FREQUENCIES = (1, 2, 4, 8, 16)  # Table 1.
SIZES = (1, 50, 50, 50, 50, 50, 1)  # "5 layers x 50", caption of Table 1.
BATCH_SIZE = 128  # Of all the first paper's experiments.
RECORD_EVERY = 400
OPTIMIZERS = {"falling": (training.adam(1e-3), runs.ADAM), "constant": (optax.adam(1e-3), "adam 1e-3")}


def make(config: dict) -> dict[str, np.ndarray]:
    problem = problems.poisson_1d(config["frequency"] / np.pi)
    network, (optimizer, _) = networks.mlp(tuple(config["sizes"])), OPTIMIZERS[config["rate"]]
    run = runs.train(config, problem, network, optimizer=optimizer, record_every=RECORD_EVERY)
    apply = networks.standardized(network, *problem.domain).apply
    output = jax.vmap(apply, (None, 0))(run.params, np.linspace(0, 1, 200, dtype=np.float32)[:, None])
    return {"output": np.float32(output), **runs.stored(run, ("error", "loss"))}


def configs(steps: int, seeds: int, frequencies: tuple[int, ...]) -> dict[str, dict]:
    return {
        f"{rate} {frequency} {seed}": runs.settings(
            problem="poisson_1d", frequency=frequency, rate=rate, sizes=SIZES, steps=steps, seed=seed,
            batch_size=BATCH_SIZE,
        )
        | {"optimizer": OPTIMIZERS[rate][1]}
        for rate, frequency, seed in itertools.product(OPTIMIZERS, frequencies, range(seeds))
    }  # fmt: skip


def main(steps: int = 40_000, seeds: int = 3, frequencies: tuple[int, ...] = FREQUENCIES) -> None:
    results.fill("poisson_frequency", configs(steps, seeds, frequencies), make)


if __name__ == "__main__":
    runs.command_line(main)
