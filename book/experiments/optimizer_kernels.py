"""Optimisers as changes of the kernel: the spectra of ``J P Jᵀ``, what they predict, and what training does.

    python book/experiments/optimizer_kernels.py [--cases poisson helmholtz] [--what spectra Adam] [--seeds 5]

For chapter 27.  All optimisers have the same network, points and weights.  Record ``spectra``: at two steps of a run of
Adam, the preconditioner that each would have, had it seen the gradients of that run; the decay that it predicts with
``J`` and ``P`` frozen; and the steps that the optimiser then takes from there.  The others: each run from the start.
SOAP is in no package that is installed, so its step is written here.
"""

import functools
import time
from collections.abc import Callable

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg
from jax import Array
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree
from pinn_analysis import networks, problems, results, solving, training
from scipy.optimize import LbfgsInvHessProduct

import runs

CASES = {"poisson": lambda: problems.poisson_1d(4), "helmholtz": lambda: problems.helmholtz_2d(1, 4)}
GRIDS = {"poisson": (100,), "helmholtz": (12, 30)}  # Of residual points.
HIDDEN = (24, 24)
BOUNDARY_WEIGHT = 100.0
RATE = 1e-2  # Of Adam, SOAP and Muon; in runs it falls to zero like a cosine.
WATCHED = (10, 300)  # Steps of Adam at which the kernels are taken.
AHEAD = 100
FEWER = 10  # Of Gauss-Newton on the larger problem, whose steps are dear.
OWN_STATE = ("Adam", "SOAP", "Muon")  # They go on with what they saw; the others start anew.
MEMORY = 20
FAR = 1e6  # Times the loss at the start: frozen, this optimiser diverges.
STEPS = {"descent": 2000, "Adam": 2000, "SOAP": 1000, "Muon": 1000, "L-BFGS": 400, "Gauss-Newton": 40}
PART = 0.01  # Rate of whole runs of descent, of the step that is stable at their start: the kernel grows.
DECAY = 0.95  # Of SOAP: momentum and averages.


def soap(rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    """Adam in the eigenbasis of Shampoo, which is renewed in every step (Vyas et al., 2409.11321, Algorithm 3)."""

    def init(params: PyTree) -> tuple:
        zeros = optax.tree.zeros_like(params)
        sides = jax.tree.map(lambda g: (jnp.zeros((len(g),) * 2), jnp.zeros((g.shape[-1],) * 2)), matrices(params))
        return jnp.zeros((), int), zeros, zeros, sides

    def update(updates: PyTree, state: tuple, params: PyTree | None = None) -> tuple:
        del params
        count, momentum, squares, sides = state
        average = lambda old, new: DECAY * old + (1 - DECAY) * new
        momentum = jax.tree.map(average, momentum, updates)
        products = jax.tree.map(lambda g: (g @ g.T, g.T @ g), matrices(updates))
        sides = jax.tree.map(average, sides, products)
        bases = rotations(sides)
        squares = jax.tree.map(lambda v, g: average(v, g**2), squares, rotate(bases, updates))
        correction = 1 - DECAY ** (count + 1)
        step = jax.tree.map(
            lambda m, v: m / correction / (jnp.sqrt(v / correction) + 1e-8), rotate(bases, momentum), squares
        )
        size = rate(count) if callable(rate) else rate
        step = jax.tree.map(lambda g: -size * g, rotate(bases, step, back=True))
        return step, (count + 1, momentum, squares, sides)

    return optax.GradientTransformation(init, update)


def matrices(tree: PyTree) -> list[Array]:
    return [leaf for leaf in jax.tree.leaves(tree) if leaf.ndim == 2]


def rotations(sides: list) -> list:
    return [tuple(jnp.linalg.eigh(side)[1] for side in pair) for pair in sides]


def rotate(bases: list, tree: PyTree, back: bool = False) -> PyTree:
    """Matrices in the eigenbases of their two sides; vectors stay."""
    bases = iter(bases)

    def one(leaf: Array) -> Array:
        if leaf.ndim < 2:
            return leaf
        left, right = next(bases)
        return left @ leaf @ right.T if back else left.T @ leaf @ right

    return jax.tree.map(one, tree)


def optimizer(name: str, steps: int | None, stable: float) -> optax.GradientTransformation:
    """By its name, with a rate that falls over ``steps``, or stays."""
    rate = RATE if steps is None else optax.cosine_decay_schedule(RATE, steps)
    return {
        "descent": lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=(0.5 if steps is None else PART) * stable),
        "Adam": lambda: optax.adam(rate),
        "SOAP": lambda: soap(rate),
        "Muon": lambda: optax.contrib.muon(rate, adam_learning_rate=rate),
        "L-BFGS": lambda: optax.lbfgs(memory_size=MEMORY),
        "Gauss-Newton": solving.gauss_newton,
    }[name]()


