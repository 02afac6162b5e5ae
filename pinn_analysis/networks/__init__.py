"""Networks as triples of functions, with the kernel of their infinite-width limit.

Shapes: ``d`` inputs, ``m`` outputs.  ``apply`` takes one point; use `jax.vmap` for many.
"""

from pinn_analysis.networks._core import (
    ACTIVATIONS as ACTIVATIONS,
    Activation as Activation,
    Network as Network,
    constrained as constrained,
    standardized as standardized,
)
from pinn_analysis.networks._fourier import fourier_mlp as fourier_mlp
from pinn_analysis.networks._linearized import linearized as linearized
from pinn_analysis.networks._mlp import mlp as mlp
from pinn_analysis.networks._modified import modified_mlp as modified_mlp
