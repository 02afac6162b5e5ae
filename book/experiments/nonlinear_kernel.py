"""The kernel of nonlinear problems: random at the start, moving, and predicted all the same.

    python book/experiments/nonlinear_kernel.py [--seeds 48] [--runs 2] [--steps 500] [--widths 64 256 ...]

For chapter 18.  Klein-Gordon with and without its cube, and Burgers, one hidden layer.  The residual is a
pointwise function ``F(z)`` of a few *linear* functionals ``z`` of the network (`Lifted`), whose
kernel ``Θ`` is an ordinary one: constant in the limit.  From it, in the limit,

    K = F' Θ F'ᵀ,      z ← z - η Θ ∇ℓ(z),      nonzero eigenvalues of ∇²L: those of Θ ∇²ℓ(z),

with ``ℓ(z) = Σ_i mean((F_i(z) - f_i)²)``; all three are measured against networks by width.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from pinn_analysis import Condition, Problem, curvature, networks, ntk, results, spectra
from pinn_analysis.operators import Field, Operator, identity, partial
from pinn_analysis.problems import box, faces
from pinn_analysis.training import follow

from runs import command_line, descent

WIDTHS = (64, 256, 1024, 4096)
WIDEST_TRAINED = 1024
SIZES = {"boundary": 8, "initial": 8, "initial_velocity": 8, "residual": 24}
NU = 0.05  # Burgers' viscosity.
BIAS_STD = 0.5
FRACTION = 0.5  # Of the stable step at a random field, the 95th percentile of its largest eigenvalues.
DRAWS = 4000  # Fields of the Gaussian process.
SNAPSHOTS = 40
MATVECS = 16


class Lifted(NamedTuple):
    """A nonlinear problem as a function of linear functionals of the field.

    Attributes:
        problem: the nonlinear one.
        points: of its conditions.
        linear: the functionals, "value", "slope", "velocity", "linear", with target zero.
        where: their points.
        rows: ``z -> F(z)``, both dicts of rows by name.
    """

    problem: Problem
    points: dict
    linear: Problem
    where: dict
    rows: Callable


def klein_gordon(gamma: float | int) -> Lifted:
    """``u_tt - u_xx + γ u³ = f``, ``u = x cos πt + (xt)³``, on ``[0, 1]²``."""

    def solution(x: jax.Array) -> jax.Array:
        return x[0] * jnp.cos(jnp.pi * x[1]) + (x[0] * x[1]) ** 3

    def linear(u: Field) -> Field:
        u_xx, u_tt = partial(0, 0)(u), partial(1, 1)(u)
        return lambda x: u_tt(x) - u_xx(x)

    def operator(u: Field) -> Field:
        left = linear(u)
        return lambda x: left(x) + gamma * u(x) ** 3

    low, high = jnp.zeros(2), jnp.ones(2)
    start = faces(low, high, (1, 0))
    conditions = {
        "boundary": Condition(identity, solution, faces(low, high, (0, 0), (0, 1))),
        "initial": Condition(identity, solution, start),
        "initial_velocity": Condition(partial(1), zero, start),
        "residual": Condition(operator, operator(solution), box(low, high)),
    }
    problem = Problem("klein_gordon", conditions, (low, high), solution)

    def rows(z: dict) -> dict:
        boundary, initial, u = values(z)
        return {
            "boundary": boundary, "initial": initial, "initial_velocity": z["velocity"],
            "residual": z["linear"] + gamma * u**3,
        }  # fmt: skip

    return lift(problem, {"velocity": (partial(1), "initial_velocity"), "linear": (linear, "residual")}, rows)


def burgers() -> Lifted:
    """``u_t + u u_x = ν u_xx`` on ``[-1, 1] x [0, 1]``, ``u(x, 0) = -sin πx``, ``u(±1, t) = 0``."""

    def linear(u: Field) -> Field:
        u_t, u_xx = partial(1)(u), partial(0, 0)(u)
        return lambda x: u_t(x) - NU * u_xx(x)

    def operator(u: Field) -> Field:
        left, u_x = linear(u), partial(0)(u)
        return lambda x: left(x) + u(x) * u_x(x)

    low, high = jnp.array([-1.0, 0.0]), jnp.ones(2)
    conditions = {
        "boundary": Condition(identity, zero, faces(low, high, (0, 0), (0, 1))),
        "initial": Condition(identity, lambda x: -jnp.sin(jnp.pi * x[0]), faces(low, high, (1, 0))),
        "residual": Condition(operator, zero, box(low, high)),
    }

    def rows(z: dict) -> dict:
        boundary, initial, u = values(z)
        return {"boundary": boundary, "initial": initial, "residual": z["linear"] + u * z["slope"]}

    more = {"slope": (partial(0), "residual"), "linear": (linear, "residual")}
    return lift(Problem("burgers", conditions, (low, high)), more, rows)


def zero(x: jax.Array) -> jax.Array:
    return jnp.zeros((), x.dtype)


def values(z: dict) -> list[jax.Array]:
    """Values at the points of the boundary, of the initial condition and of the residual."""
    return jnp.split(z["value"], np.cumsum([SIZES["boundary"], SIZES["initial"]]), -1)


def lift(problem: Problem, more: dict[str, tuple[Operator, str]], rows: Callable) -> Lifted:
    points = problem.sample(jax.random.key(0), {name: SIZES[name] for name in problem.conditions})
    everywhere = jnp.concatenate([points[name] for name in ("boundary", "initial", "residual")])
    where = {"value": everywhere} | {name: points[term] for name, (_, term) in more.items()}
    conditions = {"value": Condition(identity, zero, None)}
    conditions |= {name: Condition(operator, zero, None) for name, (operator, _) in more.items()}
    return Lifted(problem, points, Problem(f"{problem.name}, lifted", conditions, problem.domain), where, rows)


class Limit(NamedTuple):
    """What the limit says of a lifted problem; ``z`` is one vector over all functionals."""

    theta: ntk.KernelBlocks
    share: jax.Array  # 1 / n_i, of each row
    residuals: Callable  # z -> residuals of all terms, each over √n_i: their squares add up to ℓ(z)
    kernel: Callable  # z -> F' Θ F'ᵀ
    norms: Callable  # z -> largest |eigenvalue| of the Gauss-Newton part and of the rest


def limit(case: Lifted, theta: ntk.KernelBlocks) -> Limit:
    names = list(case.problem.conditions)
    targets = jnp.concatenate([jax.vmap(case.problem.conditions[name].target)(case.points[name]) for name in names])
    share = jnp.concatenate([jnp.full(len(case.points[name]), 1 / len(case.points[name])) for name in names])

    def rows(z: jax.Array) -> jax.Array:
        by_term = case.rows(theta.split(z))
        return jnp.concatenate([by_term[name] for name in names])

    def residuals(z: jax.Array) -> jax.Array:
        return jnp.sqrt(share) * (rows(z) - targets)

    def kernel(z: jax.Array) -> jax.Array:
        jacobian = jax.jacobian(rows)(z)
        return jacobian @ theta.matrix @ jacobian.T

    def norms(z: jax.Array) -> jax.Array:
        jacobian = jax.jacobian(rows)(z)
        gauss_newton = 2 * jacobian.T @ (share[:, None] * jacobian)
        rest = jax.hessian(lambda z: jnp.sum(residuals(z) ** 2))(z) - gauss_newton
        values, vectors = jnp.linalg.eigh(theta.matrix)
        root = vectors * jnp.sqrt(jnp.maximum(values, 0))  # root rootᵀ = Θ
        return jnp.stack([jnp.abs(jnp.linalg.eigvalsh(root.T @ a @ root)).max() for a in (gauss_newton, rest)])

    return Limit(theta, share, residuals, jax.jit(kernel), jax.jit(norms))


def network(width: int) -> networks.Network:
    return networks.mlp((2, width, 1), parameterization="ntk", bias_std=BIAS_STD)


def functionals(case: Lifted, apply: Callable, params: list) -> jax.Array:
    """``z`` of a network."""
    return jnp.concatenate(list(case.linear.residuals(functools.partial(apply, params), case.where).values()))


def random_fields(case: Lifted, covariance: ntk.KernelBlocks, theta: ntk.KernelBlocks) -> jax.Array:
    """Draws of what ``F'`` depends on, ``(DRAWS, len(z))``; the linear parts do not matter and are zero."""
    factor = jnp.linalg.cholesky(covariance.matrix + 1e-9 * jnp.eye(len(covariance.matrix)))
    parts = covariance.split(jax.random.normal(jax.random.key(1), (DRAWS, len(factor))) @ factor.T)
    return jnp.concatenate(
        [parts.get(name, jnp.zeros((DRAWS, n))) for name, n in zip(theta.names, theta.sizes, strict=True)], -1
    )


