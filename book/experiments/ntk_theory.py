"""Theorems 4.3 and 4.4 of the NTK paper in numbers, by width, for one and three hidden layers.

    python book/experiments/ntk_theory.py [--layers 1 3] [--widest 16384] [--runs 0]

For chapter 12.  How far the kernel of a random network is from its limit, and how far it moves over the
paper's 10,000 steps of gradient descent.  Their step is far below the stable one, so they
follow the gradient flow up to the time 0.1; so do we, with fewer steps (the run at width 100
that takes all 10,000 is stored beside them).
"""

import functools

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from pinn_analysis import convergence, networks, ntk, problems, results, spectra

from runs import command_line

WIDTHS = (10, 32, 100, 500, 1024, 4096, 16384)
# Seeds of initial kernels, and how many of them are trained: a step of three layers of 1,024
# costs as much as hundreds of one layer, so there are fewer (`--runs` takes more).
INITIAL = {1: dict.fromkeys(WIDTHS, 20), 3: {10: 20, 32: 20, 100: 20, 500: 10, 1024: 10, 4096: 3, 16384: 0}}
RUNS = {
    1: {10: 5, 32: 5, 100: 10, 500: 8, 1024: 8, 4096: 8, 16384: 5},
    3: {10: 3, 32: 3, 100: 3, 500: 3, 1024: 3, 4096: 0, 16384: 0},
}
# On the loss ½ Σ r²: 0.1 is the end of 10,000 steps of 1e-5 (Sec. 7.1), 0.002 the end of the
# same steps if the loss is a mean of squares, as in the authors' notebook.
TIMES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
FRACTION = {1: 0.2, 3: 0.4}  # A step is this over λ_max.
REPEAT = 50  # The paper's 100 boundary points are the two ends, 50 times each.
SPECTRA = (10, 100, 500)  # The paper's widths.
BLOCKS = (("boundary", "boundary"), ("boundary", "residual"), ("residual", "residual"))

PROBLEM = problems.poisson_1d(a=1)
POINTS = {"boundary": np.array([[0.0], [1.0]]), "residual": np.linspace(0, 1, 100)[:, None]}
# ½ Σ over 50 + 50 + 100 points, as a mean over each term.
WEIGHTS = {"boundary": 50.0, "residual": 50.0}


def expand(kernel: ntk.KernelBlocks) -> ntk.KernelBlocks:
    """Same norms and nonzero eigenvalues as with each end 50 times among the points."""
    root = np.sqrt(np.repeat([REPEAT, 1], kernel.sizes))
    return ntk.KernelBlocks(root[:, None] * kernel.matrix * root, kernel.names, kernel.sizes)


def change(new: ntk.KernelBlocks, old: ntk.KernelBlocks) -> list[float]:
    """``‖new - old‖ / ‖old‖``: Frobenius for each block and the whole, spectral for the whole."""
    new, old = expand(new), expand(old)
    pairs = [(new[pair], old[pair]) for pair in BLOCKS] + [(new.matrix, old.matrix)]
    frobenius = [float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs]
    difference, whole = (np.abs(np.linalg.eigvalsh(m)).max() for m in (new.matrix - old.matrix, old.matrix))
    return [*frobenius, float(difference / whole)]


def flat(params) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])


def eigenvalues(kernel: ntk.KernelBlocks) -> np.ndarray:
    """Largest 30 of the whole, the boundary and the residual block, ``(3, 30)``, 0 where there are fewer."""
    values = spectra.eigenvalues(expand(kernel))
    kept = [np.asarray(v)[:30] for v in (values.whole, values.terms["boundary"], values.terms["residual"])]
    return np.stack([np.pad(v, (0, 30 - len(v))) for v in kept])


def network(layers: int, width: int) -> networks.Network:
    return networks.mlp((1, *(width,) * layers, 1), parameterization="ntk", bias_std=1.0)


@functools.cache
def limit(layers: int) -> ntk.KernelBlocks:
    return ntk.infinite(PROBLEM, network(layers, 1).kernel_fn, POINTS)


@functools.cache
def stepper(layers: int, width: int):
    """``(params, η, steps) -> params, ∫|Σ r|`` by gradient descent, compiled once for any η and steps."""
    apply = network(layers, width).apply

    def loss(params):
        r = PROBLEM.residuals(functools.partial(apply, params), POINTS)
        return sum(WEIGHTS[name] * jnp.mean(r[name] ** 2) for name in r), r

    @jax.jit
    def descend(params, learning_rate: float, steps: int):
        def step(_, state):
            params, integrals = state
            gradient, r = jax.grad(loss, has_aux=True)(params)
            sums = jnp.abs(jnp.stack([REPEAT * r["boundary"].sum(), r["residual"].sum()]))
            return jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient), integrals + learning_rate * sums

        return jax.lax.fori_loop(0, steps, step, (params, jnp.zeros(2)))

    return descend


