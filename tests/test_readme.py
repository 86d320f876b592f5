"""The Python code in the README runs."""

from __future__ import annotations

import re
from pathlib import Path

import jax.numpy as jnp

README = Path(__file__).parents[1] / "README.md"


def test_the_code_in_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    assert blocks
    names: dict = {}
    for block in blocks:
        exec(block, names)
    outputs = [names["mlp"](names[p], names["x"]) for p in ("params", "transformed")]
    assert jnp.allclose(*outputs, atol=1e-5)
