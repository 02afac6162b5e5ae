"""Functions as data, which lets two kernels of one equation share a compilation; checks of traced numbers."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike


def as_pytree(fn: Callable) -> Callable:
    """``fn`` as a pytree that `jax.jit` takes as an argument.

    A function that is a pytree of numbers stays as it is: its coefficients are data.  The arguments
    of a `functools.partial` become data if all are floating-point numbers, as the parameters of a
    network are: others may decide what the function does.  Any other function is part of the
    program, compared by equality: pass the same one again, and nothing is compiled.
    """
    if not jax.tree_util.all_leaves([fn]) and all(map(_is_number, jax.tree.leaves(fn))):
        return fn
    if isinstance(fn, functools.partial) and all(map(_is_float, jax.tree.leaves((fn.args, fn.keywords)))):
        if as_pytree(fn.func) is fn.func:
            return jax.tree_util.Partial(call, fn.func, *fn.args, **fn.keywords)
        return jax.tree_util.Partial(fn.func, *fn.args, **fn.keywords)
    return jax.tree_util.Partial(fn)


def call(fn: Callable, *args: Any, **keywords: Any) -> Any:
    """``fn`` of what follows, so that a function can itself be an argument."""
    return fn(*args, **keywords)


def fails(condition: ArrayLike) -> bool:
    """Whether a condition is known not to hold; while a function is being traced it is not known."""
    return not isinstance(condition, jax.core.Tracer) and not condition


def _is_number(x: object) -> bool:
    return isinstance(x, bool | int | float | complex) or hasattr(x, "dtype")


def _is_float(x: object) -> bool:
    return _is_number(x) and jnp.issubdtype(jnp.result_type(x), jnp.floating)
