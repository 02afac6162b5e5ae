"""Training of a PINN, for one seed or several at once.

A step draws fresh collocation points, forms ``L = Σ_i λ_i mean(r_i²)`` and lets an optax
optimiser move the parameters.  Everything random in step ``k`` comes from the key and
``k`` alone.
"""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import PyTree
from tqdm import tqdm

from pinn_analysis.networks import Network
from pinn_analysis.problems import Problem, check_points, grid, relative_l2_error
from pinn_analysis.weighting import Weighting, fixed

# Points an axis of the grid on which the error is measured: 1,000 in 1-D (NTK paper's code),
# 100 x 100 in 2-D (first paper's code).
TEST_POINTS = {1: 1000, 2: 100}


class Run(NamedTuple):
    """What training leaves; with several seeds every array has a leading axis for them.

    Attributes:
        params: parameters after the last step.
        weights: loss weights at the last step, by term.
        history: arrays over the recorded steps: ``"step"``, ``"error"`` (relative L2, if the
            solution is known), ``"loss/<name>"`` (unweighted, on the points of that step) and
            ``"weight/<name>"``.
    """

    params: PyTree
    weights: dict[str, Array]
    history: dict[str, np.ndarray]


class DivergedError(FloatingPointError):
    """Training met a loss that is not finite; ``run`` is what it was until then."""

    def __init__(self, message: str, run: Run):
        super().__init__(message)
        self.run = run


class _State(NamedTuple):
    step: Array
    params: PyTree
    optimizer: PyTree
    weighting: PyTree


def adam(learning_rate: float | int = 1e-3) -> optax.GradientTransformation:
    """Adam, its rate falling by 0.9 every 1,000 steps, continuously: both papers' code."""
    return optax.adam(optax.exponential_decay(learning_rate, 1000, 0.9))


def train(
    problem: Problem,
    network: Network,
    *,
    key: Array,
    steps: int,
    batch_size: int | Mapping[str, int] = 128,
    points: Mapping[str, ArrayLike] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    weighting: Weighting | None = None,
    params: PyTree | None = None,
    record_every: int = 100,
    progress: bool = True,
) -> Run:
    """Minimise the weighted loss of ``problem`` over the parameters of ``network``.

    Args:
        problem: what to solve.
        network: what to solve it with.
        key: a random key; or several, shape ``(s,)``, to train ``s`` seeds side by side.
        steps: number of optimiser steps.
        batch_size: points of each condition in a step, one number or a dict by name.
        points: the same points in every step instead of fresh ones (``batch_size`` is unused).
        optimizer: `adam` if not given.
        weighting: a rule of `weighting`; all weights 1 if not given.
        params: where to start instead of ``network.init``, shared by all seeds.
        record_every: steps between two entries of the history; the last step has one too.
        progress: whether to show a progress bar.

    Raises:
        ValueError: ``steps`` or ``record_every`` below 1; points or sizes that do not fit.
        DivergedError: a recorded loss is not finite; carries the history so far.
    """
    if steps < 1 or record_every < 1:
        raise ValueError(f"`steps` and `record_every` must be at least 1, got {steps} and {record_every}.")
    if points is not None:
        check_points(problem, points)
        points = {name: jnp.asarray(x) for name, x in points.items()}
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)  # Of the old kind, `jax.random.PRNGKey`.
    optimizer = adam() if optimizer is None else optimizer
    weighting = fixed() if weighting is None else weighting

    def draw(key: Array, step: Array) -> dict[str, Array]:
        return points if points is not None else problem.sample(jax.random.fold_in(key, step), batch_size)

    def start(key: Array) -> _State:
        initial = network.init(jax.random.split(key)[0]) if params is None else params
        return _State(jnp.zeros((), int), initial, optimizer.init(initial), weighting.init(problem))

    def losses(params: PyTree, batch: Mapping[str, Array]) -> dict[str, Array]:
        return problem.losses(functools.partial(network.apply, params), batch)

    def step(key: Array, state: _State) -> _State:
        batch = draw(key, state.step)
        weights, weighting_state = weighting.update(state.weighting, problem, network.apply, state.params, batch)

        def loss(params: PyTree) -> Array:
            return sum(weights[name] * value for name, value in losses(params, batch).items())

        updates, optimizer_state = optimizer.update(jax.grad(loss)(state.params), state.optimizer, state.params)
        return _State(state.step + 1, optax.apply_updates(state.params, updates), optimizer_state, weighting_state)

    def advance(key: Array, state: _State, count: Array) -> _State:
        return jax.lax.fori_loop(0, count, lambda _, state: step(key, state), state)

    def measure(key: Array, state: _State) -> dict[str, Array]:
        batch = draw(key, state.step)
        weights, _ = weighting.update(state.weighting, problem, network.apply, state.params, batch)
        record = {f"loss/{name}": value for name, value in losses(state.params, batch).items()}
        record |= {f"weight/{name}": value for name, value in weights.items()}
        if problem.solution is not None:
            test = grid(problem, TEST_POINTS.get(len(problem.domain[0]), 20))
            field = functools.partial(network.apply, state.params)
            record["error"] = relative_l2_error(field, problem.solution, test)
        return record

    if key.ndim:  # Several seeds: the same functions, mapped.
        start, advance, measure = jax.vmap(start), jax.vmap(advance, (0, 0, None)), jax.vmap(measure)
    keys = jnp.stack([jax.random.split(k)[1] for k in key]) if key.ndim else jax.random.split(key)[1]
    advance, measure = jax.jit(advance, donate_argnums=1), jax.jit(measure)
    state = jax.jit(start)(key)

    recorded: list[dict] = []
    at = list(range(0, steps, record_every)) + [steps]

    def run() -> Run:
        stacked = {name: np.stack([r[name] for r in recorded], -1) for name in recorded[0]}
        weights = {name: stacked[f"weight/{name}"][..., -1] for name in problem.conditions}
        return Run(state.params, weights, {"step": np.array(at[: len(recorded)])} | stacked)

    with tqdm(total=steps, disable=not progress, desc=problem.name, unit="step") as bar:
        for now, after in zip(at, at[1:] + [None], strict=True):
            recorded.append(jax.device_get(measure(keys, state)))
            bad = [name for name, value in recorded[-1].items() if not np.isfinite(value).all()]
            if bad:
                raise DivergedError(
                    f"Training {problem.name!r} diverged by step {now}: {', '.join(bad)} not finite.  Lower the "
                    "learning rate (see `convergence.max_learning_rate`); `.run` of this error has the history.",
                    run(),
                )
            if after is not None:
                state = advance(keys, state, after - now)
                bar.update(after - now)
    return run()
