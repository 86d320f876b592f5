"""The structure that the code promises: stage order, file sizes, exported names."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import metanet

ROOT = Path(metanet.__file__).parent
STAGES = (
    "programs",
    "networks",
    "importers",
    "symmetry",
    "graphs",
    "zoos",
    "models",
    "augment",
    "tasks",
    "training",
    "report",
    "cli",
)
LEFTMOST = ("compiler", "errors", "files", "registry", "options", "progress", "tuning")
FILES = sorted(ROOT.rglob("*.py"))


def rank(module: str) -> int:
    """Place of ``metanet.STAGE...`` in the order; the leftmost modules come first."""
    parts = module.split(".")
    if len(parts) < 2 or parts[1] in ("__version__", *LEFTMOST):
        return -1
    return STAGES.index(parts[1])


def imports(path: Path) -> Iterator[str]:
    """Modules of this package that a file imports, also inside functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            base = node.module or ""
            whole = base == "metanet"
            names = [f"{base}.{a.name}" for a in node.names] if whole else [base]
        else:
            continue
        yield from (n for n in names if n.split(".")[0] == "metanet")


def test_a_stage_imports_only_from_its_left():
    for path in FILES:
        own = ".".join(("metanet", *path.relative_to(ROOT).with_suffix("").parts))
        if own == "metanet.__init__":
            continue  # imports nothing when it runs: tests/test_front_door.py
        for imported in imports(path):
            message = f"{own} imports {imported}"
            if rank(own) == -1:
                assert rank(imported) == -1, message
            else:
                assert rank(imported) <= rank(own), message


def test_every_module_belongs_to_a_stage():
    for path in FILES:
        top = path.relative_to(ROOT).parts[0].removesuffix(".py")
        assert top in (*STAGES, *LEFTMOST, "__init__"), path


@pytest.mark.parametrize("stage", STAGES)
def test_exported_names_exist(stage):
    tree = ast.parse((ROOT / stage / "__init__.py").read_text(encoding="utf-8"))
    exported = None
    bound = set()
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            bound |= {(a.asname or a.name).split(".")[0] for a in node.names}
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            bound.add(node.name)
        elif isinstance(node, ast.Assign):
            names = {t.id for t in node.targets if isinstance(t, ast.Name)}
            bound |= names
            if "__all__" in names:
                exported = ast.literal_eval(node.value)
    assert exported, f"metanet.{stage} exports nothing"
    if stage != "cli":
        # A public name that is imported but not exported is left out of the API by mistake.
        assert set(exported) == {name for name in bound if not name.startswith("_")}
    assert len(set(exported)) == len(exported)


@pytest.mark.parametrize("stage", STAGES)
def test_no_module_is_shadowed_by_a_function_of_its_name(stage):
    package = importlib.import_module(f"metanet.{stage}")
    modules = {path.stem for path in (ROOT / stage).glob("*.py")} - {"__init__"}
    exported = modules & set(getattr(package, "__all__", ()))
    shadowed = [n for n in exported if not inspect.ismodule(getattr(package, n))]
    assert not shadowed
