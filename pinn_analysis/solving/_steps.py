"""Rules for a step: what is tried, and what is taken.

A rule takes the parameters ``(p,)``, the scaled Jacobian and residual there, ``at(theta)`` the residual elsewhere and
``bend(theta, v)`` its second derivative along ``v``.  It returns the least-squares solution, the parameters tried last,
their residual, the residual that the Jacobian predicts for the whole step (0 if it predicts none), and whether that was
taken.
"""

import numpy as np
import scipy.linalg

from pinn_analysis.solving import _linear
from pinn_analysis.solving._linear import rms

HALVINGS = 12
FIRST_DAMPING, LARGEST_DAMPING = 1e-3, 1e6  # Relative to the largest singular value squared.
GOOD, BAD = 1 / 3, 2.0  # What the damping is multiplied by after a step.
BENDING = 0.75  # The largest ratio of twice the acceleration to the velocity, where their series is to be trusted.


class Newton:
    """The whole step, halved until the residual falls.

    Least squares is asked for all of the way from the start and not for the step, so that nothing of a field that a
    step has left behind stays in directions that the rows do not see.
    """

    def __init__(self, start: np.ndarray):
        self.start = start

    def __call__(self, theta, gradients, residual, at, bend, cut):
        way = theta - self.start
        solve = _linear.least_squares(gradients, gradients @ way - residual, cut)
        for halvings in range(HALVINGS):
            trial = (theta + 0.5**halvings * (solve.x - way)).astype(theta.dtype)
            after = at(trial)
            if rms(after) < rms(residual):
                break
        return solve, trial, after, residual + gradients @ (solve.x - way), halvings == 0


class LevenbergMarquardt:
    """Damped steps of the scaled Jacobian, with geodesic acceleration.

    The step is ``v + a / 2``: ``v`` the damped least-squares solution, ``a`` the one for the second derivative of the
    residual along ``v`` (Transtrum, Sethna, 1201.5885, Sec. 4).  Parameters have the units of the largest norm that
    their column has had (More, 1978).
    """

    def __init__(self):
        self.damping, self.norms = FIRST_DAMPING, 0.0

    def __call__(self, theta, gradients, residual, at, bend, cut):
        self.norms = np.maximum(self.norms, np.linalg.norm(gradients, axis=0))
        units = 1 / np.maximum(self.norms, cut * self.norms.max())
        damped, solve = factored(gradients * units, residual, cut)
        before = rms(residual)
        while True:
            velocity = -damped(residual, self.damping)
            acceleration = -damped(bend(theta, units * velocity), self.damping)
            trial = (theta + units * (velocity + acceleration / 2)).astype(theta.dtype)
            bent = 2 * np.linalg.norm(acceleration) > BENDING * np.linalg.norm(velocity)
            after = at(trial)
            if not bent and rms(after) < before:
                self.damping = max(GOOD * self.damping, cut**2)
                break
            if self.damping > LARGEST_DAMPING:
                break
            self.damping *= BAD
        return solve, trial, after, 0.0 * residual, False


def factored(a: np.ndarray, b: np.ndarray, cut: float):
    """``(b, damping) -> argmin ‖a x - b‖² + damping ‖a‖² ‖x‖²``, for any ``b``, from one SVD."""
    q, a = scipy.linalg.qr(a, mode="economic", check_finite=False) if a.shape[0] > a.shape[1] else (None, a)
    u, s, vt = scipy.linalg.svd(a, full_matrices=False, check_finite=False)
    rank = int((s > cut * s[0]).sum())

    def solution(b: np.ndarray, damping: float) -> np.ndarray:
        along = u.T @ (b if q is None else q.T @ b)
        return (s[:rank] / (s[:rank] ** 2 + damping * s[0] ** 2) * along[:rank]) @ vt[:rank]

    condition = float(s[0] / s[rank - 1]) if rank else 1.0
    return solution, _linear.LeastSquares(solution(b, 0.0), rank, condition)
