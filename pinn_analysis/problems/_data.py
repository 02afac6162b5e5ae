"""Measurements as a loss term.  Shapes: ``n`` readings, ``d`` inputs, ``q`` measured components."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

from pinn_analysis._functions import as_pytree, fails
from pinn_analysis.operators import Field, Operator, identity
from pinn_analysis.problems._condition import Condition
from pinn_analysis.problems._core import as_floats, is_finite


def data(
    x: ArrayLike | Sequence, y: ArrayLike | Sequence, *, operator: Operator = identity, noise: ArrayLike | None = None
) -> Condition:
    """Measured values as a loss term: ``operator(u)(x_k) = y_k``, several readings at one place included.

    A target is a function of the place, measurements are not: a point of this term is a row
    ``(x_k, y_k)``, or ``(x_k, y_k, σ_k)`` with noise, so that each reading keeps its value wherever
    the points go.  The operator gets ``x_k``; nothing is derived by the measured columns:

        >>> import jax, jax.numpy as jnp
        >>> from pinn_analysis import problems
        >>> x, problem = jnp.linspace(0, 1, 20)[:, None], problems.poisson_1d(4)
        >>> sensors = problems.data(x, jnp.sin(4 * jnp.pi * x[:, 0]), noise=0.05)
        >>> measured = problem._replace(conditions=problem.conditions | {"sensors": sensors})
        >>> points = measured.sample(jax.random.key(0), {"boundary": 2, "residual": 100, "sensors": 20})
        >>> points["sensors"].shape  # Place, reading and noise; every reading once.
        (20, 3)

    ``sample`` deals the readings out: ``n`` of them are all different, more than there are repeat
    each equally often, but for one.

    Args:
        x: where, ``(n, d)``.
        y: what was read there, ``(n,)`` for a scalar, ``(n, q)`` for an operator with ``q`` components.
        operator: what was measured; the field itself if not given.
        noise: standard deviation ``σ`` of the readings, one number or one per reading, ``(n,)``: residuals
            are ``(operator(u)(x) - y) / σ``, so that the loss of the term is about 1 where all that is
            left is noise.  Quantities measured with different precision are terms of their own.

    Raises:
        ValueError: shapes that do not fit, no readings, values that are not finite, noise that is
            not positive.
    """
    try:
        x, y = (as_floats(a).astype(float) for a in (x, y))
    except (TypeError, ValueError) as error:
        raise ValueError(f"Readings must be numbers in arrays: {error}") from error
    if x.ndim != 2 or y.ndim not in (1, 2) or len(x) != len(y) or not y.size:
        raise ValueError(f"`x` must have shape (n, d) and `y` (n,) or (n, q), got {x.shape} and {y.shape}.")
    columns = _Columns(x.shape[1], y.shape[1:], noise is not None)
    sigma = jnp.asarray(1.0 if noise is None else noise, float)
    if sigma.shape not in ((), y.shape[:1]) or fails((sigma > 0).all()):
        raise ValueError(
            f"`noise` is a standard deviation, positive, one number or of shape {y.shape[:1]}; got {noise!r:.60}."
        )
    rows = jnp.column_stack([x, y] if noise is None else [x, y, jnp.broadcast_to(sigma, y.shape[:1])])
    if not is_finite(rows):
        raise ValueError("Readings contain NaN or infinity; leave those out.")

    measured = _Measured(as_pytree(operator), columns)
    sample = lambda key, n: _dealt_out(key, rows, n=n)
    return Condition(measured, _Reading(columns), sample, values=rows.shape[1] - x.shape[1])


@functools.partial(jax.jit, static_argnames="n")
def _dealt_out(key: Array, rows: Array, *, n: int) -> Array:
    return rows[jnp.resize(jax.random.permutation(key, len(rows)), n)]


@dataclasses.dataclass(frozen=True)
class _Columns:
    """What is where in a row."""

    inputs: int
    shape: tuple[int, ...]
    noisy: bool

    def split(self, row: Array) -> tuple[Array, Array, ArrayLike]:
        """Inputs, values and noise."""
        x, y = row[: self.inputs], row[self.inputs :]
        y, sigma = (y[:-1], y[-1]) if self.noisy else (y, 1.0)
        return x, y.reshape(self.shape), sigma


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Measured:
    """The operator at the inputs of a row, in units of the noise."""

    operator: Operator
    columns: _Columns = dataclasses.field(metadata={"static": True})

    def __call__(self, u: Field) -> Field:
        left = self.operator(u)

        def measured(row: Array) -> Array:
            x, _, sigma = self.columns.split(row)
            return left(x) / sigma

        return measured


@dataclasses.dataclass(frozen=True)
class _Reading:
    """What was measured, from a row, in units of the noise."""

    columns: _Columns

    def __call__(self, row: Array) -> Array:
        _, y, sigma = self.columns.split(row)
        return y / sigma
