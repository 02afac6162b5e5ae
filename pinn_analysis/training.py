"""Training of a PINN, for one seed or several at once.

A step draws fresh collocation points, forms ``L = Σ_i λ_i mean(r_i²)`` and lets an optax
optimiser move the parameters.  Everything random in step ``k`` comes from the key and
``k`` alone, so that a run that was cut off goes on where it was.
"""

import functools
import hashlib
import inspect
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from jaxtyping import PyTree
from tqdm import tqdm

from pinn_analysis import gradients, problems
from pinn_analysis._checkpoint import Checkpoints
from pinn_analysis._divergence import DivergedError as DivergedError, explain, where_not_finite
from pinn_analysis.networks import Network
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
            ``value``, ``grad``, ``value_fn`` (the loss of the parameters) and ``residuals_fn`` (the
            residuals as one vector, each times ``sqrt(λ_i / n_i)``: its squared norm is the loss)
            that it accepts: `optax.lbfgs` and `optax.contrib.reduce_on_plateau` work.
        weighting: a rule of `weighting`; all weights 1 if not given.
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
        DivergedError: a recorded loss, weight or gradient is not finite; carries the history and
            the last finite state, and says whose fault it is.
    """
    if steps < 1 or record_every < 1:
        raise ValueError(f"`steps` and `record_every` must be at least 1, got {steps} and {record_every}.")
    if points is not None:
        problems.check_points(problem, points)
        points = {name: jnp.asarray(points[name]) for name in problem.conditions}
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
    state, history = jax.jit(functions.start)(key), _History()

    checkpoints = None
    if checkpoint is not None:
        checkpoints = Checkpoints(checkpoint, _identity(problem, key, record_every, points, advance, state))
        saved = checkpoints.newest(state, steps)
        if saved is not None:
            state, history = saved[0], _History.of(saved[1])

    def record(now: int, before: TrainState | None, state: TrainState) -> None:
        """Append to the history; raise with the last finite state if something is not finite."""
        history.append(now, look(state))
        bad = history.not_finite()
        if bad:
            last = _last_finite(advance, before, state)
            seeds = [jax.tree.map(lambda leaf, i=i: leaf[i], last) for i in range(len(key))] if key.ndim else [last]
            message = explain(problem, network.apply, bad, [(s.step, s.params, draw(s)) for s in seeds], now)
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


def stepper(
    problem: Problem,
    apply: Apply,
    points: Mapping[str, ArrayLike],
    optimizer: optax.GradientTransformation,
    weights: Mapping[str, ArrayLike] | None = None,
) -> Callable[[tuple[PyTree, PyTree]], tuple[PyTree, PyTree]]:
    """``(params, optimizer_state) -> the same`` after one step on all of ``points``; for `follow`.

    Start from ``params, optimizer.init(params)``.  Weights are 1 if not given.

    Raises:
        ValueError: weights or points that do not fit the problem.
    """
    problem, points = trained(problem, points)
    weights = dict.fromkeys(problem.conditions, 1.0) if weights is None else weights
    check_names(problem, weights, "weights")
    problems.check_points(problem, points)
    return lambda state: _descend(problem, apply, optimizer, weights, points, *state)


def follow(
    step: Callable[[Any], Any], measure: Callable[[Any], Any], at: Sequence[int] | ArrayLike
) -> Callable[[Any], tuple]:
    """``start -> (last, measured)``: iterates ``step`` and measures at the step numbers ``at``, stacked.

    Compiled; ``step`` and ``measure`` take and return pytrees of arrays.

    Raises:
        ValueError: ``at`` is empty, does not ascend, or has a negative number.
    """
    numbers = np.asarray(at)
    if not numbers.size or numbers[0] < 0 or (np.diff(numbers) <= 0).any():
        raise ValueError(f"`at` must be step numbers that ascend, from 0 on; got {numbers.tolist()!r:.60}.")

    def leg(state: Any, gap: Array) -> tuple[Any, Any]:
        state = jax.lax.fori_loop(0, gap, lambda _, s: step(s), state)
        return state, measure(state)

    return jax.jit(lambda start: jax.lax.scan(leg, start, jnp.asarray(np.diff(numbers, prepend=0))))


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
    measure_error = _error(problem)

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
        moved = _descend(problem, network.apply, optimizer, weights, batch, state.params, state.optimizer)
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


def _descend(
    problem: Problem,
    apply: Apply,
    optimizer: optax.GradientTransformation,
    weights: Mapping[str, ArrayLike],
    points: Mapping[str, ArrayLike],
    params: PyTree,
    state: PyTree,
) -> tuple[PyTree, PyTree]:
    """Parameters and optimiser state after one step."""
    optimizer = optax.with_extra_args_support(optimizer)

    def residuals(params: PyTree) -> dict[str, Array]:
        return problem.residuals(functools.partial(apply, params), points)

    def loss(params: PyTree, residuals_fn: Callable | None = None) -> Array:
        del residuals_fn  # Line searches of optax pass on to the loss what is not for them, or raise.
        return sum(_mean(weights[name], r) for name, r in residuals(params).items())

    def scaled(params: PyTree) -> Array:
        return jnp.concatenate([jnp.sqrt(weights[name] / r.size) * r for name, r in residuals(params).items()])

    value, gradient = jax.value_and_grad(loss)(params)
    extra = {"value": value, "grad": gradient, "value_fn": loss, "residuals_fn": scaled}
    updates, state = optimizer.update(gradient, state, params, **_accepted(optimizer.update, extra))
    return optax.apply_updates(params, updates), state


def _mean(weight: ArrayLike, residuals: Array) -> Array:
    """``mean(λ r²)``, with one weight or one per row."""
    return jnp.mean(weight * residuals**2) if jnp.ndim(weight) else weight * jnp.mean(residuals**2)


def _accepted(function: Callable, extra: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return extra
    return {name: value for name, value in extra.items() if name in parameters}


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


def _error(problem: Problem) -> Callable[[Callable], dict[str, Array]]:
    """``field -> {"error": ...}`` at the test points where the solution is finite; absolute if it is zero there."""
    if problem.solution is None:
        return lambda field: {}
    test = problems.test_points(problem)
    values = jax.vmap(problem.solution)(test)
    bad = where_not_finite(values)
    if bad.size:
        warnings.warn(
            f"The exact solution of {problem.name!r} is not finite at {bad.size} of {len(test)} test points, first at "
            f"{test[bad[0]].tolist()}: the error is measured at the others.",
            stacklevel=4,
        )
        test = jnp.delete(test, bad, axis=0)
        values = jnp.delete(values, bad, axis=0)
    if not len(test):
        return lambda field: {}
    if not jnp.any(values != 0):
        return lambda field: {"absolute_error": jnp.sqrt(jnp.mean(jax.vmap(field)(test) ** 2))}
    return lambda field: {"error": problems.relative_l2_error(field, problem.solution, test)}


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


class _History:
    """Records of a run, a dict per recorded step."""

    def __init__(self, records: list[dict] | None = None):
        self._records = records or []

    @classmethod
    def of(cls, arrays: Mapping[str, np.ndarray]) -> "_History":
        """The inverse of `arrays`."""
        return cls([{name: v[..., i] for name, v in arrays.items()} for i in range(len(arrays["step"]))])

    def append(self, step: int, record: dict[str, Array]) -> None:
        self._records.append(jax.device_get(record) | {"step": np.array(step)})

    def pop(self) -> None:
        self._records.pop()

    def last_step(self) -> int | None:
        return int(self._records[-1]["step"]) if self._records else None

    def not_finite(self) -> list[str]:
        """What of the last record, a user's own measurements aside, is not finite."""
        kinds = ("loss/", "weight/", "gradient_", "error", "absolute_error")
        own = (name for name in self._records[-1] if name.startswith(kinds))
        return [name for name in own if not np.isfinite(self._records[-1][name]).all()]

    def arrays(self) -> dict[str, np.ndarray]:
        return {name: np.stack([record[name] for record in self._records], -1) for name in self._records[0]}

    def weights(self, problem: Problem, *, finite: bool = False) -> dict[str, np.ndarray]:
        """Of the last record; with ``finite`` of the last in which they are, or of the first."""
        each = [{name: record[f"weight/{name}"] for name in problem.conditions} for record in self._records]
        good = [w for w in each if not finite or all(np.isfinite(value).all() for value in w.values())]
        return (good or each[:1])[-1]


def _identity(
    problem: Problem, key: Array, record_every: int, points: dict | None, advance: Callable, state: TrainState
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
