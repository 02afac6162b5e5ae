"""The "improved architecture", with two encoders that gate every hidden layer."""

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from pinn_analysis.networks._core import Activation, Network, check_point, dense, function_of, normal, value
from pinn_analysis.networks._mlp import mlp


def modified_mlp(sizes: Sequence[int], activation: str | Activation = "tanh") -> Network:
    """The "improved architecture" of Wang, Teng, Perdikaris (2001.04536, Sec. 2.6), M3 and M4.

    Two encoders ``U = φ(x W_U + b_U)`` and ``V = φ(x W_V + b_V)`` gate every hidden layer,

        ``H ← Z ⊙ U + (1 - Z) ⊙ V``,   ``Z = φ(H W + b)``,

    the first one included (with ``H = x``).  This is the authors' code; the paper has one
    more hidden layer before the first gate, and ``U`` and ``V`` exchanged, which changes a name
    alone.  Weights are Glorot normal and biases zero, except those of the encoders, which the
    code draws from ``N(0, 2 / (1 + width))``.

    Args:
        sizes: inputs, hidden widths (all equal, since the gates multiply them), outputs.
        activation: as of `mlp`.

    Raises:
        ValueError: as `mlp`; hidden widths that differ.
    """
    sizes = tuple(sizes)
    if len(sizes) < 3 or len(set(sizes[1:-1])) != 1:
        raise ValueError(f"`sizes` needs hidden layers, all of the same width, such as (2, 50, 50, 1); got {sizes}.")
    return Network(_Init(mlp(sizes, activation), sizes), _Apply(function_of(activation), sizes[0]), None)


@dataclasses.dataclass(frozen=True)
class _Init:
    layers: Network
    sizes: tuple[int, ...]

    def __call__(self, key: Array) -> PyTree:
        key, *encoder_keys = jax.random.split(key, 3)
        d, width = self.sizes[:2]
        stds = np.sqrt(2 / (d + width)), np.sqrt(2 / (1 + width))
        pairs = (jax.random.split(k) for k in encoder_keys)
        encoders = [normal(w_key, b_key, (d, width), *stds) for w_key, b_key in pairs]
        return {"encoders": encoders, "layers": self.layers.init(key)}


@dataclasses.dataclass(frozen=True)
class _Apply:
    activation: Activation
    d: int

    def __call__(self, params: PyTree, x: Float[Array, " d"]) -> Array:
        check_point(x, self.d)
        u, v = (self.activation(dense(layer, x)) for layer in params["encoders"])
        for layer in params["layers"][:-1]:
            z = self.activation(dense(layer, x))
            x = z * u + (1 - z) * v
        return value(dense(params["layers"][-1], x))
