"""What is measured: each a function of the case, and of what was measured before, to numbers and arrays.

Shapes: ``n`` rows of all terms together, ``d`` inputs.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from pinn_analysis import convergence, curvature, gradients, ntk, problems, solving, spectra, training
from pinn_analysis.diagnosis import _activations, _case
from pinn_analysis.diagnosis._case import Across, Case, Measured, moves
from pinn_analysis.diagnosis._reference import MORE, features, reference, tangent, with_hard_constraints
from pinn_analysis.operators import Field, Operator, identity
from pinn_analysis.problems import Apply, Condition, faces
from pinn_analysis.solving._linear import over, rms
from pinn_analysis.solving._system import of_field

ROWS = 800  # Of a kernel that is diagonalised.
TEST_ROWS = 200  # Of one that is computed twice, for a network of SMALL parameters or more.
SMALL = 50_000
STUCK = 10_000  # Steps after which a mode that is left counts as one that does not move.
SWEPT = 256  # Points of a term at which numbers are tried.
SWEEP = (0.5, 0.8, 1.0, 1.25, 2.0)  # Times a number in an operator.
TRIAL_STEPS = 200
TRIAL_RECORDS = 20
HARD = 1e-12  # Of the largest entry of the output's kernel: where a network cannot move at all.


def residuals(case: Case, _: Measured) -> dict[str, Any]:
    """Residuals without weights: root mean squares on the training's points and on held-out ones, by term."""
    found = {}
    for where, points in (("training", case.points), ("held_out", case.held_out)):
        found[where] = {name: rms(r) for name, r in _case.residuals(case.problem, case.field, points).items()}
    return found


def output(case: Case, _: Measured) -> dict[str, Any]:
    """Where the network can move: the diagonal of the kernel of its output, over the domain and on its faces."""
    low, high = case.problem.domain
    on_faces = faces(low, high)(jax.random.key(7), 16 * len(low))
    everywhere, edge = np.split(_moves(case, identity, jnp.concatenate([case.test, on_faces])), [len(case.test)])
    largest = everywhere.max()
    periodic = [axis for axis in range(len(low)) if _is_periodic(case, axis, largest)]
    fixed = np.asarray(on_faces)[edge < HARD * largest]
    return {
        "diagonal": everywhere, "share that moves": float((everywhere > 1e-4 * largest).mean()),
        "fixed points": fixed, "periodic axes": periodic,
    }  # fmt: skip


def _moves(case: Case, operator: Operator, x: Array) -> np.ndarray:
    """How far a unit of each parameter moves ``L u`` at each point, squared and summed, ``(n,)``."""
    return moves(case.problem, case.apply, case.params, operator, x).sum(1)


def _is_periodic(case: Case, axis: int, largest: float) -> bool:
    """Whether both ends of an axis are one place to the network, and two places between them are not."""
    low, high = (float(corner[axis]) for corner in case.problem.domain)
    x, size, along = case.test[:32], high - low, np.eye(case.test.shape[1])[axis]
    ends, inside = Across(along, low, high), Across(along, low + 0.13 * size, high - 0.29 * size)
    return bool(_moves(case, ends, x).max() < HARD * largest and _moves(case, inside, x).max() > 1e-6 * largest)


def error(case: Case, measured: Measured) -> dict[str, Any]:
    """Relative error of the network: against the known solution, or else against the reference."""
    if case.solution is not None:
        x = problems.test_points(case.problem) if case.problem.test is not None else case.test
        exact, here = of_field(case.solution, x), of_field(case.field, x)
        return {"relative": over(rms(here - exact), rms(exact)), "against": "the known solution"}
    found = measured["reference"]
    if found["estimate"] > 0.03 or found["disagreement"] > 0.03:
        raise ValueError("no solution is known, and the reference is not sure enough")
    return {"relative": found["distance"], "against": "the problem solved without training"}


