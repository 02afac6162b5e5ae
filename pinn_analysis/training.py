"""Training of a PINN, for one seed or several at once.

A step draws fresh collocation points, forms ``L = Σ_i λ_i mean(r_i²)`` and lets an optax
optimiser move the parameters.  Everything random in step ``k`` comes from the key and
``k`` alone, so that a run that was cut off goes on where it was.
"""

import functools
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

from pinn_analysis import gradients, problems
from pinn_analysis._checkpoint import Checkpoints, identity
from pinn_analysis._divergence import DivergedError as DivergedError, explain
from pinn_analysis._history import History, error_measure
from pinn_analysis._steps import descend, follow as follow, stepper as stepper
from pinn_analysis.networks import Network
from pinn_analysis.networks._core import check_network
from pinn_analysis.problems import Apply, Problem, check, check_names
from pinn_analysis.weight_rules import Weights, trained
from pinn_analysis.weighting import Weighting, fixed

CHECKPOINT_SECONDS = 30  # Between two checkpoints: what a killed run loses at most.
Measure = Callable[[Problem, Apply, PyTree, dict[str, Array]], dict[str, Array]]


class TrainState(NamedTuple):
    """All that a run goes on from.

    Attributes:
        step: steps so far.
        key: data of the key that points are drawn with.
        params: parameters of the network.
        optimizer: state of the optimiser.
        weighting: state of the rule for the weights.
    """

    step: Array
    key: Array
    params: PyTree
    optimizer: PyTree
    weighting: PyTree


class Run(NamedTuple):
    """Result of training; with several seeds every array has a leading axis for them.

    Attributes:
        params: parameters after the last step.
        weights: loss weights at the last step, by term.
        history: arrays whose last axis is that of the recorded steps: ``"step"``, ``"error"``
            (relative L2, if the solution is known; ``"absolute_error"``, the root of the mean
            square, if the solution is zero), ``"loss/<name>"`` (unweighted, on the points of that
            step), ``"weight/<name>"``, and of the gradient of each unweighted loss the largest and
            the mean absolute entry and the norm, ``"gradient_max/<name>"`` and so on; and what
            ``measure`` returns.
        state: of the optimiser and the rule too, ``run.state.optimizer`` and ``run.state.weighting``.
    """

    params: PyTree
    weights: Weights
    history: dict[str, np.ndarray]
    state: TrainState


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
    measure: Measure | None = None,
    test_points: ArrayLike | None = None,
    checkpoint: str | Path | None = None,
    progress: bool = True,
) -> Run:
    """Minimise the weighted loss of ``problem`` over the parameters of ``network``.

    Terms that are not trained (`Condition.trained`) are left out, also of the history.

    Args:
        problem: what to solve.
        network: what to solve it with.
        key: a random key; or several, shape ``(s,)``, to train ``s`` seeds side by side.
        steps: number of optimiser steps.
        batch_size: points of each condition in a step, one number or a dict by name.
        points: the same points in every step instead of fresh ones (``batch_size`` is unused).
        optimizer: any of optax; `adam` if not given.  One that takes extra arguments gets those of
            ``value``, ``grad``, ``value_fn`` (the loss of the parameters), ``residuals_fn`` (the
            residuals as one vector, each times ``sqrt(λ_i / n_i)``: its squared norm is the loss)
            and ``jacobian_fn`` (of that, ``(n, p)``) that it accepts: `optax.lbfgs`,
            `optax.contrib.reduce_on_plateau` and `solving.gauss_newton` work.
        weighting: a rule of `pinn_analysis.weighting`; all weights 1 if not given.
        params: where to start instead of ``network.init``, shared by all seeds.
        record_every: steps between two entries of the history; the last step has one too.
        measure: ``(problem, apply, params, points) -> dict of arrays``, traceable, whose values
            join the history; the points are those of that step.
        test_points: ``(n, d)``, where the error is measured; `problems.test_points` if not given.
        checkpoint: a folder used by this run only.  If it has a checkpoint, training goes on from
            there and ends bit for bit where it would have ended; with more ``steps`` than
            before it goes on further.  One is written every 30 seconds, and at the end.
        progress: whether to show a progress bar, with the time left.

    Raises:
        ValueError: ``steps`` or ``record_every`` below 1; network, points or sizes that do not fit
            (`problems.check`); a checkpoint of another run, beyond ``steps``, or damaged.
        DivergedError: a recorded loss, weight or gradient is not finite, or a weight negative; carries the history and
            the last finite state, and says whose fault it is.
    """
    if steps < 1 or record_every < 1:
        raise ValueError(f"`steps` and `record_every` must be at least 1, got {steps} and {record_every}.")
    check_network(network)
    if points is not None:
        points = problems.check_points(problem, points)
    problem, points, batch_size = _only_trained(problem, points, batch_size)
    if test_points is not None:
        problem = problem._replace(test=test_points)
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)  # A legacy `jax.random.PRNGKey`.
    draw = functools.partial(_draw, problem, batch_size, points)
    _check_start(problem, network, draw, params)
    one = _functions(problem, network, draw, optimizer or adam(), weighting or fixed(), params, measure)
    several = _Functions(jax.vmap(one.start), jax.vmap(one.advance, (0, None)), jax.vmap(one.measure))
    functions = several if key.ndim else one
    advance, look = jax.jit(functions.advance, donate_argnums=0), jax.jit(functions.measure)
    state, history = jax.jit(functions.start)(key), History()

    checkpoints = None
    if checkpoint is not None:
        checkpoints = Checkpoints(checkpoint, identity(problem, key, record_every, points, advance, state))
        saved = checkpoints.newest(state, steps)
        if saved is not None:
            state, history = saved[0], History.of(saved[1])

    def record(now: int, before: TrainState | None, state: TrainState) -> None:
        """Append to the history; raise with the last finite state if something is not finite."""
        history.append(now, look(state))
        bad, negative = history.not_finite(), history.negative_weights()
        if bad or negative:
            last = _last_finite(advance, before, state)
            seeds = [jax.tree.map(lambda leaf, i=i: leaf[i], last) for i in range(len(key))] if key.ndim else [last]
            where = [(s.step, s.params, draw(s)) for s in seeds]
            message = explain(problem, network.apply, bad or negative, where, now, negative=not bad)
            weights = history.weights(problem, finite=True)
            raise DivergedError(message, Run(last.params, weights, history.arrays(), last))

    now = history.last_step()
    if now is None:
        now = 0
        record(0, None, state)
    elif now < steps and now % record_every:  # Last entry of a shorter run, off this run's recording grid.
        history.pop()
    last = time.monotonic()
    with tqdm(total=steps, initial=now, disable=not progress, desc=problem.name, unit="step") as bar:
        while now < steps:
            after = min(now - now % record_every + record_every, steps)
            before = jax.tree.map(jnp.copy, state)  # `advance` reuses the memory of its argument.
            state = advance(state, after - now)
            bar.update(after - now)
            now = after
            record(now, before, state)
            if checkpoints and (now == steps or time.monotonic() - last > CHECKPOINT_SECONDS):
                checkpoints.save(now, state, history.arrays())
                last = time.monotonic()
    return Run(state.params, history.weights(problem), history.arrays(), state)


