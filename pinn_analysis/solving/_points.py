"""Points that fill what a sampler samples, evenly."""

from collections.abc import Mapping

import numpy as np
from jax import Array

from pinn_analysis.problems import Problem

CANDIDATES = 8  # For each point wanted.


def spread(problem: Problem, key: Array, sizes: Mapping[str, int]) -> dict[str, Array]:
    """Points of each condition, as far apart as its sampler allows.

    Of eight times as many random points each is taken in turn that is farthest from those taken before, in units
    of the box (farthest-point sampling).  It works for whatever the sampler fills, edges and corners included.
    """
    low, high = (np.asarray(a) for a in problem.domain)
    drawn = problem.sample(key, {name: CANDIDATES * n for name, n in sizes.items()})
    return {name: x[_farthest((np.asarray(x) - low) / (high - low), sizes[name])] for name, x in drawn.items()}


def _farthest(x: np.ndarray, n: int) -> np.ndarray:
    chosen, distance = np.zeros(n, int), np.full(len(x), np.inf)
    for i in range(1, n):
        distance = np.minimum(distance, ((x - x[chosen[i - 1]]) ** 2).sum(1))
        chosen[i] = np.argmax(distance)
    return chosen