def substitution(case: Case, measured: Measured) -> dict[str, Any]:
    """The known solution put into every term: what is left, relative to what an error of 100 % would leave."""
    if case.solution is None:
        raise ValueError("needs the solution, which is not known")
    size = rms(of_field(case.solution, case.test))
    left = {}
    for name in case.problem.conditions:
        alone, x = case.problem.only(name), {name: case.held_out[name]}
        r = _case.residuals(alone, case.solution, x)[name]
        left[name] = rms(r) / (measured["reference"]["units"][name] * size)
    of_values = {name: _of_values(c, case) for name, c in case.problem.conditions.items()}
    return {"left": left, "of values": of_values, "coefficients": _coefficients(case)}


def _of_values(condition: Condition, case: Case) -> bool:
    """Whether a term is about values of the field at single points, and no equation."""
    if condition.values:
        return True
    x = case.test[0]
    bump = lambda y: case.field(y) + jnp.sum((y - x) * jnp.arange(1.0, y.size + 1)) + jnp.sum((y - x) ** 2)
    of_bump, of_network = jax.jit(lambda x: [condition.operator(u)(x) for u in (bump, case.field)])(x)
    return bool(jnp.allclose(of_bump, of_network))


def sweep(case: Case, _: Measured) -> dict[str, Any]:
    """Terms whose operator has one number in it: residuals of the network with others, and the one that fits it.

    A network that was trained well fits the number it was trained with, whatever the right one is; where data are
    among the terms, another one that fits better is theirs.
    """
    found = {}
    for name, number, left in _numbers(case, case.field):
        swept = [factor * number for factor in SWEEP]
        found[name] = {
            "now": number, "fits": _fitted(number, left), "numbers": swept,
            "residuals": [rms(left(c)[0]) for c in swept],
        }  # fmt: skip
    return found


def _coefficients(case: Case) -> dict[str, tuple[float, float]]:
    """Numbers in an operator as they are and as they fit the solution, where that leaves a tenth or less."""
    found = {}
    for name, number, left in _numbers(case, case.solution):
        fits = _fitted(number, left)
        if rms(left(fits)[0]) < 0.1 * rms(left(number)[0]):
            found[name] = (number, fits)
    return found


def _numbers(case: Case, field: Field) -> Iterator[tuple[str, float, Callable[[float], tuple[Array, Array]]]]:
    """Terms whose operator is a pytree of one number, the number, and with any other the residuals and their slope."""
    for name, condition in case.problem.conditions.items():
        leaves = jax.tree.leaves(condition.operator)
        if len(leaves) == 1 and not callable(leaves[0]) and not np.ndim(leaves[0]):
            yield name, float(leaves[0]), _with_number(case, field, name)


def _with_number(case: Case, field: Field, name: str) -> Callable[[float], tuple[Array, Array]]:
    condition, x = case.problem.conditions[name], {name: case.held_out[name][:SWEPT]}

    def left(c: Array) -> Array:
        operator = jax.tree.map(lambda _: c, condition.operator)
        alone = case.problem._replace(conditions={name: condition._replace(operator=operator)})
        return alone.residuals(field, x)[name]

    return jax.jit(lambda c: jax.jvp(left, (c,), (jnp.ones_like(c),)))


def _fitted(number: float, left: Callable[[float], tuple[Array, Array]]) -> float:
    """Where the residuals are smallest, by Gauss-Newton: one step where they are linear in the number."""
    c = number
    for _ in range(20):
        r, slope = map(np.asarray, left(c))
        step = over(float(slope @ r), float(slope @ slope))
        c -= step
        if abs(step) <= 1e-12 * abs(c):
            break
    return c


