"""The kernel of an infinitely wide PINN: the first call, compilation included, and the next one.

    python benchmarks/limit.py [CASE ...]

Ours against the derivatives of neural-tangents' kernel that one would write instead: its closed form for
erf, its quadrature (`ElementwiseNumerical`, 25 nodes) for tanh.  Each in a process of its own without a
cache of programs, CPU seconds; for one core: `taskset -c 0 python ...`.  `by hand` is given 120 s.
The difference is the largest of a pair of two points.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

LONGEST = 120
# Equation, points, hidden layers, activation.
CASES = {
    "Helmholtz, depth 1": ("helmholtz", 8, 1, "tanh"),
    "Helmholtz, depth 3": ("helmholtz", 8, 3, "tanh"),
    "Helmholtz, depth 3, erf": ("helmholtz", 8, 3, "erf"),
    "Klein-Gordon at a field": ("klein_gordon", 8, 1, "tanh"),
    "beam, depth 2": ("beam", 8, 2, "tanh"),
    "biharmonic, depth 1": ("biharmonic", 8, 1, "tanh"),
    "Kuramoto-Sivashinsky at its wave": ("kuramoto_sivashinsky", 3, 1, "tanh"),
    "Helmholtz, depth 3, 1,000 points": ("helmholtz", 1000, 3, "tanh"),
}


def setting(equation: str, points: int, depth: int, activation: str):
    """The problem, with one term, the network, its points, and the field to linearise at."""
    import jax
    import jax.numpy as jnp

    from pinn_analysis import mlp, problems
    from pinn_analysis.operators import laplacian, partial
    from pinn_analysis.problems import Condition, Problem, box

    def of_equation(operator, d: int) -> Problem:
        ends = jnp.zeros(d), jnp.ones(d)
        return Problem(equation, {"residual": Condition(operator, lambda x: 0 * x[0], box(*ends))}, ends, None)

    def kuramoto_sivashinsky(u):
        u_t, u_x, u_xx, u_xxx, u_xxxx = (partial(*axes)(u) for axes in ((1,), *((0,) * k for k in range(1, 5))))
        return lambda x: u_t(x) + u(x) * u_x(x) + u_xx(x) + 4 * u_xxx(x) + u_xxxx(x)

    def wave(x):
        t = jnp.tanh(x[1] - x[0] / 2)
        return 11 + 15 * t - 15 * t**2 - 15 * t**3

    field = None
    if equation in ("helmholtz", "klein_gordon"):
        whole = problems.helmholtz_2d() if equation == "helmholtz" else problems.klein_gordon()
        problem = whole.only("residual")
        field = whole.solution if equation == "klein_gordon" else None
    elif equation == "beam":
        problem = of_equation(partial(0, 0, 0, 0), 1)
    elif equation == "biharmonic":
        problem = of_equation(lambda u: laplacian(laplacian(u)), 2)
    else:
        problem, field = of_equation(kuramoto_sivashinsky, 2), wave
    d = len(problem.domain[0])
    network = mlp((d, *[1] * depth, 1), activation, parameterization="ntk", bias_std=1.0)
    return problem, network, problem.sample(jax.random.key(1), points), field


def one(case: str, way: str, out: str) -> None:
    import jax

    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp

    from pinn_analysis import _neural_tangents, ntk
    from pinn_analysis.operators import linearize

    problem, network, points, field = setting(*CASES[case])
    _, _, depth, activation = CASES[case]
    nt = _neural_tangents.load()

    def by_hand():
        layer = nt.stax.Erf() if activation == "erf" else nt.stax.ElementwiseNumerical(jnp.tanh, 25)
        dense = nt.stax.Dense(1, W_std=1.0, b_std=1.0)
        kernel_fn = nt.stax.serial(*[dense, layer] * depth, dense)[2]
        theta = lambda x, y: kernel_fn(x[None], y[None], "ntk")[0, 0]
        whole = problem.conditions["residual"].operator
        operator = whole if field is None else linearize(whole, field)
        entry = lambda x, y: operator(lambda x: operator(lambda y: theta(x, y))(y))(x)
        return jax.jit(jax.vmap(jax.vmap(entry, (None, 0)), (0, None)))

    if way == "ours":
        call = lambda: ntk.infinite(problem, network.kernel_fn, points, field=field).matrix
    else:
        compiled, x = by_hand(), points["residual"]
        call = lambda: compiled(x, x)
    jnp.zeros(3).block_until_ready()
    for _ in range(2):
        start = time.process_time()
        matrix = call().block_until_ready()
        print(time.process_time() - start, flush=True)
    np.save(out, matrix)


def main(cases: list[str]) -> None:
    environment = {key: value for key, value in os.environ.items() if "COMPILATION_CACHE" not in key}
    print(f"{'':34} {'ours: first':>12} {'next':>8}   {'by hand: first':>15} {'next':>8}   differ by")
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            seconds, matrices = {}, {}
            for way in ("ours", "by hand"):
                out = f"{folder}/{way}.npy"
                command = [sys.executable, __file__, "--one", case, way, out]
                try:
                    done = subprocess.run(
                        command, env=environment, capture_output=True, text=True, check=True,
                        timeout=None if way == "ours" else LONGEST,
                    )  # fmt: skip
                    seconds[way] = [f"{float(line):.2f}" for line in done.stdout.split()]
                    matrices[way] = np.load(out)
                except subprocess.TimeoutExpired:
                    seconds[way] = [f"> {LONGEST}", ""]
                except subprocess.CalledProcessError as error:
                    seconds[way] = ["fails", error.stderr.strip().splitlines()[-1][:60]]
            ours, hand = seconds["ours"], seconds["by hand"]
            apart = ""
            if len(matrices) == 2:
                scale = np.abs(matrices["ours"]).max()
                pairs = ~np.eye(len(matrices["ours"]), dtype=bool)  # At x = x' the quadrature is singular.
                apart = f"{np.abs(matrices['ours'] - matrices['by hand'])[pairs].max() / scale:.0e}"
            print(f"{case:34} {ours[0]:>12} {ours[1]:>8}   {hand[0]:>15} {hand[1]:>8}   {apart}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    one(*arguments.one) if arguments.one else main(arguments.cases)
