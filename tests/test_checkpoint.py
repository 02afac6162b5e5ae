"""A run that is killed, at any moment, ends where the unbroken one ends, bit for bit."""

import functools
import shutil
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import optax
import pytest

from pinn_analysis import mlp, problems, train, training, weighting

SCRIPT = """
import sys
import jax
from pinn_analysis import mlp, problems, train, training, weighting

jax.config.update("jax_enable_x64", True)
training.CHECKPOINT_SECONDS = 0.0
rule = weighting.lr_annealing(every=3)
train(problems.poisson_1d(1), mlp((1, 8, 1)), key=jax.random.split(jax.random.key(0), 2), steps=100_000, batch_size=4,
      record_every=10, weighting=rule, checkpoint=sys.argv[1], progress=False)
"""
PROBLEM, NETWORK = problems.poisson_1d(1), mlp((1, 8, 1))


@pytest.fixture
def short(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    return functools.partial(
        train, PROBLEM, NETWORK, key=jax.random.key(0), batch_size=4, record_every=10, checkpoint=tmp_path / "run",
        progress=False,
    )  # fmt: skip


def assert_same(a, b):
    assert a.history.keys() == b.history.keys()
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_run_killed_with_signal_9_ends_where_the_unbroken_one_ends(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "killed")], stdout=subprocess.DEVNULL)
    saved = lambda: [int(path.name) for path in (tmp_path / "killed").glob("[0-9]*") if path.name.isdigit()]
    deadline = time.monotonic() + 120
    while len(saved()) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    steps = max(saved()) + 15  # Not a step that is recorded.
    settings = {
        "key": jax.random.split(jax.random.key(0), 2), "steps": steps, "batch_size": 4, "record_every": 10,
        "weighting": weighting.lr_annealing(every=3), "progress": False,
    }  # fmt: skip
    resumed = train(PROBLEM, NETWORK, checkpoint=tmp_path / "killed", **settings)
    assert steps > 15 and resumed.history["step"][-1] == steps
    assert_same(resumed, train(PROBLEM, NETWORK, **settings))


def test_a_finished_run_goes_on_when_asked_for_more_steps(short):
    assert short(steps=25).history["step"].tolist() == [0, 10, 20, 25]
    longer = short(steps=47)
    assert longer.history["step"].tolist() == [0, 10, 20, 30, 40, 47]
    assert_same(longer, short(steps=47, checkpoint=None))
    assert_same(longer, short(steps=47))  # Nothing left to do.


@pytest.mark.parametrize(
    "optimizer", [optax.lbfgs(), optax.chain(optax.adam(1e-2), optax.contrib.reduce_on_plateau(patience=3))]
)
def test_a_line_search_or_a_plateau_goes_on_where_it_was(short, optimizer):
    points = {"boundary": np.array([[0.0], [1.0]]), "residual": np.linspace(0, 1, 7)[:, None]}
    short(steps=13, optimizer=optimizer, points=points)
    unbroken = short(steps=30, optimizer=optimizer, points=points, checkpoint=None)
    assert_same(short(steps=30, optimizer=optimizer, points=points), unbroken)


@pytest.mark.parametrize(
    "other, message",
    [
        ({"optimizer": optax.adam(2e-3)}, "differs in: network, equation, optimizer"),
        ({"batch_size": 5}, "differs in: network, equation, optimizer"),
        ({"key": jax.random.key(1)}, "differs in: key; initial parameters"),
        ({"points": {"boundary": np.ones((1, 1)), "residual": np.ones((1, 1))}}, "differs in: .*points"),
        ({"record_every": 5}, "differs in: record_every"),
        ({"steps": 10}, "at step 20, beyond `steps`, 10"),
    ],
)
def test_a_checkpoint_of_another_run_is_an_error_and_stays(short, tmp_path, other, message):
    first = short(steps=20)
    with pytest.raises(ValueError, match=message):
        short(**({"steps": 20} | other))
    assert_same(short(steps=20), first)


def test_a_damaged_checkpoint_says_so_and_the_one_before_it_still_serves(short, tmp_path):
    unbroken = short(steps=30)
    for path in (tmp_path / "run" / "30" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="checkpoint .*30 is damaged.*Delete that folder to go on"):
        short(steps=30)
    shutil.rmtree(tmp_path / "run" / "30")
    assert_same(short(steps=30), unbroken)
