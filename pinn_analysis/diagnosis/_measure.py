"""What is measured: each a function of the case, and of what was measured before, to numbers and arrays.

Shapes: ``n`` rows of all terms together, ``d`` inputs.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from pinn_analysis import convergence, curvature, gradients, ntk, problems, solving, spectra, training
from pinn_analysis.diagnosis import _activations
from pinn_analysis.networks import linearized, mlp, standardized
from pinn_analysis.operators import Field, identity, partial
from pinn_analysis.problems import Apply, Condition, Problem, box, faces

ROWS = 800  # Of a kernel that is diagonalised.
READINGS = 256  # Of a term of measurements, in the reference.
TEST = 512  # Points at which fields are compared.
FEATURES = {1: 200}  # Parameters of the reference, by dimension; MORE in others.
MORE = 500
SCALES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
RESOLVED = 1e-4  # An estimate of the reference's error with which no finer one is tried.
TRIAL_STEPS = 200
HARD = 1e-12  # Of the largest entry of the output's kernel: where a network cannot move at all.
Measured = Mapping[str, dict[str, Any]]


class Case(NamedTuple):
    """What is diagnosed, in float64.

    Attributes:
        problem: the trained terms.
        apply: the network.
        params: its parameters.
        points: of the training.
        held_out: points that the training has not seen, at most as many.
        test: where fields are compared, ``(TEST, d)``.
        weights: loss weights in use.
        optimizer: in use, if known.
        solution: if known.
        given: problem, parameters and points as they were given, in their own precision.
    """

    problem: Problem
    apply: Apply
    params: PyTree
    points: dict[str, Array]
    held_out: dict[str, Array]
    test: Array
    weights: dict[str, float]
    optimizer: optax.GradientTransformation | None
    solution: Field | None
    given: tuple[Any, Any]

    @property
    def field(self) -> Field:
        """The network with its parameters."""
        return functools.partial(self.apply, self.params)


def rms(x: Any) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(np.asarray(x, float)))))


def values(field: Field, x: Array) -> np.ndarray:
    """``(n, m)``."""
    return np.asarray(jax.jit(jax.vmap(field))(x)).reshape(len(x), -1)


def residuals(case: Case, _: Measured) -> dict[str, Any]:
    """Residuals without weights: root mean squares on the training's points and on held-out ones, by term."""
    found = {}
    for where, points in (("training", case.points), ("held_out", case.held_out)):
        of_all = jax.jit(lambda points: case.problem.residuals(case.field, points))(points)
        found[where] = {name: rms(r) for name, r in of_all.items()}
    return found


def output(case: Case, _: Measured) -> dict[str, Any]:
    """Where the network can move: the diagonal of the kernel of its output, over the domain and on its faces."""
    low, high = case.problem.domain
    on_faces = faces(low, high)(jax.random.key(7), 16 * len(low))
    everywhere, edge = (_moves(case, identity, x) for x in (case.test, on_faces))
    largest = everywhere.max()
    periodic = [axis for axis in range(len(low)) if _is_periodic(case, axis, largest)]
    fixed = np.asarray(on_faces)[edge < HARD * largest]
    return {
        "diagonal": everywhere, "share that moves": float((everywhere > 1e-4 * largest).mean()),
        "fixed points": fixed, "periodic axes": periodic,
    }  # fmt: skip


def _is_periodic(case: Case, axis: int, largest: float) -> bool:
    """Whether both ends of an axis are one place to the network, and two places between them are not."""
    low, high = (float(corner[axis]) for corner in case.problem.domain)
    x, size = case.test[:32], high - low
    ends, inside = _Across(axis, low, high), _Across(axis, low + 0.13 * size, high - 0.29 * size)
    return bool(_moves(case, ends, x).max() < HARD * largest and _moves(case, inside, x).max() > 1e-6 * largest)


