"""What a network is, and what all architectures share.  Shapes: ``d`` inputs, ``m`` outputs."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PyTree

Activation = Callable[[Array], Array]


def _gelu(x: Array) -> Array:
    return jax.nn.gelu(x, approximate=False)


ACTIVATIONS: dict[str, Activation] = {"tanh": jnp.tanh, "erf": jax.scipy.special.erf, "sin": jnp.sin, "gelu": _gelu}


class Network(NamedTuple):
    """A network architecture.  Equal arguments make equal networks, so that they share compilations.

    Attributes:
        init: ``key -> params``.
        apply: ``(params, x) -> u(x)``, ``x`` of shape ``(d,)``; a scalar, or ``(m,)`` if ``m > 1``.
        kernel_fn: ``kernel_fn(x1, x2, get)`` of the infinite-width limit, as of neural-tangents, of
            one output (the outputs are independent there); ``None`` where there is none.
    """

    init: Callable[[Array], PyTree]
    apply: Callable[[PyTree, Array], Array]
    kernel_fn: Callable | None


def check_network(network: Any) -> None:
    """Raise `ValueError` unless ``network`` is a `Network`, with the word for what is given instead."""
    if not isinstance(network, Network):
        raise ValueError(
            f"`network` must be a `Network`, which says how parameters start, got {type(network).__name__}: of "
            "functions of your own, `Network(init, apply, None)` with `init(key) -> params` and `apply(params, x)`."
        )


def standardized(network: Network, low: ArrayLike, high: ArrayLike) -> Network:
    """``network`` with inputs scaled to mean 0 and variance 1 over a box, kernel included.

    Both papers' code does this (with the mean and deviation of random points, here exact
    ones: deviation ``(high - low) / √12``), though neither paper mentions it.

    Args:
        network: the network to be given scaled inputs.
        low: lower corner of the box, ``(d,)``.
        high: upper corner of the box, ``(d,)``.
    """
    low, high = np.asarray(low, float), np.asarray(high, float)
    if not (high > low).all():
        raise ValueError(f"`high` must be above `low` on each axis, got {low} and {high}.")
    scale = _Scale(tuple(low.tolist()), tuple(high.tolist()))
    kernel_fn = network.kernel_fn and _ScaledKernel(network.kernel_fn, scale)
    return Network(network.init, _ScaledApply(network.apply, scale), kernel_fn)


@dataclasses.dataclass(frozen=True)
class _Scale:
    low: tuple[float, ...]
    high: tuple[float, ...]

    def __call__(self, x: Array) -> Array:
        low, high = np.asarray(self.low), np.asarray(self.high)
        mean, std = (low + high) / 2, (high - low) / np.sqrt(12)
        mean, std = (np.broadcast_to(a.astype(x.dtype), x.shape) for a in (mean, std))
        return (x - mean) / std


@dataclasses.dataclass(frozen=True)
class _ScaledApply:
    apply: Callable
    scale: _Scale

    def __call__(self, params: PyTree, x: Float[Array, " d"]) -> Array:
        check_point(x, len(self.scale.low))
        return self.apply(params, self.scale(x))


@dataclasses.dataclass(frozen=True)
class _ScaledKernel:
    kernel_fn: Callable
    scale: _Scale

    def __call__(self, x1: Array, x2: Array | None = None, get: Any = "ntk") -> Any:
        return self.kernel_fn(self.scale(x1), None if x2 is None else self.scale(x2), get)


def constrained(network: Network, factor: Callable[[Array], Array], offset: Callable | None = None) -> Network:
    """``A(x) + D(x) N(x)``: ``network`` times a factor, which meets a condition where ``D`` is 0, kernel included.

    There the field is ``A`` whatever the parameters are, so the condition needs no term in the loss (`Problem.only`;
    Lagaris, Likas and Fotiadis, 1998).  The kernel is ``D(x) Θ(x, x') D(x')``, and ``A`` has no part in it.
    ``D`` should vanish like one power of the distance for each condition that it replaces: with a higher one,
    derivatives that the solution has at the edge are zero in every such field.

    Args:
        network: the network ``N``.
        factor: ``D``, from one point ``(d,)`` to a number.  Operators take its derivatives, also at the edge.
        offset: ``A``, from one point to a value like the network's; 0 if not given.

    Raises:
        ValueError: on application, values of ``factor`` or ``offset`` of another shape.
    """
    kernel_fn = network.kernel_fn and _ConstrainedKernel(network.kernel_fn, factor)
    return Network(network.init, _ConstrainedApply(network.apply, factor, offset), kernel_fn)


@dataclasses.dataclass(frozen=True)
class _ConstrainedApply:
    apply: Callable
    factor: Callable
    offset: Callable | None

    def __call__(self, params: PyTree, x: Float[Array, " d"]) -> Array:
        value, factor = self.apply(params, x), self.factor(x)
        added = jnp.zeros_like(value) if self.offset is None else self.offset(x)
        if jnp.shape(factor) != () or jnp.shape(added) != value.shape:
            raise ValueError(
                f"`factor` must give a number and `offset` a value of shape {value.shape}, as the network does; got "
                f"shapes {jnp.shape(factor)} and {jnp.shape(added)}."
            )
        return added + factor * value


@dataclasses.dataclass(frozen=True)
class _ConstrainedKernel:
    kernel_fn: Callable
    factor: Callable

    def __call__(self, x1: Array, x2: Array | None = None, get: Any = "ntk") -> Any:
        if isinstance(get, tuple):
            return tuple(self(x1, x2, one) for one in get)
        one, two = (jax.vmap(self.factor)(x) for x in (x1, x1 if x2 is None else x2))
        return one[:, None] * self.kernel_fn(x1, x2, get) * two[None]


def function_of(activation: str | Activation) -> Activation:
    """The activation of this name, or itself.

    Raises:
        ValueError: an unknown name.
    """
    if isinstance(activation, str) and activation not in ACTIVATIONS:
        raise ValueError(f"`activation` must be a function or one of {list(ACTIVATIONS)}, got {activation!r}.")
    return ACTIVATIONS[activation] if isinstance(activation, str) else activation


def normal(
    w_key: Array, b_key: Array, shape: tuple[int, int], weight_std: float | int, bias_std: float | int
) -> dict[str, Array]:
    """Parameters of one layer, drawn from normal distributions."""
    weight = weight_std * jax.random.normal(w_key, shape)
    return {"weight": weight, "bias": bias_std * jax.random.normal(b_key, shape[1:])}


def dense(layer: dict[str, Array], x: Float[Array, "... n"]) -> Float[Array, "... m"]:
    """``x W + b``."""
    return jnp.matmul(x, layer["weight"], precision="highest") + layer["bias"]


def value(out: Float[Array, " m"]) -> Array:
    """One output is a scalar."""
    return out[0] if out.size == 1 else out


def check_point(x: Array, d: int) -> None:
    """Raise `ValueError` unless ``x`` is one point."""
    if x.shape != (d,):
        raise ValueError(f"The network takes one point of shape ({d},), got {x.shape}; use `jax.vmap` for many.")
