"""What a solver hands back."""

import dataclasses

import numpy as np
from jaxtyping import PyTree

from pinn_analysis.operators import Field


@dataclasses.dataclass(frozen=True)
class Solution:
    """A solved problem, judged without its solution.

    Attributes:
        field: ``x -> u(x)``, one point; every operator of the library applies to it.
        residuals: on held-out points, by term, ``(n,)`` each.
        error_estimate: of the relative L2 error, from those residuals.
        history: root mean square of the residuals that were fitted, rows scaled to unit norm, at the start and after
            each step.
        rank: of the last Jacobian, singular values above the cut.
        condition: the largest of them over the smallest.
        reason: what stopped it.
        params: of the network that the field is; None where it is not one network's.
        settings: what was chosen.
        variance: ``x -> (m,)``, posterior variance of the field; of `limit` alone.
    """

    field: Field
    residuals: dict[str, np.ndarray]
    error_estimate: float
    history: tuple[float, ...]
    rank: int
    condition: float
    reason: str
    params: PyTree = None
    settings: dict = dataclasses.field(default_factory=dict)
    variance: Field | None = None

    @property
    def iterations(self) -> int:
        """Steps taken."""
        return len(self.history) - 1

    def __str__(self) -> str:
        of = "1 step" if self.iterations == 1 else f"{self.iterations} steps"
        shown = lambda v: (
            f"({', '.join(map(shown, v))})" if isinstance(v, tuple) else f"{v:.3g}" if isinstance(v, float) else v
        )
        residuals = ", ".join(f"{name} {np.sqrt(np.mean(np.square(r))):.1e}" for name, r in self.residuals.items())
        return (
            f"relative error about {self.error_estimate:.1e}; {of}, rank {self.rank}, "
            f"condition {self.condition:.0e}; {self.reason}.\nHeld-out residuals: {residuals}."
            + (f"\nChosen: {', '.join(f'{k} {shown(v)}' for k, v in self.settings.items())}." if self.settings else "")
        )
