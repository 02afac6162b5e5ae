"""Partial differential equations as dictionaries of conditions, one per loss term.

A **condition** says ``operator(u)(x) = target(x)`` for the points that ``sample`` draws;
the residual of a network is the difference of the two sides, and the loss of the term
the mean square of its residuals.  A **problem** is a dictionary of conditions.

Shapes: ``n`` points, ``d`` inputs.  Points are ``(n, d)``, one array per condition.
"""

from pinn_analysis.problems._condition import Condition as Condition, Sampler as Sampler
from pinn_analysis.problems._core import (
    Apply as Apply,
    Points as Points,
    Problem as Problem,
    check as check,
    check_names as check_names,
    check_points as check_points,
    check_weights as check_weights,
)
from pinn_analysis.problems._data import data as data
from pinn_analysis.problems._flow import (
    divergence as divergence,
    lid_driven_cavity as lid_driven_cavity,
    momentum as momentum,
    velocity as velocity,
)
from pinn_analysis.problems._not_finite import explain_not_finite as explain_not_finite
from pinn_analysis.problems._sampling import (
    box as box,
    faces as faces,
    grid as grid,
    relative_l2_error as relative_l2_error,
    test_points as test_points,
)
from pinn_analysis.problems._scalar import (
    helmholtz_2d as helmholtz_2d,
    klein_gordon as klein_gordon,
    poisson_1d as poisson_1d,
    wave_1d as wave_1d,
)
