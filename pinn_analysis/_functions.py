"""Functions as data: what lets two kernels of one equation share a compilation."""

import functools
from collections.abc import Callable

import jax


def as_pytree(fn: Callable) -> Callable:
    """``fn`` as a pytree that `jax.jit` takes as an argument.

    A function that is a registered pytree stays as it is: its coefficients are data.  The arguments
    of a `functools.partial` become data, as parameters of a network do.  Any other function is part
    of the program, compared by equality: pass the same one again, and nothing is compiled.
    """
    if jax.tree.leaves(fn) != [fn]:
        return fn
    if isinstance(fn, functools.partial):
        return jax.tree_util.Partial(fn.func, *fn.args, **fn.keywords)
    return jax.tree_util.Partial(fn)