def kernel(case: Case, _: Measured) -> dict[str, Any]:
    """The kernel: rates, effective ranks; with the weights in use and balanced, predicted steps and slow modes."""
    names = tuple(case.problem.conditions)
    few = _few(case, ROWS)
    matrix = ntk.empirical(case.problem, case.apply, case.params, few)
    dense, where = np.asarray(matrix.matrix), matrix.slices()
    block = lambda a, b: dense[where[a], where[b]]
    rates = {name: float(rate) for name, rate in convergence.rates(matrix).items()}
    r = _case.residuals(case.problem, case.field, few)
    balanced = {name: over(max(rates.values()), rate) for name, rate in rates.items()}
    found: dict[str, Any] = {
        "points": {name: np.asarray(x) for name, x in few.items()}, "rates": rates, "weights": balanced,
        "rows": len(dense),
        "effective rank": {name: _effective_rank(block(name, name)) for name in names},
    }  # fmt: skip
    for which, weights in (("in use", case.weights), ("balanced", balanced)):
        spectrum = spectra.spectrum(matrix, weights)
        step = 0.5 * float(spectrum.max_learning_rate)
        amplitudes = np.asarray(spectrum.amplitudes(r)) ** 2
        left = (1 - 2 * step * np.asarray(spectrum.values)) ** STUCK
        stays = spectrum.evolve(r, jnp.asarray(left), jnp.zeros(left.size))
        found[which] = {
            "largest step": 2 * step,
            "steps to 10 %": convergence.steps_to(spectrum, r, 0.1, learning_rate=step),
            "steps to 1 %": convergence.steps_to(spectrum, r, 0.01, learning_rate=step),
            "slow share": float(over((amplitudes * left**2).sum(), amplitudes.sum())),
            "stays": {name: np.asarray(part) for name, part in stays.items()},
            "left after 10,000 steps": {name: rms(part) for name, part in stays.items()},
            "eigenvalues": np.asarray(spectrum.values)[::-1],
        }
    dots = {(a, b): r[a] @ block(a, b) @ r[b] / (len(r[a]) * len(r[b])) for a in names for b in names}
    found["cosines"] = {
        (a, b): float(over(dots[a, b], np.sqrt(max(dots[a, a] * dots[b, b], 0)))) for a in names for b in names if a < b
    }
    return found


def _effective_rank(matrix: np.ndarray) -> float:
    return float(spectra.effective_rank(jnp.asarray(np.linalg.eigvalsh(matrix).clip(0))))


