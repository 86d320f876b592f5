"""Four virtual CPU devices, and strictness that catches silent broadcasting."""

import gc
import os
from collections.abc import Iterator
from importlib.metadata import version

import jax
import pytest
from absl import flags

# Tests compile far more than they compute: without machine-code optimisation and in one
# piece per program they take half the time. (What XLA itself fuses stays as it is.)
_FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if version("jaxlib") < "0.11":  # later ones do not know it, and stop at unknown flags
    _FLAGS += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("XLA_FLAGS", _FLAGS)  # read with the first program

jax.config.update("jax_platforms", os.environ.get("JAX_PLATFORMS", "cpu"))
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure() -> None:
    flags.FLAGS.mark_as_parsed()
    # Programs and graphs are many small objects, and few of them garbage.
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture
def key() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(autouse=True, scope="module")
def _forget_programs() -> Iterator[None]:
    """Keeps a worker small: programs compiled for one file are of no use to the next."""
    yield
    jax.clear_caches()
    gc.collect()
