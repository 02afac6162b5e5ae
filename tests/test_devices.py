"""Kernels over several devices, which a process of its own simulates."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "several_devices.py"
ROUNDING = 1e-14  # Of sums in another order, relative to the largest entry.


def begin(out, devices, *processes):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen([sys.executable, SCRIPT, out, *processes], env=environment, stderr=subprocess.PIPE)


def ended(process):
    _, errors = process.communicate()
    assert process.returncode == 0, errors.decode()[-3000:]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    out = tmp_path_factory.mktemp("devices") / "found.json"
    ended(begin(out, 8))
    return json.loads(out.read_text())


@pytest.mark.parametrize(
    "what",
    ["product", "diagonal", "matrix", "infinite", "product in batches", "matrix in tiles", "structured matrix",
     "few rows"],
)  # fmt: skip
def test_eight_devices_compute_what_one_does(found, what):
    assert found["devices"] == 8 and found[what] < ROUNDING


def test_each_device_keeps_rows_of_its_own(found):
    assert found["rows of a device"] == 64 // 8


def test_no_device_has_the_jacobian_or_the_matrix(found):
    n, p = 512, found["parameters"]
    assert found["largest array of matrix"] <= n * p // 8  # More than an eighth of the matrix, ``p`` being above ``n``.
    assert found["bytes of matrix"] < 8 * (4 * n * p + 4 * n * n) / 8
    assert found["largest array of product"] < n * p // 64


def test_rows_that_the_devices_do_not_divide_are_refused_with_numbers_that_they_do(found):
    for call in ("matrix", "infinite"):
        assert found["refused"][call].startswith("The 50 rows of this matrix cannot be divided evenly among 8 devices")
        assert "take points for 48 or 56 rows" in found["refused"][call]


def test_points_on_two_meshes_are_refused(found):
    assert found["refused"]["meshes"].startswith("Points of all terms must be on the same mesh")


def test_a_matrix_too_large_for_the_devices_is_refused_with_what_would_fit(found):
    message = found["refused"]["memory"]
    assert message.startswith("A kernel of 10000000 x 10000000 rows over 8 devices takes 1e+05 GB of each")
    assert "rows would fit, or" in message and "such devices" in message


def test_two_processes_compute_what_one_does(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    outs = [tmp_path / f"{rank}.json" for rank in range(2)]
    both = [begin(out, 2, str(rank), "2", address) for rank, out in enumerate(outs)]
    for process in both:
        ended(process)
    for out in outs:
        found = json.loads(out.read_text())
        assert found["devices"] == 4 and found["rows of a device"] == 56 // 4
        assert all(found[what] < ROUNDING for what in ("product", "diagonal", "matrix", "infinite"))
