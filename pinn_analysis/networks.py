"""Networks as triples of functions, with the kernel of their infinite-width limit.

Shapes: ``d`` inputs, ``m`` outputs.  ``apply`` takes one point; use `jax.vmap` for many.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PyTree

from pinn_analysis import _hermite, _neural_tangents

Activation = Callable[[Array], Array]


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Activation] = {
    "tanh": jnp.tanh,
    "erf": jax.scipy.special.erf,
    "sin": jnp.sin,
    "gelu": _gelu,  # By its Hermite series: XLA takes minutes over derivatives of the closed form of depth 3.
}


class Network(NamedTuple):
    """A network architecture.

    Attributes:
        init: ``key -> params``.
        apply: ``(params, x) -> u(x)``, ``x`` of shape ``(d,)``; a scalar, or ``(m,)`` if ``m > 1``.
        kernel_fn: neural-tangents' ``kernel_fn(x1, x2, get)`` of the infinite-width limit, of
            one output (the outputs are independent there); ``None`` where there is none.
    """

    init: Callable[[Array], PyTree]
    apply: Callable[[PyTree, Array], Array]
    kernel_fn: Callable | None


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
            For a function of your own the limit is computed by its Hermite series, which
            converges fast where it is smooth (no kinks).
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
    if isinstance(activation, str) and activation not in ACTIVATIONS:
        raise ValueError(f"`activation` must be a function or one of {list(ACTIVATIONS)}, got {activation!r}.")
    if weight_std <= 0 or bias_std < 0:
        raise ValueError(f"`weight_std` must be positive and `bias_std` not negative, got {weight_std} and {bias_std}.")
    ntk = parameterization == "ntk"
    phi = ACTIVATIONS[activation] if isinstance(activation, str) else activation

    def init(key: Array) -> PyTree:
        layers = []
        for fan_in, fan_out in zip(sizes[:-1], sizes[1:], strict=True):
            key, w_key, b_key = jax.random.split(key, 3)
            w_std = 1.0 if ntk else weight_std * np.sqrt(2 / (fan_in + fan_out))
            b_std = 1.0 if ntk else bias_std
            weight = w_std * jax.random.normal(w_key, (fan_in, fan_out))
            layers.append({"weight": weight, "bias": b_std * jax.random.normal(b_key, (fan_out,))})
        return layers

    def dense(layer: dict[str, Array], x: Float[Array, " fan_in"]) -> Float[Array, " fan_out"]:
        z = jnp.matmul(x, layer["weight"], precision="highest")
        if ntk:
            return weight_std / np.sqrt(x.size) * z + bias_std * layer["bias"]
        return z + layer["bias"]

    def apply(params: PyTree, x: Float[Array, " d"]) -> Array:
        _check_point(x, sizes[0])
        for layer in params[:-1]:
            x = phi(dense(layer, x))
        u = dense(params[-1], x)
        return u[0] if sizes[-1] == 1 else u

    limit = _Limit(len(sizes) - 2, activation, float(weight_std), float(bias_std)) if ntk else None
    return Network(init, apply, limit)


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
    hidden = mlp(sizes, activation)
    phi = ACTIVATIONS[activation] if isinstance(activation, str) else activation
    width = sizes[1]

    def encoder(key: Array) -> dict[str, Array]:
        w_key, b_key = jax.random.split(key)
        weight = np.sqrt(2 / (sizes[0] + width)) * jax.random.normal(w_key, (sizes[0], width))
        return {"weight": weight, "bias": np.sqrt(2 / (1 + width)) * jax.random.normal(b_key, (width,))}

    def init(key: Array) -> PyTree:
        key, u_key, v_key = jax.random.split(key, 3)
        return {"encoders": [encoder(u_key), encoder(v_key)], "layers": hidden.init(key)}

    def dense(layer: dict[str, Array], x: Array) -> Array:
        return jnp.matmul(x, layer["weight"], precision="highest") + layer["bias"]

    def apply(params: PyTree, x: Float[Array, " d"]) -> Array:
        _check_point(x, sizes[0])
        u, v = (phi(dense(layer, x)) for layer in params["encoders"])
        for layer in params["layers"][:-1]:
            z = phi(dense(layer, x))
            x = z * u + (1 - z) * v
        out = dense(params["layers"][-1], x)
        return out[0] if sizes[-1] == 1 else out

    return Network(init, apply, None)


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
    sizes, scales = tuple(sizes), np.atleast_1d(np.asarray(scales, float))
    if len(sizes) < 3 or sizes[0] < 1 or sizes[1] % 2:
        raise ValueError(f"`sizes` needs inputs and a first hidden layer of even width, as (1, 50, 1); got {sizes}.")
    if not (scales.size and np.isfinite(scales).all() and (scales > 0).all()):
        raise ValueError(f"`scales` needs positive numbers, such as (1.0, 10.0); got {scales.tolist()}.")
    hidden = mlp((*sizes[1:2], *sizes[1:-1]), activation)
    last = mlp((scales.size * sizes[-2], sizes[-1]))
    phi = ACTIVATIONS[activation] if isinstance(activation, str) else activation
    key = jax.random.key(0) if key is None else key
    draws = jax.random.normal(key, (scales.size, sizes[1] // 2, sizes[0]))
    frequencies = np.asarray(2 * np.pi * scales[:, None, None] * draws)

    def init(key: Array) -> PyTree:
        hidden_key, last_key = jax.random.split(key)
        return {"hidden": hidden.init(hidden_key), "last": last.init(last_key)}

    def apply(params: PyTree, x: Float[Array, " d"]) -> Array:
        _check_point(x, sizes[0])
        z = jnp.matmul(frequencies.astype(x.dtype), x, precision="highest")
        h = jnp.concatenate([jnp.cos(z), jnp.sin(z)], axis=-1)
        for layer in params["hidden"]:
            h = phi(jnp.matmul(h, layer["weight"], precision="highest") + layer["bias"])
        return last.apply(params["last"], h.ravel())

    return Network(init, apply, None)


def _check_point(x: Array, d: int) -> None:
    if x.shape != (d,):
        raise ValueError(f"The network takes one point of shape ({d},), got {x.shape}; use `jax.vmap` for many.")


class _Limit(NamedTuple):
    """Infinite-width kernel of `mlp`, made on the first call: training never needs it."""

    depth: int
    activation: str | Activation
    weight_std: float
    bias_std: float

    def __call__(self, x1: Array, x2: Array | None = None, get: Any = None) -> Any:
        return _kernel_fn(self)(x1, x2, get)


# Of the first hidden layer, the largest for which series are exact: inputs of variance 1 over a
# box do not exceed 4 with `weight_std = bias_std = 1`.
INPUT_VARIANCE = 4.0


@functools.cache
def _kernel_fn(limit: _Limit) -> Callable:
    stax = _neural_tangents.load().stax
    closed_forms = {"erf": stax.Erf, "sin": stax.Sin}
    if limit.activation in closed_forms:
        activations = [closed_forms[limit.activation]()] * limit.depth
    else:
        phi = ACTIVATIONS.get(limit.activation, limit.activation)
        variance, activations = INPUT_VARIANCE, []
        for _ in range(limit.depth):
            activations.append(stax.Elementwise(phi, *_hermite.expectations(phi, variance)))
            variance = limit.weight_std**2 * _hermite.second_moment(phi, variance) + limit.bias_std**2
    # One layer of the limit has no width: the `1` stands for any.
    dense = stax.Dense(1, W_std=limit.weight_std, b_std=limit.bias_std)
    hidden = [layer for activation in activations for layer in (dense, activation)]
    return stax.serial(*hidden, dense)[2]


def standardized(network: Network, low: ArrayLike, high: ArrayLike) -> Network:
    """``network`` with inputs scaled to mean 0 and variance 1 over a box, kernel included.

    Both papers' code does this (with the mean and deviation of random points, here exact
    ones: deviation ``(high - low) / √12``), though neither paper mentions it.

    Args:
        network: the network to be given scaled inputs.
        low: lower corner of the box, ``(d,)``.
        high: upper corner of the box, ``(d,)``.
    """
    low, high = np.asarray(low), np.asarray(high)
    if not (high > low).all():
        raise ValueError(f"`high` must be above `low` on each axis, got {low} and {high}.")
    mean, std = (low + high) / 2, (high - low) / np.sqrt(12)

    def scale(x: Array) -> Array:
        return (x - mean.astype(x.dtype)) / std.astype(x.dtype)

    def apply(params: PyTree, x: Float[Array, " d"]) -> Array:
        _check_point(x, low.size)
        return network.apply(params, scale(x))

    def kernel_fn(x1: Array, x2: Array | None = None, get: Any = None) -> Any:
        return network.kernel_fn(scale(x1), None if x2 is None else scale(x2), get)

    return Network(network.init, apply, kernel_fn if network.kernel_fn else None)