def _few(case: Case, rows: int) -> dict[str, Array]:
    """As many points of every term as make at most so many rows together, but one."""
    whole = ntk.operator(case.problem, case.apply, case.params, case.points)
    each = max(1, rows // sum(n // len(case.points[name]) for name, n in zip(whole.names, whole.sizes, strict=True)))
    return {name: x[:each] for name, x in case.points.items()}


def movement(case: Case, measured: Measured) -> dict[str, Any]:
    """The kernel put to the test: what it predicts of some steps of gradient descent, and how far it moves in them."""
    small = ravel_pytree(case.params)[0].size < SMALL  # Where the programs of `kernel` cost less than further ones.
    few = _few(case, ROWS if small else TEST_ROWS)
    spectrum = spectra.spectrum(ntk.empirical(case.problem, case.apply, case.params, few), case.weights)
    rate = 0.5 * float(spectrum.max_learning_rate)
    predicted = convergence.gradient_descent(spectrum, rate).losses(
        _case.residuals(case.problem, case.field, few), TRIAL_STEPS
    )
    optimizer = optax.sgd(rate)
    advance = training.stepper(case.problem, case.apply, few, optimizer, case.weights)
    start = (case.params, optimizer.init(case.params))
    (params, _), _ = training.follow(advance, lambda _: (), [TRIAL_STEPS])(start)
    after = _case.residuals(case.problem, functools.partial(case.apply, params), few)
    moved = ntk.empirical(case.problem, case.apply, params, few)
    apart = lambda a, b: float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
    straight, bent = jax.jit(functools.partial(_line, case.apply))(case.params, params, case.test)
    return {
        "predicted": {name: float(loss) for name, loss in predicted.items()},
        "measured": {name: rms(r) ** 2 for name, r in after.items()},
        "kernel": {name: apart(moved[name, name], spectrum.kernel[name, name]) for name in predicted},
        "linearisation": over(rms(bent), rms(straight)),
    }  # fmt: skip


def _line(apply: Apply, params: PyTree, moved: PyTree, x: Array) -> tuple[Array, Array]:
    """What a step of the parameters does to the field at ``x``: to first order, and beyond it."""
    at_points = lambda params: jax.vmap(functools.partial(apply, params))(x)
    before, straight = jax.jvp(at_points, (params,), (jax.tree.map(jnp.subtract, moved, params),))
    return straight, at_points(moved) - before - straight


def pulls(case: Case, _: Measured) -> dict[str, Any]:
    """Gradients of the terms, without weights: norms, by layer too, and cosines between terms."""
    found = gradients.by_term(case.problem, case.apply, case.params, case.points)
    return {
        "norms": {name: float(gradients.statistics(g).norm) for name, g in found.items()},
        "layers": {
            name: {layer: rms(part) for layer, part in gradients.by_layer(g).items()} for name, g in found.items()
        },
        "cosines": {pair: float(c) for pair, c in gradients.cosines(found).items() if pair[0] < pair[1]},
    }


def inputs(case: Case, _: Measured) -> dict[str, Any]:
    """The activations over the domain: how far the first ones vary along each axis, and which share is saturated."""
    x = np.asarray(case.test[:256])
    low, high = map(np.asarray, case.problem.domain)
    moved = np.stack([x] * (1 + len(low)))
    for axis in range(len(low)):
        moved[1 + axis, :, axis] = np.roll(x[:, axis], 1)
    layers = _activations.layers(case.apply, case.params, jnp.asarray(moved.reshape(-1, len(low))))
    first, *others = np.split(layers[0].inputs, len(moved))
    vary = [rms(first - other) / np.sqrt(2) for other in others]
    share = lambda layer: float((np.abs(layer.inputs[: len(x)]) > _activations.SATURATION[layer.name]).mean())
    return {
        "first activation varies by": vary, "mean": [float(m) for m in (low + high) / 2],
        "deviation": [float(s) for s in (high - low) / np.sqrt(12)],
        "saturated": [share(layer) if layer.name in _activations.SATURATION else 0.0 for layer in layers],
        "activations": [layer.name for layer in layers],
    }  # fmt: skip


def precision(case: Case, _: Measured) -> dict[str, Any]:
    """Residuals in the precision that was given against float64: the difference relative to the residual."""
    (problem, params, points), x64 = case.given
    dtype = str(ravel_pytree(params)[0].dtype)
    with jax.enable_x64(x64):
        few = {name: x[:256] for name, x in points.items()}
        own = _case.residuals(problem, functools.partial(case.apply, params), few)
        own = {name: np.asarray(r, float) for name, r in own.items()}
    exact = _case.residuals(case.problem, case.field, {name: x[:256] for name, x in case.points.items()})
    share = {name: over(rms(own[name] - np.asarray(r)), rms(r)) for name, r in exact.items()}
    return {"dtype": dtype, "rounding": share}


def step(case: Case, _: Measured) -> dict[str, Any]:
    """The optimiser tried for some steps from here, as it is and with steps a tenth as long: losses on the way."""
    if case.optimizer is None:
        raise ValueError("needs the optimizer, which was not given")

    optimizer = optax.chain(case.optimizer, optax.inject_hyperparams(optax.scale)(step_size=1.0))
    advance = training.stepper(case.problem, case.apply, case.points, optimizer, case.weights)

    def loss(state: tuple) -> Array:
        losses = case.problem.losses(functools.partial(case.apply, state[0]), case.points)
        return sum(case.weights[name] * value for name, value in losses.items())

    steps = np.arange(0, TRIAL_STEPS + 1, TRIAL_STEPS // TRIAL_RECORDS)
    run = training.follow(advance, loss, steps)

    def tried(factor: float) -> np.ndarray:
        first, scale = optimizer.init(case.params)
        scale = scale._replace(hyperparams={"step_size": jnp.asarray(factor)})
        return np.asarray(run((case.params, (first, scale)))[1])

    as_is, tenth = tried(1.0), tried(0.1)
    last = slice(-len(as_is) // 2, None)
    middle = lambda losses: float(np.median(np.nan_to_num(losses[last], nan=np.inf, posinf=np.inf)))
    return {
        "steps": steps, "as it is": as_is, "a tenth": tenth, "ratio": over(middle(as_is), middle(tenth)),
        "learning rate": _learning_rate(case), "moves": _first_step(case),
        "fall": float(over(as_is[0], middle(as_is))),
    }  # fmt: skip


def _first_step(case: Case) -> float:
    """How far one step of the optimiser, begun anew, moves the field, relative to its size.

    Of an optimiser whose steps are as long for any gradient (Adam's first) the step for an arbitrary one counts too:
    where a step that was too long has left a network, the gradient may be zero.
    """
    start = (case.params, case.optimizer.init(case.params))
    after, _ = jax.jit(training.stepper(case.problem, case.apply, case.points, case.optimizer, case.weights))(start)
    tried, g = [after], _some_gradient(case.params)
    one, large = (
        case.optimizer.update(jax.tree.map(lambda x, c=c: c * x, g), start[1], case.params)[0] for c in (1, 9)
    )
    if rms(ravel_pytree(large)[0]) < 1.01 * rms(ravel_pytree(one)[0]):
        tried.append(optax.apply_updates(case.params, one))
    u = of_field(case.field, case.test)
    moved = [rms(of_field(functools.partial(case.apply, params), case.test) - u) for params in tried]
    return over(max(moved), rms(u))


def _some_gradient(params: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape), params)


def _learning_rate(case: Case) -> float | None:
    """Of plain gradient descent; None for any other optimiser."""
    g = _some_gradient(case.params)
    update = case.optimizer.update(g, case.optimizer.init(case.params), case.params)[0]
    a, b = ravel_pytree(g)[0], ravel_pytree(update)[0]
    along = -float(jnp.vdot(a, b) / jnp.vdot(a, a))
    return along if float(jnp.abs(b + along * a).max()) < 1e-12 * abs(along) else None


def hessian(case: Case, _: Measured) -> dict[str, Any]:
    """Both ends of the spectrum of the Hessian of the weighted loss, and the largest stable step of descent."""
    product = curvature.matvecs(case.problem, case.apply, case.params, case.points, weights=case.weights).whole
    ends = spectra.extreme_eigenvalues(product, case.params, key=jax.random.key(0), num_matvecs=24)
    largest = float(ends.largest)
    return {
        "smallest": float(ends.smallest), "largest": largest,
        "largest step": 2 / largest if largest > 0 else np.inf,
    }  # fmt: skip


def points(case: Case, measured: Measured) -> dict[str, Any]:
    """What the training's points leave open: residuals beside them, and the reference solved on them alone."""
    gap = {
        name: over(measured["residuals"]["held_out"][name], r) for name, r in measured["residuals"]["training"].items()
    }
    found: dict[str, Any] = {"gap": gap, "counts": {name: len(x) for name, x in case.points.items()}}
    if max(gap.values()) > 3:
        problem, cover, _ = with_hard_constraints(case, measured["output"])
        x = {name: case.points.get(name, cover[name])[: 2 * MORE] for name in problem.conditions}
        solution = solving.least_squares(
            problem, tangent(features(case), measured["reference"]["scale"], 0), x, held_out=cover, steps=15
        )
        u = measured["reference"]["field"]
        found["reference on them"] = rms(of_field(solution.field, case.test) - u) / measured["reference"]["size"]
    return found


#: Name, function; in the order of what matters.
MEASUREMENTS: dict[str, Callable[[Case, Measured], dict[str, Any]]] = {
    "residuals": residuals,
    "output": output,
    "reference": reference,
    "error": error,
    "substitution": substitution,
    "sweep": sweep,
    "kernel": kernel,
    "inputs": inputs,
    "precision": precision,
    "points": points,
    "step": step,
    "movement": movement,
    "gradients": pulls,
    "hessian": hessian,
}
#: Of the problem and of its training: in each what needs what, and nothing of the other.
LANES = (
    ("residuals", "output", "reference", "error", "substitution", "points"),
    ("kernel", "step", "inputs", "precision", "gradients", "sweep", "movement", "hessian"),
)
