"""Kernels over 1, 2, 4 and 8 simulated devices: memory of each, time, and how far they are from one device.

    python benchmarks/devices.py [--points 2048] [--width 64]

Memory is what the compiled program has beside its arguments: temporary arrays and the result, per device.  The devices
are threads of this machine's cores, so that times show what dividing costs, not what it gains.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp

from pinn_analysis import mlp, ntk, problems
from pinn_analysis.ntk import _limit, _operator, _rows, _sharded

DEVICES = (1, 2, 4, 8)


def measure(points: int, width: int) -> dict[str, tuple[float, float, float]]:
    """Mebibytes per device, seconds, and the distance from one device, of each computation."""
    problem = problems.poisson_1d(4).only("residual")
    network, wide = mlp((1, width, width, 1)), mlp((1, 64, 1), "erf", parameterization="ntk", bias_std=1.0)
    params, x = network.init(jax.random.key(0)), problem.sample(jax.random.key(1), points)
    one, many = (ntk.operator(problem, network.apply, params, y) for y in (x, ntk.shard(x)))
    v = jnp.cos(jnp.arange(points))
    programs = {
        "product": _operator._product.lower(many, v),
        "diagonal": _sharded.diagonal.lower(many, of_share=_rows.jacobian_diagonal),
        "rows of the matrix": _sharded._block.lower(many, many, gram=_rows.jacobian_gram, most=10**9),
    }
    ways = {
        "product": lambda kernel: kernel.mv(v),
        "diagonal": lambda kernel: kernel.diagonal(),
        "rows of the matrix": lambda kernel: kernel.dense(method="jacobian").matrix,
    }
    found = {}
    for name, way in ways.items():
        theirs = jax.block_until_ready(way(many))
        start = time.perf_counter()
        jax.block_until_ready(way(many))
        seconds, mine = time.perf_counter() - start, way(one)
        apart = float(jnp.abs(mine - theirs).max() / jnp.abs(mine).max())
        memory = programs[name].compile().memory_analysis()
        found[name] = (memory.temp_size_in_bytes + memory.output_size_in_bytes) / 2**20, seconds, apart
    seen = {}
    limit = _limit._block_by_rows

    def kept(*args, **options):
        seen["memory"] = limit.lower(*args, **options).compile().memory_analysis()
        return limit(*args, **options)

    _limit._block_by_rows = kept
    mine, theirs = (ntk.infinite(problem, wide.kernel_fn, y).matrix for y in (x, ntk.shard(x)))
    _limit._block_by_rows = limit
    start = time.perf_counter()
    jax.block_until_ready(ntk.infinite(problem, wide.kernel_fn, ntk.shard(x)).matrix)
    seconds, apart = time.perf_counter() - start, float(jnp.abs(mine - theirs).max() / jnp.abs(mine).max())
    memory = seen["memory"].temp_size_in_bytes + seen["memory"].output_size_in_bytes
    found["infinite width"] = memory / 2**20, seconds, apart
    return found


def main(points: int, width: int) -> None:
    found = {}
    for count in DEVICES:
        environment = os.environ | {
            "XLA_FLAGS": f"--xla_force_host_platform_device_count={count}",
            "JAX_PLATFORMS": "cpu",
        }
        command = [sys.executable, __file__, "--points", str(points), "--width", str(width), "--measure"]
        found[count] = json.loads(
            subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        )
    print(f"{points} points, two hidden layers of {width}; per device, against one device")
    print(f"{'':20}{'devices':>8}{'MiB':>10}{'share':>8}{'time':>8}{'apart':>10}")
    for name in found[1]:
        for count, of in found.items():
            (memory, seconds, apart), (whole, alone, _) = of[name], found[1][name]
            print(f"{name:20}{count:8}{memory:10.2f}{memory / whole:8.2f}{seconds / alone:8.2f}{apart:10.1e}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=2048)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    options = vars(parser.parse_args())
    if options.pop("measure"):
        print(json.dumps(measure(**options)))
    else:
        main(**options)
