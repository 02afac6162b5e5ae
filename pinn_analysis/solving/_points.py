"""Points that fill what a sampler samples, evenly, each term as densely as it needs."""

import dataclasses

import numpy as np
from jax import Array

from pinn_analysis.problems import Problem

CANDIDATES = 4  # Random points for each one wanted.
READINGS = 512  # Of a term of measurements, which come from no region.


@dataclasses.dataclass(frozen=True)
class Cover:
    """Points of each term in the order in which farthest-point sampling takes them.

    Attributes:
        points: ``(n_i, d)`` for each term; the first ``k`` cover what the sampler samples about evenly, for any ``k``.
        distances: of each point to those before it, in units of the box, ``(n_i,)``.
    """

    points: dict[str, np.ndarray]
    distances: dict[str, np.ndarray]

    def take(self, n: int) -> dict[str, np.ndarray]:
        """About ``n`` points in all: above a distance ``h`` inside, and ``h/2`` on what has fewer dimensions."""
        h = np.unique(np.concatenate([d[np.isfinite(d)] for d in self.distances.values()]))[::-1]
        low, high = 0, len(h) - 1
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if sum(self._counts(h[middle]).values()) < n else (low, middle)
        return {name: self.points[name][:count] for name, count in self._counts(h[low]).items()}

    def _counts(self, h: float) -> dict[str, int]:
        def count(distances: np.ndarray, h: float) -> int:
            return max(1, int((distances >= h).sum()))

        at_h = {name: count(d, h) for name, d in self.distances.items()}
        thinner = {name: at_h[name] < 0.5 * max(at_h.values()) for name in at_h}
        return {name: count(d, h / 2) if thinner[name] else at_h[name] for name, d in self.distances.items()}


def cover(problem: Problem, key: Array, n: int) -> Cover:
    """Up to ``n`` points of each term, as far apart as its sampler allows.

    Of four times as many random points each is taken in turn that is farthest from those taken before, in units of the
    box (farthest-point sampling).  It works for whatever the sampler fills, edges and corners included.
    """
    low, high = (np.asarray(a) for a in problem.domain)
    points, distances = {}, {}
    for name, drawn in problem.sample(key, CANDIDATES * n).items():
        if problem.conditions[name].values:
            points[name], distances[name] = np.asarray(drawn[:READINGS]), np.full(min(len(drawn), READINGS), np.inf)
            continue
        order, distances[name] = _farthest((np.asarray(drawn) - low) / (high - low), n)
        points[name] = np.asarray(drawn)[order]
    return Cover(points, distances)


def _farthest(x: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    x = np.ascontiguousarray(x.T)
    order, taken, distance = np.zeros(n, int), np.full(n, np.inf), np.full(x.shape[1], np.inf)
    for i in range(1, n):
        distance = np.minimum(distance, np.sum((x - x[:, order[i - 1], None]) ** 2, 0))
        order[i] = np.argmax(distance)
        taken[i] = np.sqrt(distance[order[i]])
        if taken[i] == 0:  # A sampler of few points.
            return order[:i], taken[:i]
    return order, taken
