"""Training of a PINN, for one seed or several at once.

A step draws fresh collocation points, forms ``L = Σ_i λ_i mean(r_i²)`` and lets an optax
optimiser move the parameters.  Everything random in step ``k`` comes from the key and
``k`` alone, so that a run that was cut off goes on where it was.
"""

import functools
import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import PyTree
from tqdm import tqdm

from pinn_analysis import gradients
from pinn_analysis._checkpoint import Checkpoints
from pinn_analysis.networks import Network
from pinn_analysis.problems import Problem, check_points, grid, relative_l2_error
from pinn_analysis.weighting import Weighting, fixed

# Points an axis of the grid on which the error is measured: 1,000 in 1-D (NTK paper's code),
# 100 x 100 in 2-D (first paper's code).
TEST_POINTS = {1: 1000, 2: 100}
CHECKPOINT_SECONDS = 30  # Between two checkpoints: what a killed run loses at most.


class Run(NamedTuple):
    """What training leaves; with several seeds every array has a leading axis for them.

    Attributes:
        params: parameters after the last step.
        weights: loss weights at the last step, by term.
        history: arrays over the recorded steps: ``"step"``, ``"error"`` (relative L2, if the
            solution is known), ``"loss/<name>"`` (unweighted, on the points of that step),
            ``"weight/<name>"``, and of the gradient of each unweighted loss the largest and the
            mean absolute entry and the norm, ``"gradient_max/<name>"`` and so on.
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
    checkpoint: str | Path | None = None,
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
        checkpoint: a folder of this run's own.  If it has a checkpoint, training goes on from
            there and ends bit for bit where it would have ended; with more ``steps`` than
            before it goes on further.  One is written every 30 seconds, and at the end.
        progress: whether to show a progress bar, with the time left.

    Raises:
        ValueError: ``steps`` or ``record_every`` below 1; points or sizes that do not fit; a
            checkpoint of another run, beyond ``steps``, or damaged.
        DivergedError: a recorded loss or weight is not finite; carries the history so far.
    """
    if steps < 1 or record_every < 1:
        raise ValueError(f"`steps` and `record_every` must be at least 1, got {steps} and {record_every}.")
    if points is not None:
        check_points(problem, points)
        points = {name: jnp.asarray(x) for name, x in points.items()}
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)  # Of the old kind, `jax.random.PRNGKey`.
    functions = _functions(problem, network, batch_size, points, optimizer or adam(), weighting or fixed(), params)
    if key.ndim:  # Several seeds: the same functions, mapped.
        functions = _Functions(*(jax.vmap(f, axes) for f, axes in zip(functions, (0, (0, 0, None), 0), strict=True)))
    keys = jnp.stack([jax.random.split(k)[1] for k in key]) if key.ndim else jax.random.split(key)[1]
    advance, measure = jax.jit(functions.advance, donate_argnums=1), jax.jit(functions.measure)
    state, recorded = jax.jit(functions.start)(key), []  # What was recorded, a dict a time.

    def history() -> dict[str, np.ndarray]:
        return {name: np.stack([record[name] for record in recorded], -1) for name in recorded[0]}

    def run() -> Run:
        whole = history()
        return Run(state.params, {name: whole[f"weight/{name}"][..., -1] for name in problem.conditions}, whole)

    def record(now: int) -> None:
        recorded.append(jax.device_get(measure(keys, state)) | {"step": np.array(now)})
        bad = [name for name, value in recorded[-1].items() if not np.isfinite(value).all()]
        if bad:
            advice = "Lower the learning rate (see `convergence.max_learning_rate`)"
            if all(name.startswith("weight/") for name in bad):
                advice = "The rule for the weights divides by zero: can any parameter change this loss term?"
            raise DivergedError(
                f"Training {problem.name!r} diverged by step {now}: {', '.join(bad)} not finite.  "
                f"{advice}; `.run` of this error has the history.",
                run(),
            )

    checkpoints = None
    if checkpoint is not None:
        description = {
            "problem": problem.name,
            "key": jax.random.key_data(key).tolist(),
            "record_every": record_every,
            "jax": jax.__version__,
            # The program has all settings in it, the learning rate for one.
            "network, equation, optimizer, weighting or batch": _digest(
                advance.lower(keys, state, 1).as_text().encode()
            ),
            "initial parameters": _digest(*(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state))),
        }
        checkpoints = Checkpoints(checkpoint, description)
        saved = checkpoints.newest(state, steps)
        if saved is not None:
            state, before = saved
            recorded = [{name: v[..., i] for name, v in before.items()} for i in range(len(before["step"]))]

    now = int(recorded[-1]["step"]) if recorded else 0
    if not recorded:
        record(0)
    elif now < steps and now % record_every:  # The end of a shorter run, no step that this one records.
        recorded.pop()
    last = time.monotonic()
    with tqdm(total=steps, initial=now, disable=not progress, desc=problem.name, unit="step") as bar:
        while now < steps:
            after = min(now - now % record_every + record_every, steps)
            state = advance(keys, state, after - now)
            bar.update(after - now)
            now = after
            record(now)
            if checkpoints and (now == steps or time.monotonic() - last > CHECKPOINT_SECONDS):
                checkpoints.save(now, state, history())
                last = time.monotonic()
    return run()


class _Functions(NamedTuple):
    """What a run of one seed is made of.

    Attributes:
        start: ``key -> state``.
        advance: ``(key, state, count) -> state``, ``count`` steps later.
        measure: ``(key, state) -> record``, what enters the history.
    """

    start: Callable
    advance: Callable
    measure: Callable


def _functions(
    problem: Problem,
    network: Network,
    batch_size: int | Mapping[str, int],
    points: Mapping[str, Array] | None,
    optimizer: optax.GradientTransformation,
    weighting: Weighting,
    params: PyTree | None,
) -> _Functions:
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
        field = functools.partial(network.apply, state.params)
        record = {f"loss/{name}": value for name, value in problem.losses(field, batch).items()}
        record |= {f"weight/{name}": value for name, value in weights.items()}
        for name, gradient in gradients.by_term(problem, network.apply, state.params, batch).items():
            statistics = gradients.statistics(gradient)._asdict()
            record |= {f"gradient_{kind}/{name}": value for kind, value in statistics.items()}
        if problem.solution is not None:
            test = grid(problem, TEST_POINTS.get(len(problem.domain[0]), 20))
            record["error"] = relative_l2_error(field, problem.solution, test)
        return record

    return _Functions(start, advance, measure)


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()
