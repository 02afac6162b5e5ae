"""A traced function without its repetitions.

An operator such as ``u_tt - u_xx + u`` calls the field three times.  XLA finds repeated arithmetic by itself, but
not repeated loops, and it compiles a short program sooner.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

from pinn_analysis._laplacian import _CALLS, _function, _live


def deduplicated(f: Callable[..., Any]) -> Callable[..., Any]:
    """``f`` of arrays, to any pytree of them, with every operation on the same arguments done once and none in vain."""

    def once(*arguments: Any) -> Any:
        closed, shape = jax.make_jaxpr(f, return_shape=True)(*arguments)
        values: dict[int, Any] = {}
        numbers: dict[Any, tuple[int, ...]] = {}

        def new(value: Any) -> int:
            values[len(values)] = value
            return len(values) - 1

        def run(jaxpr: core.Jaxpr, consts: Sequence[Any], arguments: Sequence[int]) -> list[int]:
            known = dict(zip(jaxpr.invars, arguments, strict=True))
            for var, const in zip(jaxpr.constvars, consts, strict=True):
                known[var] = number(("const", id(const)), const)

            of_literal = lambda atom: number(("literal", str(atom.val), atom.aval), atom.val)
            read = lambda atom: of_literal(atom) if isinstance(atom, core.Literal) else known[atom]
            for eqn in _live(jaxpr):
                at = [read(atom) for atom in eqn.invars]
                inner = eqn.params.get("jaxpr")
                if eqn.primitive.name in _CALLS and inner is not None:
                    inner, inner_consts = (
                        (inner.jaxpr, inner.consts) if isinstance(inner, core.ClosedJaxpr) else (inner, ())
                    )
                    outputs = run(inner, inner_consts, at)
                else:
                    outputs = apply(eqn, at)
                known.update(zip(eqn.outvars, outputs, strict=True))
            return [read(atom) for atom in jaxpr.outvars]

        def number(key: Any, value: Any) -> int:
            if key not in numbers:
                numbers[key] = (new(value),)
            return numbers[key][0]

        def apply(eqn: core.JaxprEqn, at: list[int]) -> tuple[int, ...]:
            try:
                key = (eqn.primitive, tuple(at), tuple(sorted(eqn.params.items(), key=lambda item: item[0])))
                if key in numbers:
                    return numbers[key]
            except TypeError:  # Parameters that are not hashable.
                key = object()
            numbers[key] = tuple(new(value) for value in _function(eqn)(*(values[i] for i in at)))
            return numbers[key]

        outputs = run(closed.jaxpr, closed.consts, [new(argument) for argument in jax.tree.leaves(arguments)])
        return jax.tree.unflatten(jax.tree.structure(shape), [values[out] for out in outputs])

    return once
