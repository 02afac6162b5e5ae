"""A training step of Helmholtz at the first paper's sizes: ours against what a user would pick instead.

    python benchmarks/training.py [--width 50] [--depth 3] [--steps 500]

128 points inside and 512 on the edges, fresh in every step for ours and for the plain loop.
DeepXDE (PyTorch backend) takes part if it is installed (`pip install deepxde torch`); it keeps
its points, and trains M4 without annealing, as it has none.  All in one process, interleaved,
best of five after a warm-up; read the ratios.  For one core: `taskset -c 0 python ...`.
"""

import argparse
import functools
import os
import time

os.environ.setdefault("DDE_BACKEND", "pytorch")

import jax
import jax.numpy as jnp
import optax

from pinn_analysis import mlp, modified_mlp, problems, standardized, train, training, weighting

try:
    import deepxde
    import torch
except ImportError:
    deepxde = None

SIZES = {"boundary": 512, "residual": 128}
PROBLEM = problems.helmholtz_2d()
REPORTED = {"M1": 2.6, "M4": 9.1}  # ms, the authors' TensorFlow code on one core of such a machine.


def ours(network, rule, steps: int):
    """Seconds of ``steps`` steps of `train`: of two runs, the difference, so that compiling is not in it."""

    def run(steps: int) -> float:
        start = time.perf_counter()
        train(
            PROBLEM, network, key=jax.random.key(0), steps=steps, batch_size=SIZES, weighting=rule,
            record_every=10**9, progress=False,
        )  # fmt: skip
        return time.perf_counter() - start

    return run(11 * steps) - run(steps), 10 * steps


def plain_loop(network, rule, steps: int):
    """What one writes first: nested `jax.grad`, the step jitted, a Python loop around it."""
    optimizer = training.adam()

    def residual(params, x):
        u = functools.partial(network.apply, params)
        u_x = lambda x, i: jax.grad(u)(x)[i]
        second = sum(jax.grad(u_x)(x, i)[i] for i in range(2))
        return second + u(x) - PROBLEM.conditions["residual"].target(x)

    @jax.jit
    def step(params, state, rule_state, key):
        points = PROBLEM.sample(key, SIZES)
        weights, rule_state = rule.update(rule_state, PROBLEM, network.apply, params, points)

        def loss(params):
            inside = jnp.mean(jax.vmap(residual, (None, 0))(params, points["residual"]) ** 2)
            edge = jnp.mean(jax.vmap(network.apply, (None, 0))(params, points["boundary"]) ** 2)
            return weights["residual"] * inside + weights["boundary"] * edge

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state, rule_state

    params = network.init(jax.random.key(0))
    carry = params, optimizer.init(params), rule.init(PROBLEM)
    keys = jax.random.split(jax.random.key(1), steps + 1)
    carry = step(*carry, keys[-1])

    def run() -> float:
        start, now = time.perf_counter(), carry
        for key in keys[:-1]:
            now = step(*now, key)
        jax.block_until_ready(now)
        return time.perf_counter() - start

    return run


class _Gated(torch.nn.Module if deepxde else object):
    """The improved architecture for DeepXDE."""

    def __init__(self, width: int, depth: int):
        super().__init__()
        linear = torch.nn.Linear
        self.u, self.v = linear(2, width), linear(2, width)
        self.hidden = torch.nn.ModuleList([linear(2 if i == 0 else width, width) for i in range(depth)])
        self.out = linear(width, 1)
        self.regularizer = None

    def forward(self, x):
        u, v, h = torch.tanh(self.u(x)), torch.tanh(self.v(x)), x
        for layer in self.hidden:
            z = torch.tanh(layer(h))
            h = z * u + (1 - z) * v
        return self.out(h)


def with_deepxde(model: str, width: int, depth: int, steps: int):
    def pde(x, u):
        second = sum(deepxde.grad.hessian(u, x, i=i, j=i) for i in range(2))
        q = (1 - 17 * torch.pi**2) * torch.sin(torch.pi * x[:, :1]) * torch.sin(4 * torch.pi * x[:, 1:])
        return second + u - q

    square = deepxde.geometry.Rectangle([-1, -1], [1, 1])
    edge = deepxde.icbc.DirichletBC(square, lambda x: 0, lambda _, on: on)
    data = deepxde.data.PDE(square, pde, edge, num_domain=SIZES["residual"], num_boundary=SIZES["boundary"])
    net = _Gated(width, depth) if model == "M4" else deepxde.nn.FNN([2, *[width] * depth, 1], "tanh", "Glorot normal")
    solver = deepxde.Model(data, net)
    solver.compile("adam", lr=1e-3, verbose=0)
    solver.train(iterations=5, display_every=10**9, verbose=0)

    def run() -> float:
        start = time.perf_counter()
        solver.train(iterations=steps, display_every=10**9, verbose=0)
        return time.perf_counter() - start

    return run


def main(width: int, depth: int, steps: int) -> None:
    torch_threads = len(os.sched_getaffinity(0))
    if deepxde:
        torch.set_num_threads(torch_threads)
    for model, architecture, rule in (
        ("M1", mlp, weighting.fixed()),
        ("M4", modified_mlp, weighting.lr_annealing()),
    ):
        network = standardized(architecture((2, *[width] * depth, 1)), *PROBLEM.domain)
        ways = {"plain loop, nested grad": plain_loop(network, rule, steps)}
        if deepxde:
            ways["DeepXDE, PyTorch"] = with_deepxde(model, width, depth, steps)
        best = dict.fromkeys(["ours", *ways], float("inf"))
        for _ in range(5):
            seconds, count = ours(network, rule, steps)
            best["ours"] = min(best["ours"], 1e3 * seconds / count)
            for name, run in ways.items():
                best[name] = min(best[name], 1e3 * run() / steps)
        print(f"{model}, {depth} x {width}, float32, {torch_threads} cores")
        for name, milliseconds in best.items():
            print(f"{name:28} {milliseconds:7.2f} ms per step   {milliseconds / best['ours']:5.1f} x ours")
        reported = REPORTED[model]
        print(f"{'TensorFlow, as reported':28} {reported:7.2f} ms per step   {reported / best['ours']:5.1f} x ours")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=50)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--steps", type=int, default=500)
    main(**vars(parser.parse_args()))