def residual_block(kernel: jax.Array) -> jax.Array:
    return kernel[..., -SIZES["residual"] :, -SIZES["residual"] :]


def spread(kernels: jax.Array) -> jax.Array:
    """Standard deviation over the mean, of the matrix as a whole, in the Frobenius norm."""
    return jnp.sqrt(jnp.sum(jnp.var(kernels, 0, ddof=1)) / jnp.sum(jnp.mean(kernels, 0) ** 2))


def relative(a: jax.Array, b: jax.Array) -> jax.Array:
    """``‖a - b‖ / ‖b‖``, Frobenius, of the last two axes."""
    return jnp.linalg.norm(a - b, axis=(-2, -1)) / jnp.linalg.norm(b, axis=(-2, -1))


def observe(case: Lifted, width: int) -> Callable:
    """``params -> (kernel, z)`` of a network."""
    apply = network(width).apply

    def both(params: list) -> tuple[jax.Array, jax.Array]:
        kernel = ntk.empirical(case.problem, apply, params, case.points, method="jacobian")
        return kernel.matrix, functionals(case, apply, params)

    return jax.jit(both)


def at_start(case: Lifted, told: Limit, width: int, look: Callable, seeds: int) -> dict[str, jax.Array]:
    """Spread of the residual block over seeds; its distance to the limit at each network's own field."""
    init = jax.jit(network(width).init)
    kernels, z = (jnp.stack(each) for each in zip(*(look(init(jax.random.key(s))) for s in range(seeds)), strict=True))
    return {
        "spread": spread(residual_block(kernels)),
        "own_field": relative(jax.vmap(told.kernel)(z), kernels),
        "largest": jnp.linalg.eigvalsh(residual_block(kernels))[:, -1],
    }