@dataclasses.dataclass(frozen=True)
class _Across:
    """``u`` at one end of an axis less ``u`` at the other, and the same of its slope."""

    axis: int
    low: float
    high: float

    def __call__(self, u: Field) -> Field:
        slope = partial(self.axis)(u)
        ends = lambda x: (x.at[self.axis].set(self.low), x.at[self.axis].set(self.high))
        return lambda x: jnp.stack([jnp.ravel(f(ends(x)[0]) - f(ends(x)[1])) for f in (u, slope)]).ravel()


def _moves(case: Case, operator: Callable, x: Array) -> np.ndarray:
    """``‖∂L u(x)/∂θ‖²`` of each point."""
    target = lambda y: jnp.zeros(jax.eval_shape(operator(case.field), y).shape)
    alone = case.problem._replace(conditions={"u": Condition(operator, target, box(*case.problem.domain))})
    return np.asarray(ntk.operator(alone, case.apply, case.params, {"u": x}).diagonal()).reshape(len(x), -1).sum(1)


def reference(case: Case, measured: Measured) -> dict[str, Any]:
    """The problem solved without training, twice: fields on the test points, how sure, how far the network is off.

    One hidden layer of sines, linearised, begun at zero and, with other features, at a random field: where the problem
    has one solution, both find it (`solving.least_squares`).  A step of least squares leaves what no term can see as it
    was.  What the network cannot help doing (hard constraints) is made part of the problem.
    """
    problem, points = _with_hard_constraints(case, measured["output"])
    held_out = problem.sample(jax.random.key(3), {name: len(x) for name, x in points.items()})
    network, best = _sines(case), None
    for scale in SCALES:
        solution = _solved(problem, network, points, held_out, scale, 0)
        if best is None or solution.error_estimate < best[0].error_estimate:
            best = solution, scale
        if best[0].error_estimate < RESOLVED:
            break
    first, scale = best
    second = _solved(problem, network, points, held_out, scale, 1)
    u, v, here = (values(f, case.test) for f in (first.field, second.field, case.field))
    size = max(rms(u), np.finfo(float).tiny)
    found = {
        "estimate": max(first.error_estimate, second.error_estimate), "scale": scale, "size": size, "field": u,
        "disagreement": rms(u - v) / size, "distance": rms(here - u) / size,
        "units": _units(problem, network, scale, points, case.test), "difference": here - u,
        "residuals": {name: rms(r) for name, r in first.residuals.items()},
    }  # fmt: skip
    if found["estimate"] > 1e-3:
        found["without"] = {
            name: _without(name, problem, network, points, held_out, scale) for name in case.problem.conditions
        }
    return found


def _without(name: str, problem: Problem, network, points: dict, held_out: dict, scale: float) -> dict[str, float]:
    """Solved without a term, with two seeds: the error, the disagreement, and how badly the term is met then."""
    rest = [other for other in problem.conditions if other != name]
    if not rest:
        return {"estimate": np.inf, "disagreement": np.inf, "residual": np.inf}
    fewer = problem.only(*rest)
    chosen, judged = ({other: x[other] for other in rest} for x in (points, held_out))
    one, two = (_solved(fewer, network, chosen, judged, scale, seed) for seed in (0, 1))
    u, v = (values(f.field, points[name][:, : len(problem.domain[0])]) for f in (one, two))
    r = jax.jit(lambda x: problem.only(name).residuals(one.field, {name: x}))(points[name])[name]
    return {
        "estimate": max(one.error_estimate, two.error_estimate), "residual": rms(r),
        "disagreement": rms(u - v) / max(rms(u), 1e-300),
    }  # fmt: skip