class Setting:
    """Problem, network, points, and the residuals that all optimisers reduce: ``s = D^½ r``, ``L = ‖s‖²``."""

    def __init__(self, case: str):
        self.problem = CASES[case]()
        low, high = self.problem.domain
        counts = GRIDS[case]
        self.net = networks.standardized(networks.mlp((len(low), *HIDDEN, 1)), low, high)
        axes = [a + (b - a) * (np.arange(n) + 0.5) / n for a, b, n in zip(low, high, counts, strict=True)]
        inner = jnp.stack(jnp.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(counts))
        s = (jnp.arange(16) + 0.5) / 8 - 1
        edges = [jnp.stack(pair, -1) for e in (-1.0, 1.0) for pair in ((s, 0 * s + e), (0 * s + e, s))]
        boundary = jnp.array([[0.0], [1.0]]) if case == "poisson" else jnp.concatenate(edges)
        self.points = {"boundary": boundary, "residual": inner}
        self.weights = {"boundary": BOUNDARY_WEIGHT, "residual": 1.0}
        self.test = problems.grid(self.problem, {1: 400, 2: 40}[len(counts)])
        sizes = [np.full(len(x), self.weights[name] / len(x)) for name, x in self.points.items()]
        self.scale = jnp.sqrt(np.concatenate(sizes))

    def start(self, seed: int) -> PyTree:
        return self.net.init(jax.random.key(seed))

    def rows(self, params: PyTree) -> Array:
        return self.scale * self.problem.rows(self.net.apply, self.points)(params)

    def loss(self, params: PyTree) -> Array:
        return jnp.sum(self.rows(params) ** 2)

    def look(self, state: tuple) -> dict[str, Array]:
        field = lambda x: self.net.apply(state[0], x)
        error = problems.relative_l2_error(field, self.problem.solution, self.test)
        return {"error": error, "loss": self.loss(state[0])}

    def stepper(self, one: optax.GradientTransformation):
        return training.stepper(self.problem, self.net.apply, self.points, one, self.weights)

    @functools.partial(jax.jit, static_argnums=0)
    def jacobian(self, params: PyTree) -> Array:
        theta, unravel = ravel_pytree(params)
        push = jax.linearize(lambda t: self.rows(unravel(t)), theta)[1]
        return jax.lax.map(push, jnp.eye(theta.size), batch_size=64).T

    def stable(self, params: PyTree) -> float:
        """``1 / μ_max`` of gradient descent."""
        return float(1 / jnp.linalg.norm(self.jacobian(params), 2) ** 2)


def watch(setting: Setting) -> Callable[[PyTree], list[tuple]]:
    """From the start to Adam's parameters at the watched steps, with states of optimisers that saw its gradients."""
    names = ("Adam", "SOAP", "Muon", "L-BFGS")
    watching = {name: optax.with_extra_args_support(optimizer(name, None, 0.0)) for name in names}
    watching["L-BFGS"] = optax.with_extra_args_support(optax.scale_by_lbfgs(MEMORY))

    def step(state: tuple) -> tuple:
        params, states = state
        gradient = jax.grad(setting.loss)(params)
        moved = {name: one.update(gradient, states[name], params) for name, one in watching.items()}
        return optax.apply_updates(params, moved["Adam"][0]), {name: pair[1] for name, pair in moved.items()}

    follow = training.follow(step, lambda state: state, WATCHED)

    def run(params: PyTree) -> list[tuple]:
        start = params, {name: one.init(params) for name, one in watching.items()}
        states = follow(start)[1]
        return [jax.tree.map(lambda leaf, i=i: leaf[i], states) for i in range(len(WATCHED))]

    return run


