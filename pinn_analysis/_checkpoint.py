"""Checkpoints of a run on disk, by orbax: whole or not there, and of this run alone."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import Array
from jaxtyping import PyTree

from pinn_analysis.problems import Problem


class Checkpoints:
    """The checkpoints of one run in ``folder``; the newest two are kept.

    Args:
        folder: where they are; made if it is not there.
        description: what the run is, anything JSON takes.  Checkpoints with another
            description are another run's.
    """

    def __init__(self, folder: str | Path, description: dict):
        import orbax.checkpoint as ocp  # A second of import that most runs do not need.

        self._ocp = ocp
        self._folder = Path(folder).resolve()
        self._description = json.loads(json.dumps(description))
        options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, step: int, state: Any, history: dict[str, np.ndarray]) -> None:
        """Write the state after ``step`` steps and the history so far; a kill leaves the one before."""
        args = self._ocp.args
        self._manager.save(
            step,
            args=args.Composite(
                state=args.StandardSave(state), history=args.StandardSave(history), run=args.JsonSave(self._description)
            ),
        )

    def newest(self, state: Any, steps: int) -> tuple[Any, dict[str, np.ndarray]] | None:
        """State and history of the newest checkpoint, or None if there is none yet.

        Args:
            state: a state of the same structure.
            steps: where the run is to end.

        Raises:
            ValueError: it is of another run, beyond ``steps``, or damaged.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        args = self._ocp.args
        try:
            run = self._manager.restore(step, args=args.Composite(run=args.JsonRestore())).run
        except Exception as error:
            raise self._damaged(step, error) from error
        if run != self._description:
            differing = [key for key in self._description if run.get(key) != self._description[key]]
            raise ValueError(
                f"The checkpoint in {self._folder} is of another run, which differs in: {'; '.join(differing)}.  "
                "Name another folder, or delete this one."
            )
        if step > steps:
            raise ValueError(f"The checkpoint in {self._folder} is at step {step}, beyond `steps`, {steps}.")
        abstract = jax.tree.map(self._ocp.utils.to_shape_dtype_struct, state)
        restore = args.Composite(state=args.StandardRestore(abstract), history=args.StandardRestore())
        try:
            saved = self._manager.restore(step, args=restore)
        except Exception as error:  # Damaged files can raise anything.
            raise self._damaged(step, error) from error
        return saved.state, {name: np.asarray(values) for name, values in saved.history.items()}

    def _damaged(self, step: int, error: Exception) -> ValueError:
        return ValueError(
            f"The checkpoint {self._folder / str(step)} is damaged ({str(error):.200}).  Delete that folder to go on "
            "from the one before it, if there is one, or from the start."
        )


def identity(
    problem: Problem, key: Array, record_every: int, points: dict | None, advance: Callable, state: PyTree
) -> dict[str, Any]:
    """What a checkpoint must have in common with the run that goes on from it."""
    return {
        "problem": problem.name,
        "key": jax.random.key_data(key).tolist(),
        "record_every": record_every,
        "jax": jax.__version__,
        # The program has all settings in it, the learning rate for one.
        "network, equation, optimizer, weighting or batch": _digest(advance.lower(state, 1).as_text().encode()),
        "points": _digest(*(np.asarray(x).tobytes() for x in (points or {}).values())),
        "initial parameters": _digest(*(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))),
    }


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()