def _with_hard_constraints(case: Case, output: Mapping[str, Any]) -> tuple[Problem, dict[str, Array]]:
    """The problem, with what the network meets by construction as further terms; and points that cover it."""
    conditions, d = dict(case.problem.conditions), len(case.problem.domain[0])
    if len(output["fixed points"]):
        x = jnp.asarray(output["fixed points"])
        u = jax.vmap(case.field)(x)
        conditions["hard constraint"] = problems.data(x, u[:, 0] if u.ndim == 2 and u.shape[1] == 1 else u)
    for axis in output["periodic axes"]:
        low, high = (float(corner[axis]) for corner in case.problem.domain)
        zero = jnp.zeros(2 * max(1, jax.eval_shape(case.field, case.test[0]).size))
        conditions[f"period of axis {axis}"] = Condition(
            _Across(axis, low, high), lambda x, zero=zero: zero, faces(*case.problem.domain, (axis, 0))
        )
    problem = case.problem._replace(conditions=conditions)
    inside = int(1.25 * FEATURES.get(d, MORE)) // _components(case)
    drawn = problem.sample(jax.random.key(11), {name: 4 * inside for name in conditions})
    low, high = case.problem.domain
    points = {}
    for name, x in drawn.items():
        spans = np.ptp(np.asarray((x[:, :d] - low) / (high - low)), axis=0) > 1e-9
        dimensions = int(spans.sum())
        share = inside if dimensions == d else max(2, inside // 6) if dimensions else 2 * d
        if problem.conditions[name].values:
            x = jnp.asarray(np.unique(np.asarray(x), axis=0))
            share = len(x) if len(x) <= READINGS else READINGS
            x = jax.random.permutation(jax.random.key(13), x)
        points[name] = x[:share]
    return problem, points


def _components(case: Case) -> int:
    return max(1, jax.eval_shape(case.field, case.test[0]).size)


def _sines(case: Case):
    d, m = len(case.problem.domain[0]), _components(case)
    layers = mlp((d, FEATURES.get(d, MORE) // (d + 1 + m), m), "sin", parameterization="ntk", bias_std=1.0)
    return standardized(layers, *case.problem.domain)


def _tangent(network, scale: float, seed: int):
    first, last = network.init(jax.random.key(seed))
    return linearized(network, [first | {"weight": scale * first["weight"]}, last], centered=True)


def _solved(problem: Problem, network, points: dict, held_out: dict, scale: float, seed: int) -> solving.Solution:
    """Begun at the field that is zero for seed 0, and at a random one for any other."""
    tangent, key = _tangent(network, scale, seed), jax.random.key(100 + seed)
    flat, unravel = ravel_pytree(tangent.init(key))
    start = unravel(flat + min(seed, 1) * jax.random.normal(key, flat.shape))
    return solving.least_squares(problem, tangent, points, params=start, held_out=held_out, steps=15)


def _units(problem: Problem, network, scale: float, points: dict, x: Array) -> dict[str, float]:
    """Residual of each term for a field of size one that varies as the solution does."""
    params = _tangent(network, scale, 0).init(jax.random.key(0))
    norms = {
        name: rms(np.sqrt(ntk.operator(problem.only(name), network.apply, params, {name: points[name]}).diagonal()))
        for name in problem.conditions
    }
    zero = lambda y: jnp.zeros(jax.eval_shape(functools.partial(network.apply, params), y).shape)
    alone = problem._replace(conditions={"u": Condition(identity, zero, box(*problem.domain))})
    one = rms(np.sqrt(ntk.operator(alone, network.apply, params, {"u": x[:128]}).diagonal()))
    return {name: norm / one for name, norm in norms.items()}


def error(case: Case, measured: Measured) -> dict[str, Any]:
    """Relative error of the network: against the known solution, or else against the reference."""
    if case.solution is not None:
        x = problems.test_points(case.problem) if case.problem.test is not None else case.test
        exact, here = values(case.solution, x), values(case.field, x)
        return {"relative": rms(here - exact) / max(rms(exact), 1e-300), "against": "the known solution"}
    found = measured["reference"]
    if found["estimate"] > 0.03 or found["disagreement"] > 0.03:
        raise ValueError("no solution is known, and the reference is not sure enough")
    return {"relative": found["distance"], "against": "the problem solved without training"}


def substitution(case: Case, measured: Measured) -> dict[str, Any]:
    """The known solution put into every term: what is left, relative to what an error of 100 % would leave."""
    if case.solution is None:
        raise ValueError("needs the solution, which is not known")
    size = rms(values(case.solution, case.test))
    left = {}
    for name in case.problem.conditions:
        alone, x = case.problem.only(name), {name: case.held_out[name]}
        r = jax.jit(lambda x, alone=alone: alone.residuals(case.solution, x))(x)[name]
        left[name] = rms(r) / (measured["reference"]["units"][name] * size)
    of_values = {name: _of_values(c, case) for name, c in case.problem.conditions.items()}
    return {"left": left, "of values": of_values, "coefficients": _coefficients(case)}


def _of_values(condition: Condition, case: Case) -> bool:
    """Whether a term is about values of the field at single points, and no equation."""
    if condition.values:
        return True
    x = case.test[0]
    bump = lambda y: case.field(y) + jnp.sum((y - x) * jnp.arange(1.0, y.size + 1)) + jnp.sum((y - x) ** 2)
    return bool(jnp.allclose(condition.operator(bump)(x), condition.operator(case.field)(x)))


def _coefficients(case: Case) -> dict[str, tuple[float, float]]:
    """Numbers in an operator as they are and as they fit the solution, for operators that are pytrees of one number."""
    found = {}
    for name, condition in case.problem.conditions.items():
        leaves, tree = jax.tree.flatten(condition.operator)
        if len(leaves) != 1 or callable(leaves[0]) or np.ndim(leaves[0]):
            continue

        def left(c, name=name, condition=condition, tree=tree):
            changed = condition._replace(operator=jax.tree.unflatten(tree, [c]))
            alone = case.problem._replace(conditions={name: changed})
            return alone.residuals(case.solution, {name: case.held_out[name]})[name]

        @jax.jit
        def gauss_newton(c, left=left):
            slope = jax.jacfwd(left)(c)
            return c - jnp.vdot(slope, left(c)) / jnp.sum(slope**2)

        c = jnp.asarray(leaves[0], float)
        for _ in range(20):
            c = gauss_newton(c)
        if rms(left(c)) < 0.1 * rms(left(jnp.asarray(leaves[0], float))):
            found[name] = (float(leaves[0]), float(c))
    return found


def kernel(case: Case, _: Measured) -> dict[str, Any]:
    """The kernel: rates, effective ranks; with the weights in use and balanced, predicted steps and slow modes."""
    names = tuple(case.problem.conditions)
    whole = ntk.operator(case.problem, case.apply, case.params, case.points)
    rates = {name: float(rate) for name, rate in convergence.rates(whole).items()}
    each = max(1, ROWS // sum(whole.sizes[i] // len(case.points[name]) for i, name in enumerate(names)))
    few = {name: x[:each] for name, x in case.points.items()}
    matrix = ntk.empirical(case.problem, case.apply, case.params, few)
    r = case.problem.residuals(case.field, few)
    balanced = {name: max(rates.values()) / max(rate, 1e-300) for name, rate in rates.items()}
    found: dict[str, Any] = {
        "rates": rates, "weights": balanced, "rows": matrix.matrix.shape[0],
        "effective rank": {
            name: float(spectra.effective_rank(jnp.maximum(jnp.linalg.eigvalsh(matrix[name, name]), 0)))
            for name in names
        },
    }  # fmt: skip
    for which, weights in (("in use", case.weights), ("balanced", balanced)):
        spectrum = spectra.spectrum(matrix, weights)
        step = 0.5 * float(spectrum.max_learning_rate)
        amplitudes = np.asarray(spectrum.amplitudes(r)) ** 2
        left = np.asarray(1 - 2 * step * spectrum.values) ** 10_000
        found[which] = {
            "largest step": 2 * step,
            "steps to 10 %": convergence.steps_to(spectrum, r, 0.1, learning_rate=step),
            "steps to 1 %": convergence.steps_to(spectrum, r, 0.01, learning_rate=step),
            "slow share": float((amplitudes * left**2).sum() / max(amplitudes.sum(), 1e-300)),
            "left after 10,000 steps": {
                name: rms(part) for name, part in spectrum.evolve(r, jnp.asarray(left), jnp.zeros(left.size)).items()
            },
            "eigenvalues": np.asarray(spectrum.values)[::-1],
        }
    flat = {name: np.asarray(part) for name, part in r.items()}
    dots = {
        (a, b): flat[a] @ np.asarray(matrix[a, b]) @ flat[b] / (len(flat[a]) * len(flat[b]))
        for a in names for b in names
    }  # fmt: skip
    found["cosines"] = {
        (a, b): float(dots[a, b] / np.sqrt(max(dots[a, a] * dots[b, b], 1e-300))) for a in names for b in names if a < b
    }
    return found


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
    x = case.test[:256]
    layers = _activations.layers(case.apply, case.params, x)
    low, high = case.problem.domain
    vary = []
    for axis in range(len(low)):
        moved = x.at[:, axis].set(jnp.roll(x[:, axis], 1))
        other = _activations.layers(case.apply, case.params, moved)[0].inputs
        vary.append(rms(layers[0].inputs - other) / np.sqrt(2))
    share = lambda layer: float((np.abs(layer.inputs) > _activations.SATURATION[layer.name]).mean())
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
        own = problem.residuals(functools.partial(case.apply, params), few)
        own = {name: np.asarray(r, float) for name, r in own.items()}
    exact = case.problem.residuals(case.field, {name: x[:256] for name, x in case.points.items()})
    share = {name: rms(own[name] - np.asarray(r)) / max(rms(r), 1e-300) for name, r in exact.items()}
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

    run = training.follow(advance, loss, range(0, TRIAL_STEPS + 1, TRIAL_STEPS // 20))

    def tried(factor: float) -> np.ndarray:
        first, scale = optimizer.init(case.params)
        scale = scale._replace(hyperparams={"step_size": jnp.asarray(factor)})
        return np.asarray(run((case.params, (first, scale)))[1])

    as_is, tenth = tried(1.0), tried(0.1)
    last = slice(-len(as_is) // 2, None)
    middle = lambda losses: float(np.median(np.nan_to_num(losses[last], nan=np.inf, posinf=np.inf)))
    return {
        "as it is": as_is, "a tenth": tenth, "ratio": middle(as_is) / max(middle(tenth), 1e-300),
        "learning rate": _learning_rate(case), "moves": _first_step(case),
        "fall": float(as_is[0] / max(middle(as_is), 1e-300)),
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
    u = values(case.field, case.test)
    moved = [rms(values(functools.partial(case.apply, params), case.test) - u) for params in tried]
    return max(moved) / max(rms(u), 1e-300)


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
        name: measured["residuals"]["held_out"][name] / max(r, 1e-300)
        for name, r in measured["residuals"]["training"].items()
    }
    found: dict[str, Any] = {"gap": gap, "counts": {name: len(x) for name, x in case.points.items()}}
    if max(gap.values()) > 3:
        problem, cover = _with_hard_constraints(case, measured["output"])
        x = {name: case.points.get(name, cover[name])[: 2 * MORE] for name in problem.conditions}
        solution = solving.least_squares(
            problem, _tangent(_sines(case), measured["reference"]["scale"], 0), x, held_out=cover, steps=15
        )
        u = measured["reference"]["field"]
        found["reference on them"] = rms(values(solution.field, case.test) - u) / measured["reference"]["size"]
    return found


#: Name, function; in the order of what matters, and of what needs what.
MEASUREMENTS: dict[str, Callable[[Case, Measured], dict[str, Any]]] = {
    "residuals": residuals,
    "output": output,
    "reference": reference,
    "error": error,
    "substitution": substitution,
    "kernel": kernel,
    "inputs": inputs,
    "precision": precision,
    "points": points,
    "step": step,
    "gradients": pulls,
    "hessian": hessian,
}
