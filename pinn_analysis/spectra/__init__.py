"""Eigenvalues of kernels, of what a kernel does in training, and of anything that multiplies a vector.

`spectrum` diagonalises a kernel as training sees it, once; `convergence` predicts from it.
`eigenvalues` and `modes` are of its blocks as they are.  `extreme_eigenvalues`, `largest_eigenpairs` and
`density` need no matrix: they take `ntk.operator`, a kernel `weighted` as training sees it, one of
`curvature.matvecs`, or any symmetric linear function.  `krylov_spectrum` takes the place of `spectrum` in
`convergence`, for one vector of residuals.  What they return has its errors.
"""

from pinn_analysis.spectra._krylov import KrylovSpectrum as KrylovSpectrum, krylov_spectrum as krylov_spectrum
from pinn_analysis.spectra._lanczos import (
    Density as Density,
    Eigenpairs as Eigenpairs,
    Estimate as Estimate,
    Extremes as Extremes,
    density as density,
    extreme_eigenvalues as extreme_eigenvalues,
    largest_eigenpairs as largest_eigenpairs,
)
from pinn_analysis.spectra._spectrum import (
    Eigenvalues as Eigenvalues,
    Spectrum as Spectrum,
    effective_rank as effective_rank,
    eigenvalues as eigenvalues,
    modes as modes,
    spectrum as spectrum,
)
from pinn_analysis.spectra._weighted import (
    WeightedKernel as WeightedKernel,
    effective_rank_of as effective_rank_of,
    weighted as weighted,
)
