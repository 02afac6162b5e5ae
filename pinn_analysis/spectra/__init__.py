"""Eigenvalues of kernels, of what a kernel does in training, and of anything that multiplies a vector.

`spectrum` diagonalises a kernel as training sees it, once; `convergence` predicts from it.
`eigenvalues` and `modes` are of its blocks as they are.  `extreme_eigenvalues` and `density` need no
matrix: they take `ntk.operator`, one of `curvature.matvecs`, or any symmetric linear function.
"""

from pinn_analysis.spectra._lanczos import (
    Density as Density,
    Extremes as Extremes,
    density as density,
    extreme_eigenvalues as extreme_eigenvalues,
)
from pinn_analysis.spectra._spectrum import (
    Eigenvalues as Eigenvalues,
    Spectrum as Spectrum,
    effective_rank as effective_rank,
    eigenvalues as eigenvalues,
    modes as modes,
    spectrum as spectrum,
)
