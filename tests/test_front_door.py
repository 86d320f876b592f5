"""The names that ``import metanet`` offers, and the time that it takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import metanet


def run_python(code: str) -> str:
    """Returns the standard output of a fresh interpreter."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.parametrize("name", metanet.__all__)
def test_every_public_name_is_defined_and_documented(name):
    value = getattr(metanet, name)
    assert value.__doc__
    assert name in dir(metanet)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'discovr'"):
        getattr(metanet, "discov" + "r")


def test_importing_metanet_loads_no_library():
    heavy = ("jax", "flax", "matplotlib", "numpy", "pyarrow")
    code = f"import metanet, sys; print([m for m in {heavy} if m in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_importing_metanet_is_quick():
    code = (
        "import time; start = time.perf_counter(); import metanet;"
        "print(time.perf_counter() - start)"
    )
    assert min(float(run_python(code)) for _ in range(3)) < 0.2


def test_type_checkers_see_the_package():
    assert (Path(metanet.__file__).parent / "py.typed").is_file()


def test_a_network_becomes_a_graph_in_one_call():
    def apply_fn(params, x):
        return jnp.tanh(x @ params["w1"] + params["b1"][None]) @ params["w2"]

    params = {
        "w1": jnp.arange(6.0).reshape(2, 3),
        "b1": jnp.arange(3.0),
        "w2": jnp.arange(3.0)[:, None],
    }
    x = jnp.ones((1, 2))
    graph = metanet.parameter_graph(apply_fn, params, x)
    assert isinstance(graph, metanet.ParameterGraph)
    symmetry = metanet.discover(apply_fn, params, x)
    element = metanet.random_element(symmetry, jax.random.key(0))
    transformed = metanet.act(symmetry, element, params)
    assert jnp.allclose(apply_fn(params, x), apply_fn(transformed, x), atol=1e-6)
