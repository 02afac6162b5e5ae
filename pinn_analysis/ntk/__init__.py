"""Neural tangent kernels of PINNs: named blocks, one for each pair of loss terms.

A PINN has one row of the Jacobian for each loss term ``i`` and point, the derivative of
``L_i u(x)`` with respect to the parameters, so its kernel is a block matrix

    K_ij = J_i J_jᵀ            of a finite network (`empirical`), and
    K_ij = L_i L'_j Θ(x, x')   in the limit of infinite width (`infinite`).

Both are symmetric matrices with named blocks (`KernelBlocks`).  `operator` is the first one unformed,
what multiplies vectors, for kernels of any size.

Shapes: ``n`` points (rows of all terms together), ``d`` inputs, ``p`` parameters.
"""

from pinn_analysis.ntk._blocks import KernelBlocks as KernelBlocks
from pinn_analysis.ntk._devices import shard as shard
from pinn_analysis.ntk._limit import infinite as infinite
from pinn_analysis.ntk._operator import (
    KernelOperator as KernelOperator,
    empirical as empirical,
    operator as operator,
    row_counts as row_counts,
    traces as traces,
)
