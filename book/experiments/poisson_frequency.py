"""1-D Poisson, u = sin(C x): Table 1 of the first paper (SIAM version).

    python book/experiments/poisson_frequency.py [--steps 40000] [--seeds 3]

With a learning rate that falls, as in the authors' code for other problems, and with a
constant one: the paper does not say which, and there is no code for this example.  Every
run by itself; a GPU is used where there is one.
"""

import argparse
import itertools
import time

import jax
import numpy as np
import optax
from pinn_analysis import networks, problems, results, training

FREQUENCIES = (1, 2, 4, 8, 16)  # Table 1.
SIZES = (1, 50, 50, 50, 50, 50, 1)  # "5 layers x 50", caption of Table 1.
BATCH_SIZE = 128  # Of all the first paper's experiments.
RECORD_EVERY = 400
OPTIMIZERS = {"falling": training.adam(1e-3), "constant": optax.adam(1e-3)}


def main(steps: int, seeds: int) -> None:
    start = time.perf_counter()
    x = np.linspace(0, 1, 200, dtype=np.float32)
    histories, outputs = [], []
    for optimizer, frequency, seed in itertools.product(OPTIMIZERS.values(), FREQUENCIES, range(seeds)):
        problem = problems.poisson_1d(frequency / np.pi)
        network = networks.standardized(networks.mlp(SIZES), *problem.domain)
        run = training.train(
            problem, network, key=jax.random.key(seed), steps=steps, batch_size=BATCH_SIZE, optimizer=optimizer,
            record_every=RECORD_EVERY,
        )  # fmt: skip
        histories.append(run.history)
        outputs.append(jax.vmap(network.apply, (None, 0))(run.params, x[:, None]))

    def shape(rows: list) -> np.ndarray:
        return np.stack(rows).reshape(len(OPTIMIZERS), len(FREQUENCIES), seeds, -1).astype(np.float32)

    config = {
        "problem": "poisson_1d", "frequencies": FREQUENCIES, "sizes": SIZES, "steps": steps,
        "seeds": list(range(seeds)), "batch_size": BATCH_SIZE, "precision": "float32", "inputs": "standardized",
        "optimizers": {"falling": "adam 1e-3, 0.9 per 1,000", "constant": "adam 1e-3"},
    }  # fmt: skip
    recorded = ("error", "loss/boundary", "loss/residual")
    results.save(
        "poisson_frequency", config, seconds=time.perf_counter() - start,
        step=histories[0]["step"], x=x, output=shape(outputs),
        **{name.replace("/", "_"): shape([h[name] for h in histories]) for name in recorded},
    )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--seeds", type=int, default=3)
    main(**vars(parser.parse_args()))
