"""The Python code in the README runs, and the docs use names that exist."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import jax.numpy as jnp
import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("graphs", "importers", "models", "symmetry", "tasks", "training", "zoos")


def blocks(path: Path) -> list[str]:
    """Python blocks of a page."""
    text = path.read_text("utf-8")
    return re.findall(r"```python[^\n]*\n(.*?)```", text, re.DOTALL)


def test_the_code_in_the_readme_runs():
    assert blocks(README)
    names: dict = {}
    for block in blocks(README):
        exec(block, names)
    outputs = [names["mlp"](names[p], names["x"]) for p in ("params", "transformed")]
    assert jnp.allclose(*outputs, atol=1e-5)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_pages_use_names_that_exist(path):
    """Imports from metanet, and attributes of its packages."""
    for block in blocks(path):
        nodes = list(ast.walk(ast.parse(block)))
        assigned = {
            node.id
            for node in nodes
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        for node in nodes:
            if isinstance(node, ast.ImportFrom):
                if (node.module or "").split(".")[0] == "metanet":
                    module = importlib.import_module(node.module or "")
                    for alias in node.names:
                        assert hasattr(module, alias.name), (path.name, alias.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                packages = {*PACKAGES, "metanet"} - assigned
                if node.value.id in packages:
                    name = node.value.id.removeprefix("metanet")
                    module = importlib.import_module(f"metanet.{name}".rstrip("."))
                    assert hasattr(module, node.attr), (path.name, node.attr)