def preconditioner(name: str, state: PyTree, params: PyTree, jacobian: np.ndarray) -> np.ndarray:
    """``P``, ``(p, p)``: a step is ``-rate P m``, ``m`` the average of gradients."""
    theta, unravel = ravel_pytree(params)
    p = theta.size
    if name == "descent":
        return np.eye(p)
    if name == "Gauss-Newton":  # With the damping of the first step of `solving.gauss_newton`, and its units.
        norms = np.linalg.norm(jacobian, axis=0)
        units = 1 / np.maximum(norms, np.finfo(float).eps * norms.max())
        scaled = jacobian * units
        damping = float(solving.gauss_newton().init(params).damping) * np.sum(scaled**2)
        return units[:, None] * np.linalg.inv(scaled.T @ scaled + damping * np.eye(p)) * units / 2
    if name == "Adam":
        nu = ravel_pytree(state[0].nu)[0] / (1 - 0.999 ** int(state[0].count))
        return np.diag(1 / (np.sqrt(nu) + 1e-8))
    if name == "L-BFGS":
        return lbfgs(state)
    blocks, sides = [], iter(state[3] if name == "SOAP" else ())
    if name == "SOAP":
        squares = jax.tree.map(lambda v: v / (1 - DECAY ** int(state[0])), state[2])
        for v in jax.tree.leaves(squares):
            inverse = 1 / (np.sqrt(np.ravel(v)) + 1e-8)
            if v.ndim < 2:
                blocks.append(np.diag(inverse))
                continue
            basis = np.kron(*(np.linalg.eigh(side)[1] for side in next(sides)))
            blocks.append(basis * inverse @ basis.T)
        return scipy.linalg.block_diag(*blocks)
    orthogonal, adam = state.inner_states["muon"].inner_state[0], state.inner_states["adam"].inner_state[0]
    moments = [leaf for leaf in jax.tree.leaves(orthogonal.mu) if leaf.ndim == 2]
    nus = [np.asarray(leaf) / (1 - 0.999 ** int(adam.count)) for leaf in jax.tree.leaves(adam.nu)]
    moments, nus = iter(moments), iter(nus)
    for leaf in jax.tree.leaves(params):
        if leaf.ndim < 2:
            blocks.append(np.diag(1 / (np.sqrt(next(nus)) + 1e-8)))
            continue
        m = np.asarray(next(moments)) / (1 - 0.95 ** int(orthogonal.count))
        u, s, _ = np.linalg.svd(m, full_matrices=True)
        inverse = np.zeros(len(u))
        inverse[: len(s)] = 1 / np.maximum(s, 1e-3 * s.max())  # Newton and Schulz leave small ones small.
        factor = np.sqrt(max(1, m.shape[1] / m.shape[0]))  # Optax scales by the shape.
        blocks.append(factor * np.kron(u * inverse @ u.T, np.eye(m.shape[1])))
    return scipy.linalg.block_diag(*blocks)


def lbfgs(state: PyTree) -> np.ndarray:
    """The inverse Hessian of the pairs in memory that curve up, from ``γ I`` on."""
    flat = lambda tree, i: np.asarray(ravel_pytree(jax.tree.map(lambda leaf: leaf[i], tree))[0])
    newest = [(int(state.count) - 1 - i) % MEMORY for i in range(min(MEMORY, int(state.count)))][::-1]
    pairs = [(flat(state.diff_params_memory, i), flat(state.diff_updates_memory, i)) for i in newest]
    pairs = [(s, y) for s, y in pairs if s @ y > 1e-12 * np.linalg.norm(s) * np.linalg.norm(y)]
    s, y = (np.stack(side) for side in zip(*pairs, strict=True))
    gamma = (s[-1] @ y[-1]) / (y[-1] @ y[-1])
    return gamma * LbfgsInvHessProduct(s / np.sqrt(gamma), y * np.sqrt(gamma)).todense()


def kernels(config: dict) -> dict:
    """Spectra, predictions and continuations at the watched steps, ``(seeds, ...)`` each."""
    setting, found = Setting(config["case"]), {}
    run, ahead = watch(setting), dict.fromkeys(STEPS, np.arange(AHEAD + 1))
    if config["case"] == "helmholtz":
        ahead["Gauss-Newton"] = np.arange(FEWER + 1)
    look = lambda state: setting.loss(state[0])
    follow = {n: training.follow(setting.stepper(optimizer(n, None, 1.0)), look, ahead[n]) for n in STEPS}
    for seed in range(config["seeds"]):
        for last, (params, states) in zip(WATCHED, run(setting.start(seed)), strict=True):
            jacobian, s = np.asarray(setting.jacobian(params)), np.asarray(setting.rows(params))
            stable = 1 / np.linalg.norm(jacobian, 2) ** 2
            for name in STEPS:
                own = one_kernel(name, states.get(name), params, jacobian, s, stable)
                state = states[name] if name in OWN_STATE else optimizer(name, None, stable).init(params)
                own["trained"] = np.float32(follow[name]((params, state))[1])
                for key, value in own.items():
                    found.setdefault(f"{last}/{name}/{key}", []).append(value)
    return {key: np.stack(values) for key, values in found.items()}


