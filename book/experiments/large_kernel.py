"""Kernels that no memory holds: largest eigenvalues, density and trace from products alone.

    python book/experiments/large_kernel.py [--sizes 1000 3000 10000 30000 100000] [--starts 3]

For chapter 28.  Helmholtz by a network of half a million parameters.  Each record is one run of Lanczos' method from
one random vector: a sample of the density of ``D^½ K D^½`` whose upper end is the largest eigenvalues, each with its
bound; with what it cost in processor time and memory, in a process of its own.  In float32, and once in float64.
"""

import concurrent.futures
import multiprocessing
import resource
import time

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from pinn_analysis import networks, ntk, problems, results, spectra

import runs

WIDTH = 410
PRODUCTS = 36
CHECKED = 3000  # Rows of the run in float64.
SCALE = 1 / (2 * np.pi)  # Of the features: 1 in the code of their authors, which has no 2π.


def kernel(n: int, width: int, dtype: str) -> ntk.KernelOperator:
    """A tenth of the rows on the boundary, the others inside."""
    problem = problems.helmholtz_2d()
    network = networks.fourier_mlp((2, *(width,) * 3, 1), scales=(SCALE,), key=jax.random.key(0))
    params = network.init(jax.random.key(1))
    points = problem.sample(jax.random.key(2), {"boundary": n // 10, "residual": n - n // 10})
    return ntk.operator(problem, network.apply, *jax.tree.map(lambda leaf: leaf.astype(dtype), (params, points)))


def measure(config: dict) -> dict[str, np.ndarray]:
    """One record; memory is the largest that this process has had so far."""
    n, start = config["rows"], config["start"]
    whole = kernel(n, config["width"], config["dtype"])
    like, seconds = jnp.zeros(n, config["dtype"]), time.process_time
    before = peak_memory()
    program = jax.jit(lambda kernel, v: kernel.linear()(v)).lower(whole, like).compile()
    begin = seconds()
    product = jax.block_until_ready(program(whole, like + 1))
    if product.dtype != like.dtype:
        raise TypeError(f"A product with a vector of {like.dtype} is of {product.dtype}.")
    times = {"product": seconds() - begin}
    arrays = {}
    if config["products"]:
        begin = seconds()
        found = jax.block_until_ready(
            spectra.density(
                spectra.weighted(whole), like, key=jax.random.key(3 + start), num_matvecs=config["products"], samples=1
            )
        )
        times["lanczos"] = seconds() - begin
        arrays |= {"values": found.values[0], "counts": found.counts[0], "errors": found.errors[0]}
    peak = peak_memory()
    if config["products"] and start == 0:
        begin = seconds()
        arrays["traces"] = np.array(list(spectra.weighted(whole).traces().values()))
        times["trace"] = seconds() - begin
    arrays |= {f"seconds_{name}": value for name, value in times.items()}
    parameters = sum(leaf.size for leaf in jax.tree.leaves(whole.params))
    return {name: np.asarray(value) for name, value in arrays.items()} | {
        "parameters": parameters, "bytes_before": before, "bytes_peak": peak, "bytes_with_trace": peak_memory(),
    }  # fmt: skip


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in kibibytes.


def make(config: dict) -> dict[str, np.ndarray]:
    """In a new process, so that its memory is its own."""
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        return alone.submit(measure, config).result()


def configs(sizes: tuple[int, ...], starts: int) -> dict[str, dict]:
    def settings(n: int, dtype: str, start: int, products: int) -> dict:
        return {
            "rows": n, "dtype": dtype, "start": start, "width": WIDTH, "products": products,
            "problem": "helmholtz_2d", "network": "fourier_mlp, scale 1/2π",
        }  # fmt: skip

    found = {f"{n} float32 product": settings(n, "float32", 0, 0) for n in sizes}
    for start in range(starts):
        found |= {f"{n} float32 {start}": settings(n, "float32", start, PRODUCTS) for n in sizes}
        if start == 0 and CHECKED in sizes:
            found[f"{CHECKED} float64 0"] = settings(CHECKED, "float64", 0, PRODUCTS)
    return found


def main(sizes: tuple[int, ...] = (1000, 3000, 10_000, 30_000, 100_000), starts: int = 3) -> None:
    results.fill("large_kernel", configs(sizes, starts), make)


if __name__ == "__main__":
    runs.command_line(main)
