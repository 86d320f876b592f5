"""Four virtual CPU devices, and strictness that catches silent broadcasting."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests compile far more than they compute: without machine-code optimisation they take
# half the time. (What XLA itself fuses and reorders stays as it is.)
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import jax
import pytest
from absl import flags

jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure() -> None:
    flags.FLAGS.mark_as_parsed()


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)
