"""Every test computes in float64, and in programs that XLA does not optimise: that takes longer than they run."""

import os
from importlib.metadata import version

import jax
import pytest

FLAGS = ["--xla_backend_optimization_level=0"]
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 12):  # Later ones have no others, and refuse the name.
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")  # They compile through one more language.
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])  # Read with the first computation.
jax.config.update("jax_enable_x64", True)


@pytest.fixture
def key():
    return jax.random.key(0)
