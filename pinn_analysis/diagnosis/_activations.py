"""What goes into the activations of any network: its program is run, operation by operation.  ``n`` points."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax import Array
from jax.extend.core import Jaxpr, Literal
from jaxtyping import PyTree

from pinn_analysis.problems import Apply

#: Beyond these inputs the slope is below a hundredth of the largest one.
SATURATION = {"tanh": 3.0, "logistic": 6.0, "erf": 2.15}
CALLS = ("jaxpr", "call_jaxpr", "fun_jaxpr")


class Layer(NamedTuple):
    """One activation: its name as JAX has it, and what goes in, ``(n, units)``."""

    name: str
    inputs: np.ndarray


def layers(apply: Apply, params: PyTree, x: Array) -> list[Layer]:
    """The activations of a network at the points ``x``, ``(n, d)``, in the order in which they are computed.

    Raises:
        ValueError: there is none of tanh, logistic, erf, sin or cos, or they are in a loop.
    """
    program = jax.make_jaxpr(jax.vmap(lambda x: apply(params, x)))(x)
    names = []

    @jax.jit
    def inputs(x: Array) -> list[Array]:
        found = []
        for name, values in _run(program.jaxpr, program.consts, [x]):
            if name in (*SATURATION, "sin", "cos") and np.ndim(values) >= 2 and len(values) == len(x):
                names.append(name)
                found.append(values.reshape(len(x), -1))
        return found

    found = [Layer(name, np.asarray(values)) for values, name in zip(inputs(x), names, strict=True)]
    if not found:
        raise ValueError("the network has no activation of tanh, logistic, erf, sin or cos outside of a loop")
    return found


def _run(jaxpr: Jaxpr, consts: list, args: list) -> Iterator[tuple[str, Array]]:
    """Operation and first argument of all that a program does; returns its results."""
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *args], strict=True))
    read = lambda v: v.val if isinstance(v, Literal) else known[v]
    for equation in jaxpr.eqns:
        values = [read(v) for v in equation.invars]
        inner = next((equation.params[key] for key in CALLS if key in equation.params), None)
        if inner is not None and equation.primitive.name not in ("scan", "while", "cond"):
            body, constants = (inner.jaxpr, inner.consts) if hasattr(inner, "jaxpr") else (inner, [])
            results = yield from _run(body, constants, values)
        else:
            if values:
                yield equation.primitive.name, values[0]
            results = equation.primitive.bind(*values, **equation.params)
            results = results if equation.primitive.multiple_results else [results]
        known.update(zip(equation.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]
