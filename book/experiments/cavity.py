"""The lid-driven cavity, two formulations, M1 to M4: Figs. 17 and 18 of the first paper (version 1).

    python book/experiments/cavity.py [--steps 40000] [--seeds 1] [--models M1 M2 M3 M4 ...]
        [--formulations streamfunction velocity] [--lids uniform parabolic]

Every cell (formulation, lid, model) is stored as soon as it is done.  A cell that is there
already, with as many steps and seeds or more, is not run again.  Beside the paper's M1 to M4,
plain networks with fixed weights: "boundary x 100" and "continuity x 100".
Needs `cavity_reference.npz`.  A GPU is used where there is one.
"""

import argparse
import functools
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
from pinn_analysis import networks, problems, results, training, weighting

REYNOLDS = 100
HIDDEN = (50, 50, 50)  # The authors' code; the paper says 5 layers.
BATCH = 128  # Per edge, and for each equation.
RECORD_EVERY = 200
TEST = 100  # Points an axis.
LIDS = {"uniform": lambda x: jnp.ones_like(x), "parabolic": lambda x: 4 * x * (1 - x)}
MODELS = {
    "M1": (networks.mlp, None),
    "M2": (networks.mlp, "annealed"),
    "M3": (networks.modified_mlp, None),
    "M4": (networks.modified_mlp, "annealed"),
    "boundary": (networks.mlp, {"boundary": 100.0}),
    "continuity": (networks.mlp, {"continuity": 100.0}),
}
PAPER = ("M1", "M2", "M3", "M4")


def cavity(formulation: str, lid: str) -> problems.Problem:
    """The library's problem, under another lid."""
    problem = problems.lid_driven_cavity(REYNOLDS, formulation)
    still = problem.conditions["boundary"]

    def wall(x: jax.Array) -> jax.Array:
        return still.target(x) * LIDS[lid](x[0])

    return problem._replace(conditions=problem.conditions | {"boundary": still._replace(target=wall)})


def make(formulation: str, lid: str, model: str) -> tuple:
    """Problem, network, weights and batch sizes of a cell."""
    problem = cavity(formulation, lid)
    architecture, rule = MODELS[model]
    network = architecture((2, *HIDDEN, 2 if formulation == "streamfunction" else 3))
    network = networks.standardized(network, *problem.domain)
    if rule == "annealed":
        weights = weighting.lr_annealing(reference="momentum")
    else:
        weights = weighting.fixed(**dict.fromkeys(problem.conditions, 1.0) | (rule or {}))
    sizes = dict.fromkeys(problem.conditions, BATCH) | {"boundary": 4 * BATCH}
    return problem, network, weights, sizes


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


def train(formulation: str, lid: str, model: str, steps: int, seeds: int) -> dict[str, np.ndarray]:
    """One cell: errors, final flow of the first seed, and histories."""
    problem, network, weights, sizes = make(formulation, lid, model)
    reference = results.load("cavity_reference")[0][f"{lid}_fields"][1:]
    x = problems.grid(problem, TEST)
    found, flows, runs = [], [], []
    for seed in range(seeds):
        run = training.train(
            problem, network, key=jax.random.key(seed), steps=steps, batch_size=sizes, weighting=weights,
            record_every=RECORD_EVERY,
        )  # fmt: skip
        flow = jax.vmap(problems.velocity(functools.partial(network.apply, run.params)))(x)
        flows.append(np.asarray(flow).T.reshape(2, TEST, TEST))
        found.append(errors(flows[-1], reference))
        runs.append(run)
    kept = [name for name in runs[0].history if name != "step"]
    return {
        "errors": np.stack(found),  # (seed, norm)
        "flow": flows[0].astype(np.float16),
        "flux": np.stack([flow[0].mean(1) for flow in flows]).astype(np.float32),  # Through each line x = const.
        "step": runs[0].history["step"],
        **{name.replace("/", "_"): np.stack([run.history[name] for run in runs]).astype(np.float32) for name in kept},
    }


def main(steps: int, seeds: int, models: list[str], formulations: list[str], lids: list[str]) -> None:
    try:
        arrays, how = results.load("cavity")
    except FileNotFoundError:
        arrays, how = {}, {"config": {"cells": {}}, "seconds": 0.0}
    cells, seconds = how["config"]["cells"], how["seconds"]
    for formulation, lid, model in itertools.product(formulations, lids, models):
        if formulation == "streamfunction" and model == "continuity":
            continue  # There is no continuity equation.
        name = f"{formulation}/{lid}/{model}"
        had = cells.get(name, {"steps": 0, "seeds": 0})
        if had["steps"] >= steps and had["seeds"] >= seeds:
            print(f"{name}: kept, {had['steps']} steps, {had['seeds']} seeds")
            continue
        if had["steps"] > steps or had["seeds"] > seeds:
            print(f"{name}: not run; stored are {had['steps']} steps and {had['seeds']} seeds, neither may shrink")
            continue
        start = time.perf_counter()
        new = train(formulation, lid, model, steps, seeds)
        took = time.perf_counter() - start
        arrays = {key: value for key, value in arrays.items() if not key.startswith(f"{name}/")}
        arrays |= {f"{name}/{key}": value for key, value in new.items()}
        cells[name] = {"steps": steps, "seeds": seeds, "seconds": round(took, 1), "device": results.device()}
        seconds += took
        config = {
            "problem": "lid_driven_cavity", "reynolds": REYNOLDS, "hidden": HIDDEN, "batch_size_per_edge": BATCH,
            "optimizer": "adam 1e-3, 0.9 per 1,000", "annealing": "siam, reference momentum", "inputs": "standardized",
            "precision": "float32", "norms": ["spectral", "frobenius", "frobenius without the corners"], "cells": cells,
        }  # fmt: skip
        results.save("cavity", config, seconds=seconds, **arrays)
        print(f"{name}: {new['errors'].round(4).tolist()}, {took:.0f} s", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=PAPER)
    parser.add_argument("--formulations", nargs="+", choices=("streamfunction", "velocity"),
                        default=("streamfunction", "velocity"))  # fmt: skip
    parser.add_argument("--lids", nargs="+", choices=LIDS, default=("uniform",))
    main(**vars(parser.parse_args()))
