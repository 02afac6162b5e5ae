"""The first finding's advice followed, and the run trained anew: what the error becomes.

    python book/experiments/diagnosis_cures.py [--equations poisson ...] [--plants "weak term" ...] [--seeds 4]

For chapter 24.  Of each planted run of `diagnosis_battery` that counts (error above 0.1) the cause that was *named* is
treated, right or wrong, as its advice says, with the numbers of the diagnosis and no others; then it is trained from
the same start, for as many steps unless the advice is more of them.  Four kinds of advice ask for a correction that
only the author of the problem can make (an equation compared, a condition added, readings left out): there the
problem becomes the clean one.
"""

import json
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from pinn_analysis import diagnosis, mlp, problems, results, solving, standardized

import runs
from diagnosis_battery import CAUSES, EQUATIONS, RATE, Setting, asked, equation, network, setting, train


def clean(chosen: Setting, config: dict, finding: diagnosis.Finding, measured: dict) -> Setting:
    """The problem as it should be."""
    mended = equation(config["equation"], "clean")
    only = setting(config | {"plant": "clean"})
    return chosen._replace(problem=mended, sizes=only.sizes, weights=only.weights)


def without(chosen: Setting, config: dict, finding: diagnosis.Finding, measured: dict) -> Setting:
    """The term that contradicts the others left out."""
    kept = [name for name in chosen.problem.conditions if name != finding.where]
    some = lambda of: {name: of[name] for name in kept}
    return chosen._replace(problem=chosen.problem.only(*kept), sizes=some(chosen.sizes), weights=some(chosen.weights))


def balanced(chosen: Setting, config: dict, finding: diagnosis.Finding, measured: dict) -> Setting:
    """The weights of the kernel."""
    return chosen._replace(weights={name: float(f"{w:.2g}") for name, w in measured["kernel"]["weights"].items()})


def dimensionless(chosen: Setting, config: dict, finding: diagnosis.Finding, measured: dict) -> Setting:
    """The large term divided by its unit."""
    conditions = dict(chosen.problem.conditions)
    conditions[finding.where] = conditions[finding.where].scaled(1 / measured["reference"]["units"][finding.where])
    return chosen._replace(problem=chosen.problem._replace(conditions=conditions))


def four_times_the_points(chosen: Setting, config: dict, finding: diagnosis.Finding, measured: dict) -> Setting:
    """As many for every term."""
    return chosen._replace(sizes=dict.fromkeys(chosen.sizes, 4 * max(measured["points"]["counts"].values())))


def sines(chosen: Setting, config: dict, finding: diagnosis.Finding, measured: dict) -> Setting:
    """Features of the scale with which the problem could be solved."""
    d, scale = len(chosen.problem.domain[0]), measured["reference"]["scale"]
    net = mlp((d, 100, 1), "sin", parameterization="ntk", weight_std=scale, bias_std=1.0)
    return chosen._replace(network=standardized(net, *chosen.problem.domain))


def shorter_steps(chosen: Setting, config: dict, finding: diagnosis.Finding, measured: dict) -> Setting:
    """Steps that move the field by a tenth of its size at first, and then ever less."""
    factor = 0.1 / measured["step"]["moves"]
    return chosen._replace(rate=optax.cosine_decay_schedule(factor * asked(config["plant"]), chosen.steps))


def other_network(plant: str) -> Callable:
    """The network of another plant."""
    return lambda chosen, config, finding, measured: chosen._replace(network=network(config["equation"], plant))


def scaled_inputs(chosen: Setting, config: dict, finding: diagnosis.Finding, measured: dict) -> Setting:
    """The same network behind a scaling of its inputs."""
    return chosen._replace(network=standardized(chosen.network, *chosen.problem.domain))


CURES: dict[str, Callable] = {
    "wrong sign or coefficient": clean,
    "contradictory data": without,
    "missing condition": clean,
    "precision": lambda chosen, *_: chosen._replace(dtype=jnp.float64),
    "inputs not scaled": scaled_inputs,
    "unstable step": shorter_steps,
    "saturated units": other_network("clean"),
    "collapsed constraint": other_network("hard constraint"),
    "units of terms": dimensionless,
    "too few points": four_times_the_points,
    "overfitted points": sines,
    "weak term": balanced,
    "frequency too high": sines,
    "too few steps": lambda chosen, *_: chosen._replace(
        steps=10 * chosen.steps, rate=optax.cosine_decay_schedule(RATE, 10 * chosen.steps)
    ),
}


def followed(chosen: Setting, config: dict, finding: diagnosis.Finding, measured: dict) -> float:
    """The relative error after what is advised."""
    if finding.advice.startswith("solution = solving.solve("):
        problem = chosen.problem
        field = solving.solve(problem, key=jax.random.key(config["seed"])).field
        return float(problems.relative_l2_error(field, problem.solution, problems.test_points(problem)))
    return train(CURES[finding.cause](chosen, config, finding, measured), config["seed"])[-1]


def make(config: dict) -> dict:
    """Ask, follow the advice, train."""
    arrays = results.records("diagnosis_battery")[config["patient"]].arrays
    measured = json.loads(zlib.decompress(arrays["measured"].tobytes()))
    found = diagnosis.find(measured)
    after, cause = float("nan"), "nothing"
    if found:
        cause = found[0].cause
        after = followed(setting(config), config, found[0], measured)
    return {"before": float(arrays["error"]), "after": after, "cause": cause}


def main(equations: tuple[str, ...] = EQUATIONS, plants: tuple[str, ...] = tuple(CAUSES), seeds: int = 4) -> None:
    configs = {}
    for name, (arrays, how) in results.records("diagnosis_battery").items():
        config = how["config"]
        chosen = config["plant"] in plants and config["equation"] in equations and config["seed"] < seeds
        if chosen and np.asarray(arrays["error"]) > 0.1:
            configs[name] = config | {"patient": name}
    results.fill("diagnosis_cures", configs, make)


if __name__ == "__main__":
    runs.command_line(main, equations=EQUATIONS, plants=CAUSES)
