"""Least squares of deficient rank: what is left of a Jacobian once rounding is taken off."""

from typing import NamedTuple

import numpy as np
import scipy.linalg

SMALLEST_SKETCH = 512  # Below this the matrix itself is as cheap as its sketch.


class LeastSquares(NamedTuple):
    """Solution of ``min ‖a x - b‖`` and what was found on the way.

    Attributes:
        x: ``(p,)``.
        rank: number of singular values above the cut.
        values: singular values of ``a``, or of its sketch.
        basis: columns that ``x`` is a combination of, ``(p, s)``; None for all.
    """

    x: np.ndarray
    rank: int
    values: np.ndarray
    basis: np.ndarray | None

    @property
    def condition(self) -> float:
        """Largest over smallest singular value kept."""
        return float(self.values[0] / self.values[self.rank - 1]) if self.rank else 1.0


def rounding(dtype: np.dtype) -> float:
    """Singular values below this part of the largest are rounding: five units in the last place."""
    return 5 * float(np.finfo(dtype).eps)


def check_cut(cut: float | None) -> None:
    """Raise `ValueError` unless ``cut`` is a part of the largest value."""
    if cut is not None and not 0 <= cut < 1:
        raise ValueError(f"`cut` is a part of the largest singular value or eigenvalue, from 0 to below 1; got {cut}.")


def least_squares(a: np.ndarray, b: np.ndarray, cut: float, seed: int = 0, sketch: int | None = None) -> LeastSquares:
    """``min ‖a x - b‖`` by singular values above ``cut`` times the largest, never by normal equations.

    The Jacobian of a network at a few thousand points has a numerical rank of some hundreds.  So ``x`` is sought
    among ``s`` random combinations of its ``p`` columns (the range finder of Halko, Martinsson, Tropp, 0909.4061),
    where ``s`` grows until it leaves the rank room: ``O(n p s)`` instead of ``O(n p²)``, and no digit lost, since a
    Gaussian matrix a sixth wider than it is high has a condition number of 25.

    Args:
        a: ``(n, p)``.
        b: ``(n,)``.
        cut: relative to the largest singular value.
        seed: of the random combinations.
        sketch: ``s`` to begin with.
    """
    n, p = a.shape
    s = sketch or max(SMALLEST_SKETCH, int(0.4 * min(n, p)))
    while s < 0.75 * min(n, p):
        basis = np.random.default_rng(seed).standard_normal((p, s), dtype=a.dtype)
        y, rank, values = _svd(a @ basis, b, cut)
        if rank < 0.85 * s:
            return LeastSquares(basis @ y, rank, values, basis)
        s = int(1.5 * s)
    return LeastSquares(*_svd(a, b, cut), None)


def _svd(a: np.ndarray, b: np.ndarray, cut: float) -> tuple[np.ndarray, int, np.ndarray]:
    if a.shape[0] > 1.2 * a.shape[1]:  # gelsd does so too, but works in three times the memory.
        r = scipy.linalg.qr(np.column_stack([a, b]), mode="r", overwrite_a=True, check_finite=False)[0]
        a, b = r[: a.shape[1], :-1], r[: a.shape[1], -1]
    x, _, rank, values = scipy.linalg.lstsq(a, b, cond=cut, lapack_driver="gelsd", check_finite=False)
    return x, int(rank), values


def rms(x: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.abs(x) ** 2)))
