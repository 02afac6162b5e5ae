"""Learning-rate annealing on Helmholtz: the two published rules, the authors' code, constants.

    python book/experiments/annealing.py [--steps 40000] [--seeds 3] [--variants "constant 1" siam ...]

For chapter 7.  The network of the first paper's code, three hidden layers of 50, once for each
entry of VARIANTS and each seed.
"""

import jax.numpy as jnp
from pinn_analysis import networks, problems, results, weight_rules, weighting

import runs

SIZES = (2, 50, 50, 50, 1)
BATCH_SIZE = 128


def helmholtz(edges_added: bool) -> problems.Problem:
    """With one mean over the boundary, or the sum of four means of the authors' code: (2u)² = 4u²."""
    problem = problems.helmholtz_2d()
    if not edges_added:
        return problem
    boundary = problem.conditions["boundary"]._replace(operator=lambda u: lambda x: 2 * u(x))
    return problem._replace(conditions=problem.conditions | {"boundary": boundary})


def matrices(state: weight_rules.State) -> weight_rules.Weights:
    """The target as the authors' code has it: no biases, and the mean of the means of the layers."""
    layers = {name: [abs(layer["weight"]) for layer in gradient] for name, gradient in state.gradients.items()}
    largest = jnp.stack([layer.max() for layer in layers["residual"]]).max()
    mean = jnp.stack([layer.mean() for layer in layers["boundary"]]).mean()
    return {"boundary": largest / (state.weights["boundary"] * mean), "residual": jnp.ones_like(mean)}


OF_MATRICES = weighting.moving(matrices, every=10, decay=0.9)


def constant(weight: float) -> weighting.Weighting:
    return weighting.fixed(boundary=weight, residual=1.0)


FOUR_EDGES = {"boundary": 4 * BATCH_SIZE, "residual": BATCH_SIZE}
# Name: rule, whether the means of the four edges are added, batch size.
VARIANTS = {
    "constant 1": (constant(1.0), False, BATCH_SIZE),
    "siam": (weighting.lr_annealing("siam"), False, BATCH_SIZE),
    "arxiv": (weighting.lr_annealing("arxiv"), False, BATCH_SIZE),
    "code": (OF_MATRICES, True, FOUR_EDGES),
    "constant 100": (constant(100.0), False, BATCH_SIZE),
    "siam, edges added": (weighting.lr_annealing("siam"), True, BATCH_SIZE),
    "siam, matrices": (OF_MATRICES, False, BATCH_SIZE),
    "arxiv, decay 0.9": (weighting.lr_annealing("arxiv", decay=0.9), False, BATCH_SIZE),
    "constant 1000": (constant(1000.0), False, BATCH_SIZE),
    "constant 4": (constant(4.0), False, BATCH_SIZE),
    "siam, 512 points": (weighting.lr_annealing("siam"), False, FOUR_EDGES),
    "siam, decay 0.1": (weighting.lr_annealing("siam", decay=0.1), False, BATCH_SIZE),
    "constant 10": (constant(10.0), False, BATCH_SIZE),
    "constant 10000": (constant(10_000.0), False, BATCH_SIZE),
}


def make(config: dict) -> dict:
    weights, edges_added, _ = VARIANTS[config["variant"]]
    return runs.stored(runs.train(config, helmholtz(edges_added), networks.mlp(tuple(config["sizes"])), weights))


def configs(steps: int, seeds: int, variants: tuple[str, ...]) -> dict[str, dict]:
    return {
        f"{name} {seed}": runs.settings(
            problem="helmholtz_2d", sizes=SIZES, variant=name, seed=seed, steps=steps,
            batch_size=VARIANTS[name][2], edges_added=VARIANTS[name][1],
        )
        for seed in range(seeds)
        for name in variants
    }  # fmt: skip


def main(steps: int = 40_000, seeds: int = 3, variants: tuple[str, ...] = tuple(VARIANTS)) -> None:
    results.fill("annealing", configs(steps, seeds, variants), make)


if __name__ == "__main__":
    runs.command_line(main, variants=VARIANTS)
