"""Theorems 4.3 and 4.4 of the NTK paper in numbers, by width, for one and three hidden layers.

    python book/experiments/ntk_theory.py [--layers 1 3] [--widest 16384] [--runs 0]

How far the kernel of a random network is from its limit, and how far it moves over the
paper's 10,000 steps of gradient descent.  Their step is far below the stable one, so they
follow the gradient flow up to the time 0.1; so do we, with fewer steps (the run at width 100
that takes all 10,000 is stored beside them).  The file is written after every run, and
cells that are in it are not run again.
"""

import argparse
import functools
import time

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from pinn_analysis import convergence, networks, ntk, problems, results, spectra

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
SEEDS = 20
FRACTION = {1: 0.2, 3: 0.4}  # A step is this over λ_max.
REPEAT = 50  # The paper's 100 boundary points are the two ends, 50 times each.
SPECTRA = (10, 100, 500)  # The paper's widths.
BLOCKS = (("boundary", "boundary"), ("boundary", "residual"), ("residual", "residual"))

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


def stepper(problem, apply):
    """``(params, η, steps) -> params, ∫|Σ r|`` by gradient descent, compiled once for any η and steps."""

    def loss(params):
        r = problem.residuals(functools.partial(apply, params), POINTS)
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


def flow(problem, apply, params, descend, limit: ntk.KernelBlocks, fraction: float) -> dict[str, np.ndarray]:
    """The flow from ``params``: its kernels at TIMES against the initial one.

    A step is ``fraction / λ_max`` of the kernel at the last of TIMES: the stable one is twice
    that for ``fraction`` 1, and sums over a run of gradient descent and integrals over the
    flow agree to O(fraction).  Zero takes the paper's step.
    """
    residuals = jax.jit(lambda params: problem.residuals(functools.partial(apply, params), POINTS))
    first, r0, theta0 = ntk.empirical(problem, apply, params, POINTS), residuals(params), flat(params)
    told = [r0, r0]  # The same steps of a linear model, with the initial and with the infinite kernel.
    norm = lambda r: float(np.sqrt(sum(np.mean(part**2) for part in r.values())))
    records, integrals, now, last, steps = [], np.zeros(2), params, first, 0
    for start, end in zip((0.0, *TIMES[:-1]), TIMES, strict=True):
        largest = float(eigenvalues(last)[0, 0])
        n = int(np.ceil((end - start) * (largest / fraction if fraction else 1e5) - 1e-6))
        learning_rate = (end - start) / n
        now, part = descend(now, learning_rate, n)
        told = [
            convergence.gradient_descent(k, learning_rate, WEIGHTS).residuals(t, n)
            for k, t in zip((first, limit), told, strict=True)
        ]
        steps, integrals = steps + n, integrals + np.asarray(part)
        last, r, moved = ntk.empirical(problem, apply, now, POINTS), residuals(now), flat(now) - theta0
        records.append(
            [
                *change(last, first),
                *(np.linalg.norm(moved), np.linalg.norm(moved) / np.linalg.norm(theta0), np.abs(moved).max()),
                *(norm({k: t[k] - r[k] for k in r}) / norm(r0) for t in told),
                norm(r) / norm(r0),
            ]
        )
    error = problems.relative_l2_error(functools.partial(apply, now), problem.solution, problems.grid(problem, 201))
    return {
        "path": np.array(records),
        "end": np.array([*integrals, np.abs(theta0).max(), np.abs(flat(now)).max(), float(error), steps]),
        "spectra": np.stack([eigenvalues(first), eigenvalues(last)]),
    }


# Columns of what a run gives.
NORMS = ("uu", "ur", "rr", "all", "spectral")  # Frobenius but for the last.
PATH = (*NORMS, "theta", "theta_relative", "theta_max", "miss_initial", "miss_limit", "residual")
END = ("integral_boundary", "integral_residual", "largest_start", "largest_end", "error", "steps")