def limit_run(told: Limit, rate: float, at: np.ndarray) -> Callable:
    """Gradient descent of the infinitely wide network, ``z -> (z at the end, residuals)``."""
    gradient = jax.grad(lambda z: jnp.sum(told.residuals(z) ** 2))
    return follow(lambda z: z - rate * told.theta.matrix @ gradient(z), told.residuals, at)


def trained(
    case: Lifted, told: Limit, width: int, look: Callable, seeds: int, rate: float, at: np.ndarray, in_limit: Callable
) -> dict[str, np.ndarray]:
    """Gradient descent of networks, and of the limit from the same initial ``z``."""
    apply, init = network(width).apply, jax.jit(network(width).init)

    def norms(params: list, kernel: jax.Array) -> list[float]:
        product = curvature.matvecs(case.problem, apply, params, case.points, part="rest").whole
        ends = spectra.extreme_eigenvalues(product, params, key=jax.random.key(0), num_matvecs=MATVECS)
        return [2 * float(top(kernel, told.share)), max(abs(float(ends.smallest)), abs(float(ends.largest)))]

    step = descent(case.problem, apply, case.points, rate)
    run = follow(step, lambda params: told.residuals(functionals(case, apply, params)), at)
    found = {}
    for seed in range(seeds):
        params = init(jax.random.key(seed))
        last, r = run(params)
        (kernel, z), (kernel_last, z_last) = look(params), look(last)
        z_told, r_told = in_limit(z)
        fields = (z, z_last if case.problem.solution is None else exact(case))
        later = jnp.stack([constant(told, field, r, rate, at) for field in fields])
        record = {
            "change": relative(kernel_last, kernel),
            "told_change": relative(told.kernel(z_told), told.kernel(z)),
            "norms": [norms(params, kernel), norms(last, kernel_last)],
            "told_norms": [told.norms(z), told.norms(z_told)],
            "loss": jnp.sum(r**2, -1),
            "told_loss": jnp.sum(r_told**2, -1),
            "error": jnp.linalg.norm(r - r_told, axis=-1).max() / jnp.linalg.norm(r[0]),
            "late": jnp.sum(later**2, -1),
            "late_error": jnp.linalg.norm(later - r[late(at) :], axis=-1) / jnp.linalg.norm(r[late(at)]),
        }
        for name, value in record.items():
            found.setdefault(name, []).append(np.asarray(value))
    return {name: np.array(values) for name, values in found.items()}


def top(kernel: jax.Array, share: jax.Array) -> jax.Array:
    """Largest eigenvalue of ``D^½ K D^½``; steps below its inverse are stable."""
    root = jnp.sqrt(share)
    return jnp.linalg.eigvalsh(root[:, None] * kernel * root)[-1]


