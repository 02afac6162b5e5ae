"""Conditions, problems, and the check of a network against a problem.  Shapes: ``n`` points, ``d`` inputs."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import Float, PyTree

from pinn_analysis.operators import Field, Operator

Apply = Callable[[PyTree, Array], Array]


class Condition(NamedTuple):
    """One loss term: ``operator(u)(x) = target(x)`` at the points of ``sample``.

    Attributes:
        operator: from the field to what is compared with ``target``.
        target: the right-hand side, a field.
        sample: ``(key, n) -> points (n, d)``.
        trained: False for a term that no loss or weight takes in: training only drags it along.
    """

    operator: Operator
    target: Field
    sample: Callable[[Array, int], Array]
    trained: bool = True

    def residual(self, field: Field) -> Field:
        """``operator(field) - target``, itself a field."""
        left = self.operator(field)
        return lambda x: left(x) - self.target(x)


class Problem(NamedTuple):
    """A PDE with its boundary and initial data, one `Condition` per loss term.

    Attributes:
        name: for messages and results.
        conditions: the loss terms by name, in the order of the rows of a kernel.
        domain: lower and upper corner of a box, each ``(d,)``: the domain, or what bounds it.
        solution: the exact solution, if known; it is taken at test points alone.
        test: where the error is measured (`test_points`): points ``(n, d)``, or a sampler
            ``(key, n) -> (n, d)``.  For a domain that is not its box: an L, a hole.
    """

    name: str
    conditions: dict[str, Condition]
    domain: tuple[Array, Array]
    solution: Field | None = None
    test: Array | Callable[[Array, int], Array] | None = None

    def sample(self, key: Array, sizes: int | Mapping[str, int]) -> dict[str, Array]:
        """Random points for each condition, ``(n, d)`` each.

        Args:
            key: a JAX random key; each condition gets its own.
            sizes: number of points, one for all conditions or a dict by name.

        Raises:
            ValueError: ``sizes`` misses a condition, names an unknown one, or is below 1.
        """
        if not isinstance(sizes, Mapping):
            sizes = dict.fromkeys(self.conditions, sizes)
        check_names(self, sizes, "sizes")
        for name, n in sizes.items():
            if n < 1:
                raise ValueError(
                    f"`sizes` must be at least 1, got {n} for {name!r}; to drop a term, drop its condition."
                )
        keys = jax.random.split(key, len(self.conditions))
        return {
            name: condition.sample(k, sizes[name])
            for k, (name, condition) in zip(keys, self.conditions.items(), strict=True)
        }

    def residuals(self, field: Field, points: Mapping[str, ArrayLike]) -> dict[str, Array]:
        """``operator(field) - target`` at the points of each condition, ``(n,)`` each.

        A condition with ``m`` components gives ``n * m`` values, point by point.
        """
        check_points(self, points)
        return {
            name: jax.vmap(condition.residual(field))(points[name]).ravel()
            for name, condition in self.conditions.items()
        }

    def rows(self, apply: Apply, points: Mapping[str, ArrayLike]) -> Callable[[PyTree], Float[Array, " n"]]:
        """``params -> r``: the residuals of all terms in one vector, as a function of the parameters.

        Its Jacobian has the rows of the kernel, in the same order.
        """

        def residuals(params: PyTree) -> Float[Array, " n"]:
            return jnp.concatenate(list(self.residuals(functools.partial(apply, params), points).values()))

        return residuals

    def losses(self, field: Field, points: Mapping[str, ArrayLike]) -> dict[str, Array]:
        """Mean square of the residuals of each condition, without weights."""
        return {name: jnp.mean(r**2) for name, r in self.residuals(field, points).items()}


def check_names(problem: Problem, given: Mapping, what: str) -> None:
    """Raise `ValueError` unless ``given`` names exactly the conditions of ``problem``."""
    unknown, missing = set(given) - set(problem.conditions), set(problem.conditions) - set(given)
    if unknown or missing:
        raise ValueError(
            f"`{what}` must name the conditions of {problem.name!r}, {list(problem.conditions)}"
            + (f"; unknown: {sorted(unknown)}" if unknown else "")
            + (f"; missing: {sorted(missing)}" if missing else "")
            + "."
        )


def check_weights(weights: Mapping[str, ArrayLike]) -> None:
    """Raise `ValueError` for a weight that is, if known yet, negative or not finite."""
    for name, weight in weights.items():
        if not isinstance(weight, jax.core.Tracer) and not (np.isfinite(weight) and weight >= 0):
            raise ValueError(f"Weights must be finite and not negative, got {weight} for {name!r}.")


def check_points(problem: Problem, points: Mapping[str, ArrayLike]) -> None:
    """Raise `ValueError` for points of a wrong shape, an empty set or, if known yet, NaN."""
    check_names(problem, points, "points")
    d = len(problem.domain[0])
    for name, x in points.items():
        if jnp.ndim(x) != 2 or jnp.shape(x)[1] != d:
            raise ValueError(
                f"Points of {name!r} must have shape (n, {d}), got {jnp.shape(x)}; a single point is `x[None]`."
            )
        if len(x) == 0:
            raise ValueError(f"Points of {name!r} are empty; give at least one, or drop the condition.")
        if not isinstance(x, jax.core.Tracer) and not np.isfinite(x).all():
            raise ValueError(f"Points of {name!r} contain NaN or infinity; draw them again or mask them out.")


def check_params(params: PyTree) -> None:
    """Raise a `ValueError` unless all of ``params`` are finite arrays of floats."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)):
            raise ValueError(
                f"Parameters must be floating-point arrays, but params{name} is {leaf!r:.60}; "
                "keep the rest out of them (`equinox.partition`, or a closure around `apply`)."
            )
        with jax.ensure_compile_time_eval():  # A constant of a function that is being traced is known.
            finite = isinstance(leaf, jax.core.Tracer) or jnp.isfinite(leaf).all()
        if not finite:
            raise ValueError(f"params{name} contains NaN or infinity: the run that made them diverged.")


def check(problem: Problem, apply: Apply, params: PyTree, points: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """The points as arrays, in the order of the conditions, once network, parameters and points fit the problem.

    Raises:
        ValueError: points that do not fit (`check_points`); parameters that are not floating-point or not finite.
    """
    check_points(problem, points)
    check_params(params)
    return {name: jnp.asarray(points[name]) for name in problem.conditions}
