"""Fixed weights for 1-D Poisson, u = sin(4πx): Figs. 4 and 5 of the NTK paper.

    python book/experiments/poisson_calibration.py [--seeds 10] [--steps 40000]

Gradient descent from the same functions in two parametrisations: the paper's text has the
second, its notebook the first.  All seeds side by side; one record a parametrisation and
weight.  The learning rate is the paper's, and its loss has 1/(2N), so that a weight of 1 there
is ½ here.
"""

import argparse
import itertools
import time

import jax
import numpy as np
import optax
from pinn_analysis import networks, problems, results, training, weighting

FREQUENCY, WIDTH, POINTS = 4, 100, 100  # Sec. 7.2; N_b = N_r = 100.
LEARNING_RATE = 1e-5
BOUNDARY_WEIGHTS = (1, 10, 50, 100, 200, 500)  # The range of Fig. 5.
RECORD_EVERY = 1000


def network(parameterization: str, problem: problems.Problem) -> networks.Network:
    sizes = (1, WIDTH, 1)
    ntk = networks.mlp(sizes, parameterization="ntk", bias_std=1.0)
    if parameterization == "ntk":
        return networks.standardized(ntk, *problem.domain)

    def init(key):  # The same function: the factors 1 / √fan_in go from the layers into the weights.
        return [layer | {"weight": layer["weight"] / np.sqrt(len(layer["weight"]))} for layer in ntk.init(key)]

    return networks.standardized(networks.mlp(sizes)._replace(init=init), *problem.domain)


def main(seeds: int, steps: int) -> None:
    problem = problems.poisson_1d(FREQUENCY)
    points = {
        "boundary": np.array([[0.0], [1.0]]),  # 50 times each in the paper: the same mean.
        "residual": np.linspace(0, 1, POINTS)[:, None],
    }
    configs = {
        f"{parameterization} {weight}": {
            "problem": problem.name, "a": FREQUENCY, "width": WIDTH, "points": POINTS, "steps": steps,
            "parameterization": parameterization, "boundary_weight": weight, "loss": "1/(2N)",
            "optimizer": f"gradient descent {LEARNING_RATE}", "seeds": list(range(seeds)), "precision": "float32",
            "inputs": "standardized",
        }
        for parameterization, weight in itertools.product(("standard", "ntk"), BOUNDARY_WEIGHTS)
    }  # fmt: skip
    for record in results.missing("poisson_calibration", configs):
        config, start = configs[record], time.perf_counter()
        weights = weighting.fixed(boundary=config["boundary_weight"] / 2, residual=0.5)
        try:
            run = training.train(
                problem, network(config["parameterization"], problem), key=jax.random.split(jax.random.key(0), seeds),
                steps=steps, points=points, optimizer=optax.sgd(LEARNING_RATE), weighting=weights,
                record_every=RECORD_EVERY,
            )  # fmt: skip
        except training.DivergedError as error:  # Some seeds, beyond the stable step; NaN from there on.
            run = error.run
        kept = {name.replace("/", "_"): run.history[name] for name in ("error", "loss/boundary", "loss/residual")}
        results.add(
            "poisson_calibration", record, config, seconds=time.perf_counter() - start, step=run.history["step"],
            **{name: values.astype(np.float32) for name, values in kept.items()},
        )  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=40_000)
    main(**vars(parser.parse_args()))
