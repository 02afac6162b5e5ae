"""Kernels over several devices against one device: a script, since the devices of a process are fixed at its start.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python tests/several_devices.py OUT.json
    ... OUT.json RANK PROCESSES ADDRESS

It writes how far the two are apart, relative to the largest entry, and how large the arrays of the programs are.
"""

import json
import re
import sys
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)
out, *processes = sys.argv[1:]
if processes:
    rank, count, address = processes
    jax.distributed.initialize(address, int(count), int(rank))

import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from pinn_analysis import ntk, problems
from pinn_analysis.networks import mlp
from pinn_analysis.ntk import _operator, _rows, _sharded

line = (jnp.zeros(1), jnp.ones(1))
second = lambda u: lambda x: jax.grad(lambda t: jax.grad(lambda s: u(s[None]))(t))(x[0])
both = lambda u: lambda x: jnp.stack([u(x), second(u)(x)])
conditions = {
    "boundary": problems.Condition(lambda u: u, lambda x: 0.0, problems.box(*line)),
    "two rows": problems.Condition(both, lambda x: jnp.zeros(2), problems.box(*line)),
    "residual": problems.Condition(second, lambda x: 1.0, problems.box(*line)),
}
problem = problems.Problem("three terms", conditions, line)
network, wide = mlp((1, 12, 12, 1)), mlp((1, 12, 1), "erf", parameterization="ntk", bias_std=1.0)
params = network.init(jax.random.key(0))
points = problem.sample(jax.random.key(1), {"boundary": 3, "two rows": 4, "residual": 53})
two = problem.only("boundary", "residual")
of_two = lambda points: {name: points[name] for name in two.conditions}
if processes:  # Each compiles all programs.
    problem, points = two, of_two(points)
placed = ntk.shard(points)
one, many = (ntk.operator(problem, network.apply, params, x) for x in (points, placed))
v = jax.random.normal(jax.random.key(2), (sum(one.sizes),))


def apart(a, b):
    """Of what this process has of ``b``."""
    shares = ((np.asarray(a)[share.index], np.asarray(share.data)) for share in b.addressable_shards)
    return float(max(np.abs(x - y).max() for x, y in shares) / np.abs(a).max())


matrix = many.dense().matrix
found = {
    "devices": jax.device_count(),
    "rows of a device": matrix.addressable_shards[0].data.shape[0],
    "product": apart(one.mv(v), many.mv(v)),
    "diagonal": apart(one.diagonal(), many.diagonal()),
    "matrix": apart(one.dense().matrix, matrix),
    "infinite": apart(*(ntk.infinite(two, wide.kernel_fn, of_two(x)).matrix for x in (points, placed))),
}
if not processes:
    single, x = problem.only("residual"), points["residual"][:48]
    mesh = jax.make_mesh((jax.device_count(),), ("points",))  # Of explicit types, as JAX makes them by default.
    by_hand = {"residual": jax.device_put(x, NamedSharding(mesh, PartitionSpec("points")))}
    alone = ntk.empirical(single, network.apply, params, {"residual": x}).matrix
    divided = ntk.operator(single, network.apply, params, by_hand, batch_size=3)
    found["product in batches"] = apart(alone @ v[:48], divided.mv(v[:48]))
    found["matrix in tiles"] = apart(alone, divided.dense().matrix)
    found["structured matrix"] = apart(alone, divided.dense(method="structured", batch_size=100).matrix)
    found["few rows"] = apart(one["boundary", "residual"], many["boundary", "residual"])

    refused = {}
    fifty = ntk.shard({"residual": points["residual"][:50]})
    half = jax.device_put(points["two rows"], NamedSharding(jax.make_mesh((1,), ("x",)), PartitionSpec()))
    calls = {
        "matrix": lambda: ntk.empirical(single, network.apply, params, fifty),
        "infinite": lambda: ntk.infinite(single, wide.kernel_fn, fifty),
        "meshes": lambda: ntk.operator(problem, network.apply, params, placed | {"two rows": half}),
        "memory": lambda: ntk.operator(
            single, network.apply, params, ntk.shard({"residual": jnp.zeros((10**7, 1))})
        ).dense(),
    }
    for name, call in calls.items():
        try:
            call()
        except ValueError as error:
            refused[name] = str(error)
    found["refused"] = refused

    # Rows and parameters that make the arrays large, of which nothing is computed.
    larger = mlp((1, 32, 32, 1))
    params, x = larger.init(jax.random.key(0)), ntk.shard({"residual": jnp.zeros((512, 1))})
    many = ntk.operator(single, larger.apply, params, x)
    programs = {
        "product": _operator._product.lower(many, jnp.zeros(512)),
        "matrix": _sharded._block.lower(many, many, gram=_rows.jacobian_gram, most=10**6),
    }
    for name, program in programs.items():
        compiled = program.compile()
        memory = compiled.memory_analysis()
        shapes = re.findall(r"(?:f32|f64)\[([\d,]+)\]", compiled.as_text())
        found[f"bytes of {name}"] = memory.temp_size_in_bytes + memory.output_size_in_bytes
        found[f"largest array of {name}"] = max(int(np.prod([int(n) for n in shape.split(",")])) for shape in shapes)
    found["parameters"] = many.parameters()
Path(out).write_text(json.dumps(found))
