"""Networks on random Fourier features."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, PyTree

from pinn_analysis.networks._core import Activation, Network, check_point, dense, function_of
from pinn_analysis.networks._mlp import mlp


def fourier_mlp(
    sizes: Sequence[int],
    scales: Sequence[float | int] = (1.0, 10.0),
    activation: str | Activation = "tanh",
    *,
    key: Array | None = None,
) -> Network:
    """Multilayer perceptron on random Fourier features of several scales (Wang, Wang, Perdikaris, 2012.10047).

    For each scale ``σ`` the layers see ``[cos(2πBx), sin(2πBx)]``, ``B ~ N(0, σ²)`` of shape
    ``(width / 2, d)``: as many features as the first layer has units.  All scales pass the *same*
    hidden layers and are concatenated before the last one, with ``len(scales)`` times its inputs.
    A scale is a frequency: in cycles per unit of ``x``, so scale the inputs (`standardized`) first.

    The features are part of the architecture, and not in ``params``: nothing trains, decays or
    counts them, and `ntk` has no rows for them.  So ``init`` does not draw them anew; for an
    average over features, make a network for each ``key``.

    Of the authors' code (MultiscalePINNs, ``layers = [200, 200, 200, 1]`` there is
    ``sizes = (d, 200, 200, 1)``) this has the shared layers, the number of features and Glorot
    weights.  It differs in three things: the code has no ``2π`` (its ``σ`` is ``2πσ`` here),
    starts biases from ``N(0, 1)`` (zero here, as in `mlp`), and in the multiscale network of its
    wave equation leaves ``B`` trainable, though out of the kernel.

    Args:
        sizes: inputs, hidden widths (the first one even), outputs.
        scales: ``σ`` of each set of features, positive.
        activation: as of `mlp`.
        key: for the features; ``jax.random.key(0)`` if not given.

    Raises:
        ValueError: as `mlp`; an odd first width or none; no scales, or one not positive.
    """
    sizes, sigmas = tuple(sizes), np.atleast_1d(np.asarray(scales, float))
    if len(sizes) < 3 or sizes[0] < 1 or sizes[1] % 2:
        raise ValueError(f"`sizes` needs inputs and a first hidden layer of even width, as (1, 50, 1); got {sizes}.")
    if not (sigmas.size and np.isfinite(sigmas).all() and (sigmas > 0).all()):
        raise ValueError(f"`scales` needs positive numbers, such as (1.0, 10.0); got {sigmas.tolist()}.")
    hidden = mlp((*sizes[1:2], *sizes[1:-1]), activation)
    last = mlp((sigmas.size * sizes[-2], sizes[-1]))
    key = jax.random.key(0) if key is None else key
    draws = jax.random.normal(key, (sigmas.size, sizes[1] // 2, sizes[0]))
    frequencies = np.asarray(2 * np.pi * sigmas[:, None, None] * draws)
    features = _Features(frequencies.shape, tuple(frequencies.ravel().tolist()))
    return Network(_Init(hidden, last), _Apply(features, function_of(activation), last), None)


@dataclasses.dataclass(frozen=True)
class _Features:
    """``[cos(2πBx), sin(2πBx)]`` for each scale; the frequencies as numbers, so that equal features are equal."""

    shape: tuple[int, ...]
    frequencies: tuple[float, ...]

    def __call__(self, x: Float[Array, " d"]) -> Float[Array, "scales width"]:
        frequencies = np.asarray(self.frequencies, x.dtype).reshape(self.shape)
        z = jnp.matmul(frequencies, x, precision="highest")
        return jnp.concatenate([jnp.cos(z), jnp.sin(z)], axis=-1)


@dataclasses.dataclass(frozen=True)
class _Init:
    hidden: Network
    last: Network

    def __call__(self, key: Array) -> PyTree:
        hidden_key, last_key = jax.random.split(key)
        return {"hidden": self.hidden.init(hidden_key), "last": self.last.init(last_key)}


@dataclasses.dataclass(frozen=True)
class _Apply:
    features: _Features
    activation: Activation
    last: Network

    def __call__(self, params: PyTree, x: Float[Array, " d"]) -> Array:
        check_point(x, self.features.shape[-1])
        h = self.features(x)
        for layer in params["hidden"]:
            h = self.activation(dense(layer, h))
        return self.last.apply(params["last"], h.ravel())
