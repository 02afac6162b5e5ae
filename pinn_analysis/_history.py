"""What a run records: the error of its network, and a dict per recorded step."""

import warnings
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from pinn_analysis import problems
from pinn_analysis.problems import Problem
from pinn_analysis.problems._condition import value_of
from pinn_analysis.problems._not_finite import where_not_finite


class History:
    """Records of a run, a dict per recorded step."""

    def __init__(self, records: list[dict] | None = None):
        self._records = records or []

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "History":
        """The inverse of `arrays`."""
        return cls([{name: v[..., i] for name, v in arrays.items()} for i in range(len(arrays["step"]))])

    def append(self, step: int, record: dict[str, Array]) -> None:
        self._records.append(jax.device_get(record) | {"step": np.array(step)})

    def pop(self) -> None:
        self._records.pop()

    def last_step(self) -> int | None:
        return int(self._records[-1]["step"]) if self._records else None

    def not_finite(self) -> list[str]:
        """What of the last record, a user's own measurements aside, is not finite."""
        kinds = ("loss/", "weight/", "gradient_", "error", "absolute_error")
        own = (name for name in self._records[-1] if name.startswith(kinds))
        return [name for name in own if not np.isfinite(self._records[-1][name]).all()]

    def negative_weights(self) -> list[str]:
        """Those of the last record."""
        return [n for n, value in self._records[-1].items() if n.startswith("weight/") and (value < 0).any()]

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.stack([record[name] for record in self._records], -1) for name in self._records[0]}

    def weights(self, problem: Problem, *, finite: bool = False) -> dict[str, np.ndarray]:
        """Of the last record; with ``finite`` of the last in which they are, or of the first."""
        each = [{name: record[f"weight/{name}"] for name in problem.conditions} for record in self._records]
        good = [w for w in each if not finite or all(np.isfinite(value).all() for value in w.values())]
        return (good or each[:1])[-1]


def error_measure(problem: Problem) -> Callable[[Callable], dict[str, Array]]:
    """``field -> {"error": ...}`` at the test points where the solution is finite; absolute if it is zero there."""
    if problem.solution is None:
        return lambda field: {}
    test = problems.test_points(problem)
    value_of("The exact solution", problem.solution, jax.ShapeDtypeStruct(test.shape[1:], test.dtype))
    values = jax.vmap(problem.solution)(test)
    bad = where_not_finite(values)
    if bad.size:
        warnings.warn(
            f"The exact solution of {problem.name!r} is not finite at {bad.size} of {len(test)} test points, first at "
            f"{test[bad[0]].tolist()}: the error is measured at the others.",
            stacklevel=4,
        )
        test = jnp.delete(test, bad, axis=0)
        values = jnp.delete(values, bad, axis=0)
    if not len(test):
        return lambda field: {}
    if not jnp.any(values != 0):
        return lambda field: {"absolute_error": jnp.sqrt(jnp.mean(jax.vmap(field)(test) ** 2))}
    return lambda field: {"error": problems.relative_l2_error(field, problem.solution, test)}
