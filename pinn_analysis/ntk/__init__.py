"""Neural tangent kernels of PINNs: named blocks, one for each pair of loss terms.

A PINN has one row of the Jacobian for each loss term ``i`` and point, the derivative of
``L_i u(x)`` with respect to the parameters, so its kernel is a block matrix

    K_ij = J_i J_jᵀ            of a finite network (`empirical`), and
    K_ij = L_i L'_j Θ(x, x')   in the limit of infinite width (`infinite`).

Shapes: ``n`` points (rows of all terms together), ``d`` inputs, ``p`` parameters.
"""

from pinn_analysis.ntk._blocks import KernelBlocks as KernelBlocks
from pinn_analysis.ntk._finite import (
    empirical as empirical,
    matvec as matvec,
    row_counts as row_counts,
    traces as traces,
)
from pinn_analysis.ntk._limit import infinite as infinite
