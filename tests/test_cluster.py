"""Experiments on Dask: real workers, one of which is killed."""

import collections
import importlib
import os
import subprocess
import sys
from pathlib import Path

import distributed
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pinn_analysis import _cluster, results

EXPERIMENTS = Path(__file__).resolve().parent.parent / "book" / "experiments"
SCRIPT = '''
"""A sweep of which one record kills its worker, once."""

import os
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import runs
from pinn_analysis import results

jax.config.update("jax_enable_x64", True)
HERE = Path(__file__).parent
double = jax.jit(lambda x: 2 * x)


def make(config):
    with (HERE / "begun").open("a") as file:
        print(config["seed"], file=file)
    if config["seed"] == 3 and (HERE / "begun").read_text().split().count("3") == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return {"x": double(jnp.full(2, config["seed"], float)), "worker": os.getpid()}


def main(seeds: int = 2):
    results.fill("sweep", {str(seed): {"seed": seed} for seed in range(seeds)}, make, folder=HERE)


if __name__ == "__main__":
    runs.command_line(main)
'''


def test_a_worker_that_is_killed_repeats_its_record_and_no_other(tmp_path):
    script = tmp_path / "sweep.py"
    script.write_text(SCRIPT)
    paths = os.pathsep.join([str(EXPERIMENTS), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, script, "--dask", "--seeds", "6"]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths})
    assert ended.returncode == 0, ended.stderr
    begun = collections.Counter((tmp_path / "begun").read_text().split())
    assert begun == {"3": 2} | {str(seed): 1 for seed in (0, 1, 2, 4, 5)}
    table = results.records("sweep", folder=tmp_path)
    assert set(table) == set(begun)
    for record, (arrays, how) in table.items():
        np.testing.assert_array_equal(arrays["x"], np.full(2, 2.0 * int(record)))
        assert arrays["x"].dtype == np.float64 and how["precision"] == "float64"
        assert how["device"] == "1 CPU core" and how["commit"] and how["versions"]["jax"] and how["seconds"] > 0


@pytest.fixture(scope="module")
def cluster():
    """A scheduler with a worker, both in this process."""
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=":0", silence_logs=50
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster) as client:
        yield client


def test_a_script_uses_the_workers_of_a_scheduler(cluster, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    script, runs = importlib.import_module("cavity_reference"), importlib.import_module("runs")
    options = "--finest 36 --test 19".split()
    monkeypatch.setattr(sys, "argv", ["cavity_reference.py", "--scheduler", cluster.scheduler_address, *options])
    used = []
    monkeypatch.setattr(_cluster, "_first_commit", lambda: used.append(1) or _cluster._head())
    runs.command_line(script.main)
    configs = script.configs(36, 19)
    table = results.records("cavity_reference")
    assert set(table) == set(configs) and len(used) == len(configs)
    for name, (arrays, _) in table.items():
        for array, value in script.make(configs[name]).items():
            np.testing.assert_array_equal(arrays[array], value)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_worker_computes_in_the_precision_of_the_client(client, tmp_path, precision):
    with jax.enable_x64(precision == "float64"):
        results.fill("table", {"a": {}}, lambda config: {"x": jnp.ones(2)}, folder=tmp_path)
    arrays, how = results.records("table", folder=tmp_path)["a"]
    assert arrays["x"].dtype.name == how["precision"] == precision


def test_a_record_that_fails_is_an_error_after_all_others_are_stored(client, tmp_path):
    configs = {str(n): {"n": n} for n in range(4)}
    with pytest.raises(ZeroDivisionError) as error:
        results.fill("table", configs, lambda config: {"x": 1 / config["n"]}, folder=tmp_path)
    assert error.value.__notes__ == ["Not made: '0'.  All other records are stored."]
    assert set(results.records("table", folder=tmp_path)) == {"1", "2", "3"}
    assert results.fill("table", configs, lambda config: {"x": 0.0}, folder=tmp_path) == ["0"]


def test_a_worker_whose_checkout_has_moved_on_is_an_error(client, tmp_path, monkeypatch):
    monkeypatch.setattr(_cluster, "_first_commit", lambda: "of before")
    with pytest.raises(RuntimeError, match="loaded the code of commit of before, .* restart it"):
        results.fill("table", {"a": {}}, lambda config: {"x": 0.0}, folder=tmp_path)


def test_without_a_client_nothing_leaves_this_process(tmp_path):
    seen = []
    results.fill("table", {"a": {}}, lambda config: seen.append(config) or {"x": 0.0}, folder=tmp_path)
    assert seen == [{}]


@pytest.mark.parametrize("options", [["--dask"], ["--scheduler", "tcp://127.0.0.1:1"]], ids=" ".join)
def test_without_dask_the_error_says_what_to_install(options, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXPERIMENTS)
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.setattr(sys, "argv", ["poisson_frequency.py", *options])
    script, runs = importlib.import_module("poisson_frequency"), importlib.import_module("runs")
    with pytest.raises(SystemExit):
        runs.command_line(script.main)
    assert "pip install 'pinn-analysis[dask]'" in capsys.readouterr().err