def flow(layers: int, width: int, params, times, fraction: float) -> dict[str, np.ndarray]:
    """The flow from ``params``: its kernels at some times against the initial one.

    A step is ``fraction / λ_max`` of the kernel at the time before: the stable one is twice
    that for ``fraction`` 1, and sums over a run of gradient descent and integrals over the
    flow agree to O(fraction).  Zero takes the paper's step.
    """
    apply, descend = network(layers, width).apply, stepper(layers, width)
    residuals = jax.jit(lambda params: PROBLEM.residuals(functools.partial(apply, params), POINTS))
    first, r0, theta0 = ntk.empirical(PROBLEM, apply, params, POINTS), residuals(params), flat(params)
    predicted = [r0, r0]  # The same steps of a linear model, with the initial and with the infinite kernel.
    norm = lambda r: float(np.sqrt(sum(np.mean(part**2) for part in r.values())))
    records, integrals, now, last, steps = [], np.zeros(2), params, first, 0
    for start, end in zip((0.0, *times[:-1]), times, strict=True):
        largest = float(eigenvalues(last)[0, 0])
        n = int(np.ceil((end - start) * (largest / fraction if fraction else 1e5) - 1e-6))
        learning_rate = (end - start) / n
        now, part = descend(now, learning_rate, n)
        predicted = [
            convergence.gradient_descent(k, learning_rate, WEIGHTS).residuals(r, n)
            for k, r in zip((first, limit(layers)), predicted, strict=True)
        ]
        steps, integrals = steps + n, integrals + np.asarray(part)
        last, r, moved = ntk.empirical(PROBLEM, apply, now, POINTS), residuals(now), flat(now) - theta0
        records.append(
            [
                *change(last, first),
                *(np.linalg.norm(moved), np.linalg.norm(moved) / np.linalg.norm(theta0), np.abs(moved).max()),
                *(norm({k: p[k] - r[k] for k in r}) / norm(r0) for p in predicted),
                norm(r) / norm(r0),
            ]
        )
    error = problems.relative_l2_error(functools.partial(apply, now), PROBLEM.solution, problems.grid(PROBLEM, 201))
    return {
        "path": np.array(records),
        "end": np.array([*integrals, np.abs(theta0).max(), np.abs(flat(now)).max(), float(error), steps]),
        "spectra": np.stack([eigenvalues(first), eigenvalues(last)]),
    }


# Columns of what a run gives.
NORMS = ("uu", "ur", "rr", "all", "spectral")  # Frobenius but for the last.
PATH = (*NORMS, "theta", "theta_relative", "theta_max", "miss_initial", "miss_limit", "residual")
END = ("integral_boundary", "integral_residual", "largest_start", "largest_end", "error", "steps")


def make(config: dict) -> dict[str, np.ndarray]:
    """Eigenvalues of a limit, the distance of an initial kernel to it, or a run."""
    layers, kind = config["layers"], config["kind"]
    if kind == "limit":
        return {"eigenvalues": np.float32(eigenvalues(limit(layers)))}
    net = network(layers, config["width"])
    params = net.init(jax.random.key(config["seed"]))
    if kind == "start":
        first = ntk.empirical(PROBLEM, net.apply, params, POINTS)
        return {"initial": np.float32(change(first, limit(layers)))}
    run = flow(layers, config["width"], params, config["times"], config["fraction"])
    kept = ("path", "end", "spectra") if config["width"] in SPECTRA else ("path", "end")
    return {name: np.float32(run[name]) for name in kept}


def configs(layers: tuple[int, ...], widest: int, runs: int, widths: tuple[int, ...], times: tuple) -> dict[str, dict]:
    """Limits, initial kernels and runs; and one run with the paper's step, whose fraction is 0."""
    common = {
        "problem": "poisson_1d", "a": 1, "activation": "tanh", "parameterization": "ntk", "bias_std": 1.0,
        "boundary_points": 100, "residual_points": 100,
    }  # fmt: skip
    found = {}
    for depth in layers:
        of_depth = common | {"layers": depth}
        run = of_depth | {"kind": "run", "loss": "½ Σ r²", "times": times, "path": PATH, "end": END}
        found[f"limit {depth}"] = of_depth | {"kind": "limit"}
        for width in (w for w in widths if w <= widest):
            cell = {"width": width}
            for seed in range(max(INITIAL[depth].get(width, 1), runs)):
                start = of_depth | cell | {"kind": "start", "seed": seed, "norms": NORMS}
                found[f"start {depth}x{width} {seed}"] = start
            for seed in range(max(RUNS[depth].get(width, 1), runs)):
                found[f"run {depth}x{width} {seed}"] = run | cell | {"seed": seed, "fraction": FRACTION[depth]}
        if depth == 1 and 100 in widths and widest >= 100:
            found["paper's step 1x100 0"] = run | {"kind": "paper's step", "width": 100, "seed": 0, "fraction": 0}
    return found


def main(layers: tuple[int, ...] = (1, 3), widest: int = WIDTHS[-1], runs: int = 0) -> None:
    """``runs`` is how many seeds of every width to train at least."""
    results.fill("ntk_theory", configs(layers, widest, runs, WIDTHS, TIMES), make)


if __name__ == "__main__":
    command_line(main)