def exact(case: Lifted) -> jax.Array:
    """``z`` of the exact solution."""
    return jnp.concatenate(list(case.linear.residuals(case.problem.solution, case.where).values()))


def constant(told: Limit, z: jax.Array, r: jax.Array, rate: float, at: np.ndarray) -> jax.Array:
    """Residuals from a tenth of a run on, if the kernel were that at ``z`` from there."""
    root = jnp.sqrt(told.share)
    values, vectors = jnp.linalg.eigh(root[:, None] * told.kernel(z) * root)
    middle = late(at)
    steps = jnp.asarray(at[middle:] - at[middle])[:, None]
    return ((1 - 2 * rate * values) ** steps * (vectors.T @ r[middle])) @ vectors.T


def late(at: np.ndarray) -> int:
    """The snapshot at a tenth of the run."""
    return int(np.searchsorted(at, at[-1] / 10))


CASES = {"linear": lambda: klein_gordon(0.0), "klein_gordon": lambda: klein_gordon(1.0), "burgers": burgers}


class Prepared(NamedTuple):
    """What the runs of a case have in common: the limit, random fields, and the step that they allow."""

    case: Lifted
    limit: Limit
    fields: jax.Array
    stiffness: jax.Array
    rate: float


@functools.cache
def prepared(name: str) -> Prepared:
    case, kernel_fn = CASES[name](), network(1).kernel_fn
    theta = ntk.infinite(case.linear, kernel_fn, case.where)
    # The same operators on the other kernel: the covariance of the initial field.
    shown = {k: c for k, c in case.linear.conditions.items() if k in ("value", "slope")}
    field = case.linear._replace(conditions=shown)
    covariance = ntk.infinite(field, lambda x, y, _: kernel_fn(x, y, "nngp"), {k: case.where[k] for k in shown})
    told = limit(case, theta)
    fields = random_fields(case, covariance, theta)
    stiff = jax.lax.map(lambda z: top(told.kernel(z), told.share), fields[:1000])
    return Prepared(case, told, fields, stiff, FRACTION / float(jnp.quantile(stiff, 0.95)))


observed = functools.cache(lambda name, width: observe(prepared(name).case, width))


@functools.cache
def in_limit(name: str, steps: int) -> Callable:
    return limit_run(prepared(name).limit, prepared(name).rate, snapshots(steps))


def snapshots(steps: int) -> np.ndarray:
    return np.insert(np.unique(np.geomspace(1, steps, SNAPSHOTS).astype(int)), 0, 0)


def make(config: dict) -> dict[str, np.ndarray]:
    name, kind = config["case"], config["kind"]
    case, told, fields, stiff, rate = prepared(name)
    if kind == "limit":
        kernels = jax.lax.map(lambda z: residual_block(told.kernel(z)), fields)
        found = {"spread": spread(kernels), "stiffness": stiff, "rate": rate}
    elif kind == "start":
        found = at_start(case, told, config["width"], observed(name, config["width"]), config["seeds"])
    else:
        at, look = snapshots(config["steps"]), observed(name, config["width"])
        told_run = in_limit(name, config["steps"])
        found = {"at": at} | trained(case, told, config["width"], look, config["runs"], rate, at, told_run)
    return {key: np.asarray(value, np.float32) for key, value in found.items()}


def configs(seeds: int, runs: int, steps: int, widths: tuple[int, ...]) -> dict[str, dict]:
    network = {"hidden_layers": 1, "activation": "tanh", "parameterization": "ntk", "bias_std": BIAS_STD}
    step = {"fraction_of_stable_step": FRACTION, "draws": DRAWS}
    found = {}
    for name in CASES:
        common = network | {"case": name, "sizes": SIZES, "nu": NU, "gamma": 1.0}
        found[f"{name}/limit"] = common | step | {"kind": "limit"}
        for width in widths:
            found[f"{name}/start/{width}"] = common | {"kind": "start", "width": width, "seeds": seeds}
            if width <= WIDEST_TRAINED:
                run = {"kind": "trained", "width": width, "runs": runs, "steps": steps, "matvecs": MATVECS}
                found[f"{name}/trained/{width}"] = common | step | run
    return found


def main(seeds: int = 48, runs: int = 2, steps: int = 500, widths: tuple[int, ...] = WIDTHS) -> None:
    results.fill("nonlinear_kernel", configs(seeds, runs, steps, widths), make)


if __name__ == "__main__":
    command_line(main)
