"""Functions as data: what lets two kernels of one equation share a compilation."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp


def as_pytree(fn: Callable) -> Callable:
    """``fn`` as a pytree that `jax.jit` takes as an argument.

    A function that is a registered pytree stays as it is: its coefficients are data.  The arguments
    of a `functools.partial` become data if all are floating-point numbers, as the parameters of a
    network are: others may decide what the function does.  Any other function is part of the
    program, compared by equality: pass the same one again, and nothing is compiled.
    """
    if not jax.tree_util.all_leaves([fn]):
        return fn
    if isinstance(fn, functools.partial) and all(map(_is_float, jax.tree.leaves((fn.args, fn.keywords)))):
        return jax.tree_util.Partial(fn.func, *fn.args, **fn.keywords)
    return jax.tree_util.Partial(fn)


def _is_float(x: object) -> bool:
    return isinstance(x, float) or (hasattr(x, "dtype") and jnp.issubdtype(x.dtype, jnp.floating))
