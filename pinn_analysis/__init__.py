"""Why physics-informed neural networks fail to train, and how fast they will.

Modules, each built on those before it: `operators`, `problems`, `networks`, `ntk`,
`spectra`, `convergence`, `gradients`, `curvature`, `weight_rules`, `weighting`, `training`,
`solving`, `results`, `plotting`, `diagnosis`, `cli`.
"""

import importlib
from types import ModuleType

from pinn_analysis import (
    convergence as convergence,
    curvature as curvature,
    diagnosis as diagnosis,
    gradients as gradients,
    networks as networks,
    ntk as ntk,
    operators as operators,
    problems as problems,
    results as results,
    solving as solving,
    spectra as spectra,
    training as training,
    weight_rules as weight_rules,
    weighting as weighting,
)
from pinn_analysis.diagnosis import Diagnosis as Diagnosis, diagnose as diagnose
from pinn_analysis.networks import (
    Network as Network,
    fourier_mlp as fourier_mlp,
    mlp as mlp,
    modified_mlp as modified_mlp,
    standardized as standardized,
)
from pinn_analysis.operators import (
    identity as identity,
    laplacian as laplacian,
    laplacian_over as laplacian_over,
    linearize as linearize,
    partial as partial,
    value_and_laplacian as value_and_laplacian,
)
from pinn_analysis.problems import Condition as Condition, Problem as Problem
from pinn_analysis.training import Run as Run, train as train


def __getattr__(name: str) -> ModuleType:
    """`plotting` at its first use: matplotlib takes a quarter of a second to import; and the command line."""
    if name in ("plotting", "cli"):
        return importlib.import_module(f"pinn_analysis.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