def one_kernel(
    name: str, state: PyTree, params: PyTree, jacobian: np.ndarray, s: np.ndarray, stable: float
) -> dict[str, np.ndarray]:
    """Eigenvalues of ``J P Jᵀ``, the share of ``s`` in its modes, and losses with both frozen."""
    p = preconditioner(name, state, params, jacobian)
    moved = jacobian @ p
    values, modes = np.linalg.eigh((moved @ jacobian.T + jacobian @ moved.T) / 2)
    rates = {"descent": 0.5 * stable, "Adam": RATE, "SOAP": RATE, "Muon": RATE, "L-BFGS": 1.0, "Gauss-Newton": 1.0}
    rate, beta = rates[name], {"Adam": 0.9, "SOAP": DECAY, "Muon": 0.95}.get(name, 0.0)
    gradient = 2 * jacobian.T @ s
    momentum, now, frozen = momentum_of(name, state, gradient), s, [s @ s]
    for _ in range(AHEAD):
        momentum = beta * momentum + (1 - beta) * gradient
        used = beta * momentum + (1 - beta) * gradient if name == "Muon" else momentum  # Nesterov's.
        now = now - rate * (moved @ used)
        gradient = 2 * jacobian.T @ now
        frozen.append(now @ now)
        if frozen[-1] > FAR * frozen[0]:
            break  # It diverges.
    return {
        "values": np.float32(values[::-1]), "share": np.float32(((modes.T @ s) ** 2 / (s @ s))[::-1]),
        "rate": rate, "frozen": np.float32(np.pad(frozen, (0, AHEAD + 1 - len(frozen)), mode="edge")),
    }  # fmt: skip


def momentum_of(name: str, state: PyTree, gradient: np.ndarray) -> np.ndarray:
    """The average of gradients that an optimiser starts with, corrected for its start at zero."""
    if name == "Adam":
        return np.asarray(ravel_pytree(state[0].mu)[0]) / (1 - 0.9 ** int(state[0].count))
    if name == "SOAP":
        return np.asarray(ravel_pytree(state[1])[0]) / (1 - DECAY ** int(state[0]))
    return gradient


def whole_runs(config: dict) -> dict:
    """Errors and losses from the start, ``(seeds, steps)``, and CPU seconds without compilation."""
    setting, compiled, found = Setting(config["case"]), None, {}
    at = np.append(0, np.unique(np.geomspace(1, config["steps"], 60).astype(int)))
    for seed in range(config["seeds"]):
        params = setting.start(seed)
        one = optimizer(config["optimizer"], config["steps"], setting.stable(params))
        start = params, one.init(params)
        if compiled is None:
            compiled = training.follow(setting.stepper(one), setting.look, at).lower(start).compile()
        begun = time.process_time()
        measured = jax.block_until_ready(compiled(start)[1])
        own = {"cpu_seconds": time.process_time() - begun} | {name: np.float32(v) for name, v in measured.items()}
        for key, value in own.items():
            found.setdefault(key, []).append(value)
    return {"step": at} | {key: np.stack(values) for key, values in found.items()}


def make(config: dict) -> dict:
    return kernels(config) if config["optimizer"] == "spectra" else whole_runs(config)


def main(cases: tuple[str, ...] = tuple(CASES), what: tuple[str, ...] = ("spectra", *STEPS), seeds: int = 5) -> None:
    configs = {}
    for case in cases:
        for name in what:
            configs[f"{case} {name}"] = {
                "case": case, "optimizer": name, "seeds": seeds, "steps": STEPS.get(name, max(WATCHED)),
                "rate": RATE, "boundary_weight": BOUNDARY_WEIGHT, "hidden": HIDDEN,
            }  # fmt: skip
    results.fill("optimizer_kernels", configs, make)


if __name__ == "__main__":
    runs.command_line(main, cases=CASES, what=("spectra", *STEPS))
