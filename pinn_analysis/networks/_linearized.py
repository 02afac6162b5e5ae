"""A network replaced by its tangent: linear in its parameters, and so solved instead of trained."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from pinn_analysis.networks._core import Network


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class _Tangent:
    """``(params, x) -> u(x; start) + ∂u(x; start)/∂θ (params - start)``; ``start`` is data to `jax.jit`."""

    apply: Callable = dataclasses.field(metadata={"static": True})
    start: PyTree
    centered: bool = dataclasses.field(metadata={"static": True})

    def __call__(self, params: PyTree, x: Float[Array, " d"]) -> Array:
        # In the precision of the parameters, if that is the higher one.
        start = jax.tree.map(lambda new, old: old.astype(jnp.result_type(new, old)), params, self.start)
        step = jax.tree.map(lambda new, old: (new - old).astype(old.dtype), params, start)
        value, change = jax.jvp(lambda params: self.apply(params, x), (start,), (step,))
        return change if self.centered else value + change


def linearized(network: Network, params: PyTree, *, centered: bool = False) -> Network:
    """The first-order Taylor expansion of ``network`` in its parameters at ``params``, itself a `Network`.

    It has the parameters of ``network``, starts at ``params`` whatever the key, keeps the kernel that ``network`` has
    there for ever (Lee et al., 1902.06720), and in it a linear equation is a linear least-squares problem.

    Args:
        network: any network.
        params: where to expand, parameters of ``network``.
        centered: leave out the value at ``params``, so that the field starts at 0 (Chizat, Oyallon, Bach, 1812.07956).
    """
    return Network(lambda key: params, _Tangent(network.apply, params, centered), network.kernel_fn)
