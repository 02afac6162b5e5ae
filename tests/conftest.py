"""Every test computes in float64, and in programs that XLA does not optimise: that takes longer than they run."""

import os

# Before JAX reads them.  The newer emitters of fused loops compile through one more language.
os.environ["XLA_FLAGS"] = " ".join(
    [os.environ.get("XLA_FLAGS", ""), "--xla_backend_optimization_level=0", "--xla_cpu_use_fusion_emitters=false"]
)

import jax
import pytest

jax.config.update("jax_enable_x64", True)


@pytest.fixture
def key():
    return jax.random.key(0)
