"""The multilayer perceptron, in two parameterizations."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from pinn_analysis.networks._core import Activation, Network, check_point, dense, function_of, normal, value
from pinn_analysis.networks._limit import Limit


def mlp(
    sizes: Sequence[int],
    activation: str | Activation = "tanh",
    *,
    parameterization: str = "standard",
    weight_std: float | int = 1.0,
    bias_std: float | int = 0.0,
) -> Network:
    """Multilayer perceptron with ``len(sizes) - 2`` hidden layers.

    ====================  ================================================  ===================
    ``parameterization``  layer                                             initial ``W``
    ====================  ================================================  ===================
    ``"standard"``        ``x W + b``                                       Glorot normal, std
                                                                            ``weight_std · √(2 / (fan_in + fan_out))``
    ``"ntk"``             ``weight_std / √fan_in · x W + bias_std · b``     ``N(0, 1)``
    ====================  ================================================  ===================

    Initial biases are ``N(0, bias_std²)`` and ``N(0, 1)``.  Both papers train the first
    form (with zero biases); the theory of the second paper (Sec. 2) is about the second,
    with ``weight_std = bias_std = 1``.  Only the second has a limit of use as the width
    grows: with few inputs and zero biases that of the first is a linear network.

    Args:
        sizes: inputs, hidden widths, outputs, such as ``(2, 50, 50, 50, 1)``.
        activation: ``"tanh"``, ``"erf"``, ``"sin"``, ``"gelu"``, or any elementwise function.
            The limit is computed by its Hermite series, which converges fast where it is smooth;
            with a kink, or far too steep, there is no limit of derivatives, and it is refused.
        parameterization: ``"standard"`` or ``"ntk"``.
        weight_std: scale of the weights.
        bias_std: scale of the biases.

    Raises:
        ValueError: fewer than two or non-positive sizes, an unknown name, a negative scale.
    """
    sizes = tuple(sizes)
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"`sizes` must be inputs, hidden widths and outputs, all positive; got {sizes}.")
    if parameterization not in ("standard", "ntk"):
        raise ValueError(f'`parameterization` must be "standard" or "ntk", got {parameterization!r}.')
    phi = function_of(activation)
    if weight_std <= 0 or bias_std < 0:
        raise ValueError(f"`weight_std` must be positive and `bias_std` not negative, got {weight_std} and {bias_std}.")
    ntk = parameterization == "ntk"
    layers = _Layers(sizes, phi, ntk, float(weight_std), float(bias_std))
    limit = Limit(len(sizes) - 2, phi, float(weight_std), float(bias_std)) if ntk else None
    return Network(_Init(layers), _Apply(layers), limit)


@dataclasses.dataclass(frozen=True)
class _Layers:
    sizes: tuple[int, ...]
    activation: Activation
    ntk: bool
    weight_std: float
    bias_std: float


@dataclasses.dataclass(frozen=True)
class _Init:
    layers: _Layers

    def __call__(self, key: Array) -> PyTree:
        of = self.layers
        params = []
        for fan_in, fan_out in zip(of.sizes[:-1], of.sizes[1:], strict=True):
            key, w_key, b_key = jax.random.split(key, 3)
            w_std = 1.0 if of.ntk else of.weight_std * np.sqrt(2 / (fan_in + fan_out))
            params.append(normal(w_key, b_key, (fan_in, fan_out), w_std, 1.0 if of.ntk else of.bias_std))
        return params


@dataclasses.dataclass(frozen=True)
class _Apply:
    layers: _Layers

    def __call__(self, params: PyTree, x: Float[Array, " d"]) -> Array:
        check_point(x, self.layers.sizes[0])
        for layer in params[:-1]:
            x = self.layers.activation(self._dense(layer, x))
        return value(self._dense(params[-1], x))

    def _dense(self, layer: dict[str, Array], x: Float[Array, " fan_in"]) -> Float[Array, " fan_out"]:
        if not self.layers.ntk:
            return dense(layer, x)
        z = jnp.matmul(x, layer["weight"], precision="highest")
        return self.layers.weight_std / np.sqrt(x.size) * z + self.layers.bias_std * layer["bias"]
