"""Least squares of deficient rank: what is left of a Jacobian once rounding is taken off."""

from typing import NamedTuple

import numpy as np
import scipy.linalg
from jax.typing import ArrayLike

NOTHING = 0.01  # Of the field that was found: less than this is not said to be left.
POWERS = 10  # Of the power method, of which the first digit is enough.


class LeastSquares(NamedTuple):
    """Solution of ``min ‖a x - b‖`` and what was found on the way.

    Attributes:
        x: ``(p,)``.
        rank: number of singular values, or pivots, above the cut.
        condition: the largest singular value over the smallest value kept.
    """

    x: np.ndarray
    rank: int
    condition: float


def rounding(dtype: np.dtype) -> float:
    """Singular values below this part of the largest are rounding: five units in the last place."""
    return 5 * float(np.finfo(dtype).eps)


def check_cut(cut: float | None) -> None:
    """Raise `ValueError` unless ``cut`` is a part of the largest value."""
    if cut is not None and not 0 <= cut < 1:
        raise ValueError(f"`cut` is a part of the largest singular value or eigenvalue, from 0 to below 1; got {cut}.")


def least_squares(a: np.ndarray, b: np.ndarray, cut: float) -> LeastSquares:
    """The shortest ``x`` of ``min ‖a x - b‖``, pivots below ``cut`` times ``‖a‖`` counted as zero.

    By QR with pivots and a complete orthogonal factorisation (LAPACK's gelsy): no digit less than by the SVD, in a
    third of its time.  Never by normal equations.

    Args:
        a: ``(n, p)``.
        b: ``(n,)``.
        cut: relative to the largest singular value.
    """
    p = a.shape[1]
    if a.shape[0] > p:  # Pivots are slow: first without them.
        r = scipy.linalg.qr(np.column_stack([a, b]), mode="r", overwrite_a=True, check_finite=False)[0]
        a, b = r[:p, :-1], r[:p, -1]
    along, r, order = scipy.linalg.qr_multiply(a, b, pivoting=True)
    pivots = np.abs(np.diagonal(r))
    largest = _largest(r)
    rank = int((pivots > cut * largest).sum())
    x = np.zeros(p, a.dtype)
    if not rank:
        return LeastSquares(x, 0, 1.0)
    x[order] = _shortest(r[:rank], along[:rank])
    return LeastSquares(x, rank, largest / float(pivots[rank - 1]))


def _largest(r: np.ndarray) -> float:
    """Largest singular value, by the power method from the row of the largest pivot: no pivot is as large as it."""
    v = r[0]
    for _ in range(POWERS):
        v = r.T @ (r @ (v / max(np.linalg.norm(v), np.finfo(r.dtype).tiny)))
    return float(np.sqrt(np.linalg.norm(v)))


def _shortest(r: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The shortest solution of ``r x = b``, ``r (k, p)`` of full rank and upper trapezoidal."""
    k, p = r.shape
    reduce, rotate, width = scipy.linalg.get_lapack_funcs(("tzrzf", "ormrz", "tzrzf_lwork"), (r,))
    lwork = max(p, int(width(k, p)[0]))
    r, tau, _ = reduce(r, lwork=lwork)
    x = np.zeros((p, 1), r.dtype)
    x[:k, 0] = scipy.linalg.solve_triangular(r[:, :k], b, check_finite=False)
    return rotate(r, tau, x, trans="T", lwork=lwork)[0][:, 0]


def rms(x: ArrayLike) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.abs(np.asarray(x)) ** 2)))


def over(number: float | int, other: float | int) -> float:
    """Their ratio, large but a number where the second is zero."""
    return number / max(other, 1e-300)


def relative_to_solution(error: float, size: float) -> float:
    """An error as a part of the solution, of which the field that was found, of this ``size``, is all that is known.

    The solution is at least as large as that field less the error.  Where this is next to nothing the result is large,
    and infinite only where the error is: solutions of which little is known can still be ordered by it.
    """
    part = over(float(error), float(size))
    return part / max(1 - part, NOTHING)