def resume(arrays: dict[str, np.ndarray], config: dict) -> float:
    """Fill what is missing from the stored file, if it is of this configuration; the seconds it took."""
    if not (results.FOLDER / "ntk_theory.npz").exists():
        return 0.0
    stored, how = results.load("ntk_theory")
    if how["config"] != config:
        return 0.0
    for name, values in arrays.items():
        arrays[name] = np.where(np.isnan(values), stored[name], values)
    return how["seconds"]


def main(layers: list[int], widest: int, runs: int) -> None:
    config = {
        "problem": "poisson_1d", "a": 1, "layers": [1, 3], "activation": "tanh", "parameterization": "ntk",
        "bias_std": 1.0, "boundary_points": 100, "residual_points": 100, "loss": "½ Σ r²", "times": list(TIMES),
        "fraction": [FRACTION[1], FRACTION[3]], "precision": "float64", "spectra": list(SPECTRA),
        "norms": list(NORMS), "path": list(PATH), "end": list(END), "seeds": list(range(SEEDS)),
    }  # fmt: skip
    cells, count = (2, len(WIDTHS), SEEDS), len(TIMES)
    arrays = {
        "initial": np.full((*cells, len(NORMS)), np.nan),
        "path": np.full((*cells, count, len(PATH)), np.nan),
        "end": np.full((*cells, len(END)), np.nan),
        "spectra": np.full((2, len(SPECTRA), SEEDS, 2, 3, 30), np.nan),  # Start and end; all, uu, rr.
        "limit": np.full((2, 3, 30), np.nan),
        "paper_step": np.full((2, count, len(PATH)), np.nan),  # Width 100, seed 0: the paper's step, and ours.
    }
    begin, before = time.perf_counter(), resume(arrays, config)

    def keep() -> None:
        resume(arrays, config)  # One process may do one layer while another does three.
        small = {name: values.astype(np.float32) for name, values in arrays.items()}
        seconds = before + time.perf_counter() - begin
        results.save("ntk_theory", config, seconds=seconds, widths=np.array(WIDTHS), **small)

    problem = problems.poisson_1d(a=1)
    for i, depth in enumerate((1, 3)):
        if depth not in layers:
            continue
        of_width = lambda w, depth=depth: networks.mlp((1, *(w,) * depth, 1), parameterization="ntk", bias_std=1.0)
        limit = ntk.infinite(problem, of_width(1).kernel_fn, POINTS)
        arrays["limit"][i] = eigenvalues(limit)
        for j, width in enumerate(w for w in WIDTHS if w <= widest):
            network = of_width(width)
            descend = stepper(problem, network.apply)
            for seed in range(max(INITIAL[depth][width], runs)):
                params = network.init(jax.random.key(seed))
                if np.isnan(arrays["initial"][i, j, seed, 0]):
                    first = ntk.empirical(problem, network.apply, params, POINTS)
                    arrays["initial"][i, j, seed] = change(first, limit)
                if seed >= max(RUNS[depth][width], runs) or np.isfinite(arrays["end"][i, j, seed, 0]):
                    continue
                run = flow(problem, network.apply, params, descend, limit, FRACTION[depth])
                arrays["path"][i, j, seed], arrays["end"][i, j, seed] = run["path"], run["end"]
                if width in SPECTRA:
                    arrays["spectra"][i, SPECTRA.index(width), seed] = run["spectra"]
                if (depth, width, seed) == (1, 100, 0):
                    slow = flow(problem, network.apply, params, descend, limit, 0)
                    arrays["paper_step"][:] = slow["path"], run["path"]
                keep()
                print(depth, width, seed, f"{time.perf_counter() - begin:.0f} s", flush=True)
            keep()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 3], choices=(1, 3))
    parser.add_argument("--widest", type=int, default=WIDTHS[-1])
    parser.add_argument("--runs", type=int, default=0, help=f"train this many seeds of every width, at most {SEEDS}")
    main(**vars(parser.parse_args()))
