"""What `diagnosis.diagnose` costs: seconds, compilation included, peak memory, and training steps in the same time.

    python benchmarks/diagnosis.py [--large]

The Helmholtz network M1 (3 x 50) with 128 points per term; with `--large`, 5 x 500 with 2,000 points inside.  Each in
a process of its own without a cache of programs.
"""

import argparse
import os
import resource
import subprocess
import sys
import time

# Hidden layers, points on the edge and inside, and training steps that are timed.
CASES = {"3 x 50, 128 points": ((50,) * 3, 128, 128, 1000), "5 x 500, 2,000 points": ((500,) * 5, 500, 2000, 50)}


def one(case: str) -> None:
    import jax

    from pinn_analysis import diagnosis, mlp, problems, standardized, train

    hidden, edge, inside, more = CASES[case]
    problem, key = problems.helmholtz_2d(), jax.random.key(0)
    network = standardized(mlp((2, *hidden, 1)), *problem.domain)
    points = problem.sample(key, {"boundary": edge, "residual": inside})

    def short(steps: int):
        start = time.perf_counter()
        run = train(problem, network, key=key, steps=steps, points=points, record_every=10**9, progress=False)
        return run, time.perf_counter() - start

    run, _ = short(20)
    step = (short(20 + more)[1] - short(20)[1]) / more  # Of two runs the difference, so that compiling is not in it.
    start, cpu = time.perf_counter(), time.process_time()
    found = diagnosis.diagnose(problem, network.apply, run.params, points)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(
        f"{case}: {seconds:.0f} s, {cpu:.0f} s of a core, {memory:.1f} GB at most, {seconds / step:.0f} training steps"
    )
    slow = sorted(found.seconds.items(), key=lambda item: -item[1])[:5]
    print("  longest: " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in slow))
    print(
        f"  first finding: {found.findings[0].cause if found.findings else 'none'}; not measured: {found.not_measured}"
    )


def main(large: bool) -> None:
    environment = {key: value for key, value in os.environ.items() if "COMPILATION_CACHE" not in key}
    for case in list(CASES)[: 1 + large]:
        subprocess.run([sys.executable, __file__, "--one", case], env=environment, check=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    one(arguments.one) if arguments.one else main(arguments.large)
