"""Fixed weights for 1-D Poisson, u = sin(4πx): Figs. 4 and 5 of the NTK paper.

    python book/experiments/poisson_calibration.py [--seeds 10] [--steps 40000] [--weights 1 100 ...]

For chapter 15.  Gradient descent from the same functions in two parametrisations: the paper's
text has the second, its notebook the first.  All seeds side by side; one record a parametrisation
and weight.  The learning rate is the paper's, and its loss has 1/(2N), so that a weight of 1 there
is ½ here.
"""

import jax
import numpy as np
import optax
from pinn_analysis import networks, problems, results, training, weighting

import runs

FREQUENCY, WIDTH, POINTS = 4, 100, 100  # Sec. 7.2; N_b = N_r = 100.
LEARNING_RATE = 1e-5
BOUNDARY_WEIGHTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)  # Fig. 5 has 1 to 500.
BEYOND = {  # Around the weight at which the step stops being stable, by the kernel at the start.
    "standard": (3000, 4000, 5000, 6000, 8000),
    "ntk": (50_000, 100_000, 140_000, 200_000),
}
RECORD_EVERY = 1000


def network(parameterization: str, problem: problems.Problem) -> networks.Network:
    sizes = (1, WIDTH, 1)
    ntk = networks.mlp(sizes, parameterization="ntk", bias_std=1.0)
    if parameterization == "ntk":
        return networks.standardized(ntk, *problem.domain)

    def init(key):  # The same function: the factors 1 / √fan_in go from the layers into the weights.
        return [layer | {"weight": layer["weight"] / np.sqrt(len(layer["weight"]))} for layer in ntk.init(key)]

    return networks.standardized(networks.mlp(sizes)._replace(init=init), *problem.domain)


def make(config: dict) -> dict[str, np.ndarray]:
    problem = problems.poisson_1d(config["a"])
    points = {
        "boundary": np.array([[0.0], [1.0]]),  # 50 times each in the paper: the same mean.
        "residual": np.linspace(0, 1, config["points"])[:, None],
    }
    try:
        run = training.train(
            problem, network(config["parameterization"], problem), steps=config["steps"], points=points,
            key=jax.random.split(jax.random.key(0), len(config["seeds"])), optimizer=optax.sgd(LEARNING_RATE),
            weighting=weighting.fixed(boundary=config["boundary_weight"] / 2, residual=0.5), record_every=RECORD_EVERY,
        )  # fmt: skip
    except training.DivergedError as error:  # Some seeds, beyond the stable step; NaN from there on.
        run = error.run
    return runs.stored(run, ("error", "loss"))


def configs(seeds: int, steps: int, weights: tuple[int, ...]) -> dict[str, dict]:
    return {
        f"{parameterization} {weight}": {
            "problem": "poisson_1d", "a": FREQUENCY, "width": WIDTH, "points": POINTS, "steps": steps,
            "parameterization": parameterization, "boundary_weight": weight, "loss": "1/(2N)",
            "optimizer": f"gradient descent {LEARNING_RATE}", "seeds": list(range(seeds)), "inputs": "standardized",
        }
        for parameterization in BEYOND
        for weight in (*weights, *BEYOND[parameterization])
    }  # fmt: skip


def main(seeds: int = 10, steps: int = 40_000, weights: tuple[int, ...] = BOUNDARY_WEIGHTS) -> None:
    results.fill("poisson_calibration", configs(seeds, steps, weights), make)


if __name__ == "__main__":
    runs.command_line(main)