class _Functions(NamedTuple):
    """What a run of one seed is made of.

    Attributes:
        start: ``key -> state``.
        advance: ``(state, count) -> state``, ``count`` steps later.
        measure: ``state -> record``, what enters the history.
    """

    start: Callable
    advance: Callable
    measure: Callable


def _functions(
    problem: Problem,
    network: Network,
    draw: Callable[[TrainState], dict[str, Array]],
    optimizer: optax.GradientTransformation,
    weighting: Weighting,
    params: PyTree | None,
    measure: Measure | None,
) -> _Functions:
    measure_error = error_measure(problem)

    def start(key: Array) -> TrainState:
        first, second = jax.random.split(key)
        initial = network.init(first) if params is None else params
        key_data = jax.random.key_data(second)
        return TrainState(jnp.zeros((), int), key_data, initial, optimizer.init(initial), weighting.init(problem))

    def weigh(state: TrainState, batch: Mapping[str, Array]) -> tuple[Weights, PyTree]:
        weights, after = weighting.update(state.weighting, problem, network.apply, state.params, batch)
        check_names(problem, weights, "weights")
        return weights, after

    def step(state: TrainState) -> TrainState:
        batch = draw(state)
        weights, weighting_state = weigh(state, batch)
        moved = descend(problem, network.apply, optimizer, weights, batch, state.params, state.optimizer)
        return TrainState(state.step + 1, state.key, *moved, weighting_state)

    def advance(state: TrainState, count: Array) -> TrainState:
        return jax.lax.fori_loop(0, count, lambda _, state: step(state), state)

    def look(state: TrainState) -> dict[str, Array]:
        batch = draw(state)
        weights, _ = weigh(state, batch)
        field = functools.partial(network.apply, state.params)
        record = {f"loss/{name}": value for name, value in problem.losses(field, batch).items()}
        record |= {f"weight/{name}": value for name, value in weights.items()}
        for name, gradient in gradients.by_term(problem, network.apply, state.params, batch).items():
            statistics = gradients.statistics(gradient)._asdict()
            record |= {f"gradient_{kind}/{name}": value for kind, value in statistics.items()}
        record |= measure_error(field)
        own = {} if measure is None else measure(problem, network.apply, state.params, batch)
        taken = set(own) & {"step", *record}
        if taken:
            raise ValueError(f"`measure` must return other names than those of the history, got {sorted(taken)}.")
        return record | own

    return _Functions(start, advance, look)


def _only_trained(problem: Problem, points: dict | None, sizes: int | Mapping[str, int]) -> tuple:
    """Problem, points and batch sizes without the terms that are not trained."""
    if isinstance(sizes, Mapping):
        check_names(problem, sizes, "sizes")
        sizes = trained(problem, sizes)[1]
    points = None if points is None else trained(problem, points)[1]
    return trained(problem, {})[0], points, sizes


def _draw(problem: Problem, sizes: int | Mapping[str, int], points: dict | None, state: TrainState) -> dict[str, Array]:
    """Points of the step to come."""
    if points is not None:
        return points
    return problem.sample(jax.random.fold_in(jax.random.wrap_key_data(state.key), state.step), sizes)


def _check_start(problem: Problem, network: Network, draw: Callable, params: PyTree | None) -> None:
    """The door, at the first points and parameters."""

    def door(key: Array) -> None:
        state = TrainState(jnp.zeros((), int), jax.random.key_data(key), None, None, None)
        check(problem, network.apply, network.init(key) if params is None else params, draw(state))

    jax.eval_shape(door, jax.random.key(0))


def _last_finite(advance: Callable, before: TrainState | None, state: TrainState) -> TrainState:
    """The last state whose parameters are finite: steps are done again, one by one, from ``before`` on."""

    def finite(state: TrainState) -> bool:
        return all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(state.params))

    if before is None or finite(state):
        return state
    while True:
        state = jax.tree.map(jnp.copy, before)
        after = advance(state, 1)
        if not finite(after):
            return before
        before = after
