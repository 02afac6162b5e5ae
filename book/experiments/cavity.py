"""The lid-driven cavity, two formulations, M1 to M4: Figs. 17 and 18 of the first paper (version 1).

    python book/experiments/cavity.py [--steps 40000] [--seeds 1] [--models M1 M2 M3 M4 ...]
        [--formulations streamfunction velocity] [--lids uniform parabolic]

For chapter 10.  Beside M1 to M4 there are plain networks with fixed weights, "boundary" 100 times
that of M1, or "both", continuity too.  Needs `cavity_reference.npz`.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from pinn_analysis import networks, problems, results, weighting

import runs

HIDDEN = (50, 50, 50)  # The authors' code; the paper says 5 layers.
BATCH_SIZE = {"boundary": 512, "momentum": 128, "continuity": 128}  # 128 an edge.
# The authors' code adds the means over four edges, and those of the two momentum equations.
SUMS = {"boundary": 4.0, "momentum": 2.0, "continuity": 1.0}
TEST = 100  # Points per axis.
FORMULATIONS = ("streamfunction", "velocity")
LIDS = {"uniform": lambda x: jnp.ones_like(x), "parabolic": lambda x: 4 * x * (1 - x)}
MODELS = {  # Architecture, and weights: annealed, or by how much some of `SUMS` are raised.
    "M1": (networks.mlp, {}),
    "M2": (networks.mlp, "annealed"),
    "M3": (networks.modified_mlp, {}),
    "M4": (networks.modified_mlp, "annealed"),
    "boundary": (networks.mlp, {"boundary": 100}),
    "both": (networks.mlp, {"boundary": 100, "continuity": 100}),
}


def cavity(formulation: str, lid: str) -> problems.Problem:
    """The library's problem, under another lid."""
    problem = problems.lid_driven_cavity(formulation=formulation)
    still = problem.conditions["boundary"]

    def wall(x: jax.Array) -> jax.Array:
        return still.target(x) * LIDS[lid](x[0])

    return problem._replace(conditions=problem.conditions | {"boundary": still._replace(target=wall)})


def settings(formulation: str, lid: str, model: str, seed: int, steps: int) -> dict:
    terms = cavity(formulation, lid).conditions
    rule = MODELS[model][1]
    fixed = {name: SUMS[name] * (1 if rule == "annealed" else rule.get(name, 1)) for name in terms}
    return runs.settings(
        problem="lid_driven_cavity", reynolds=100, formulation=formulation, lid=lid, model=model, hidden=HIDDEN,
        seed=seed, steps=steps, batch_size={name: BATCH_SIZE[name] for name in terms},
        weights=f"{runs.ANNEALED}, reference momentum" if rule == "annealed" else fixed,
    )  # fmt: skip


def errors(flow: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Relative error of the speed, ``(2, n, n)`` each: spectral norm (the authors'), Frobenius, and without corners."""
    speed, exact = np.hypot(*flow), np.hypot(*reference)
    difference = speed - exact
    inside = difference.copy()
    inside[[0, -1], -1] = 0
    return np.array([
        np.linalg.norm(difference, 2) / np.linalg.norm(exact, 2),
        np.linalg.norm(difference) / np.linalg.norm(exact),
        np.linalg.norm(inside) / np.linalg.norm(exact),
    ])  # fmt: skip


def make(config: dict) -> dict:
    """Errors, final flow, mass flux and histories."""
    problem = cavity(config["formulation"], config["lid"])
    architecture = MODELS[config["model"]][0]
    network = architecture((2, *config["hidden"], 2 if config["formulation"] == "streamfunction" else 3))
    fixed = config["weights"]
    weights = weighting.lr_annealing(reference="momentum") if isinstance(fixed, str) else weighting.fixed(**fixed)
    run = runs.train(config, problem, network, weights)
    field = functools.partial(networks.standardized(network, *problem.domain).apply, run.params)
    flow = jax.jit(jax.vmap(problems.velocity(field)))(problems.grid(problem, TEST))
    flow = np.asarray(flow).T.reshape(2, TEST, TEST)
    reference = results.records("cavity_reference")[config["lid"]].arrays["fields"][1:]
    return {
        "errors": errors(flow, reference),
        # A picture of one seed: a file stays under a megabyte.
        **({"flow": flow.astype(np.float16)} if config["seed"] == 0 else {}),
        # Through each line x = const.: no mass crosses it in a closed cavity.
        "flux": np.trapezoid(flow[0], dx=1 / (TEST - 1), axis=1),
        **runs.stored(run, ("loss", "weight", "gradient_max", "gradient_mean", "gradient_norm")),
    }


def configs(steps: int, seeds: int, models, formulations, lids) -> dict[str, dict]:
    cells = [
        (formulation, lid, model, seed)
        for seed, lid, formulation, model in itertools.product(range(seeds), lids, formulations, models)
        if (formulation, model) != ("streamfunction", "both")  # Continuity holds by construction there.
    ]
    return {" ".join(map(str, cell)): settings(*cell, steps) for cell in cells}


def main(
    steps: int = 40_000,
    seeds: int = 1,
    models: tuple[str, ...] = ("M1", "M2", "M3", "M4"),
    formulations: tuple[str, ...] = FORMULATIONS,
    lids: tuple[str, ...] = ("uniform",),
) -> None:
    results.fill("cavity", configs(steps, seeds, models, formulations, lids), make)


if __name__ == "__main__":
    runs.command_line(main, models=MODELS, formulations=FORMULATIONS, lids=LIDS)
