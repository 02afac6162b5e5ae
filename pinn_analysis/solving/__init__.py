"""Train no longer: solve.  Gauss-Newton least squares of a network or of its linearisation, and the limit.

Shapes: ``n`` residual rows, ``p`` parameters, ``d`` inputs, ``m`` components of the field.
"""

from pinn_analysis.solving._iterative import iterative as iterative
from pinn_analysis.solving._least_squares import least_squares as least_squares
from pinn_analysis.solving._limit import limit as limit
from pinn_analysis.solving._optimizer import gauss_newton as gauss_newton
from pinn_analysis.solving._solution import Solution as Solution
from pinn_analysis.solving._solve import solve as solve
