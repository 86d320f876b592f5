"""Weight-space metanetworks in JAX: networks that read the weights of other networks.

``metanet`` discovers the symmetries of any network that is written as a JAX function
``apply_fn(params, *inputs)``, turns its parameters into a graph whose automorphisms are
these symmetries, and learns on such graphs.

    import metanet

    symmetry = metanet.discover(apply_fn, params, x)
    element = metanet.random_element(symmetry, key)
    same_function = metanet.act(symmetry, element, params)
    graph = metanet.parameter_graph(apply_fn, params, x)

Symmetries
    `discover` finds the symmetries of a network; `Symmetry` describes them.
    `random_element` draws one, `act` applies it, `canonicalize` sorts units into a
    canonical order.

Graphs
    `parameter_graph` makes the `ParameterGraph` of a network in one call; `Topology` is
    its static part. `pack` puts graphs of different networks into one batch.

Networks
    `from_module` reads a Flax or Equinox module; `load_network` reads a file (ONNX,
    PyTorch, safetensors, npz).

The subpackages, in the order in which data flows through them (each imports only from
those before it):

    programs -> networks -> importers -> symmetry -> graphs -> zoos -> models -> augment
    -> tasks -> training -> report -> cli

Names are imported when they are first used, so that ``import metanet`` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from metanet.errors import MetanetError
    from metanet.graphs import ParameterGraph, Topology, pack, parameter_graph
    from metanet.importers import from_module, load_network
    from metanet.symmetry import (
        Symmetry,
        act,
        canonicalize,
        discover,
        random_element,
    )

__version__ = "0.1.0"

__all__ = [
    "MetanetError",
    "ParameterGraph",
    "Symmetry",
    "Topology",
    "act",
    "canonicalize",
    "discover",
    "from_module",
    "load_network",
    "pack",
    "parameter_graph",
    "random_element",
]

# The module that defines each public name.
_MODULES = {
    "MetanetError": "metanet.errors",
    "ParameterGraph": "metanet.graphs",
    "Symmetry": "metanet.symmetry",
    "Topology": "metanet.graphs",
    "act": "metanet.symmetry",
    "canonicalize": "metanet.symmetry",
    "discover": "metanet.symmetry",
    "from_module": "metanet.importers",
    "load_network": "metanet.importers",
    "pack": "metanet.graphs",
    "parameter_graph": "metanet.graphs",
    "random_element": "metanet.symmetry",
}
_SUBPACKAGES = (
    "augment",
    "cli",
    "graphs",
    "importers",
    "models",
    "networks",
    "report",
    "symmetry",
    "tasks",
    "training",
    "zoos",
)


def __getattr__(name: str) -> object:
    """Imports a public name or a subpackage when it is first used (PEP 562)."""
    if name in _MODULES:
        value = getattr(import_module(_MODULES[name]), name)
    elif name in _SUBPACKAGES:
        value = import_module(f"metanet.{name}")
    else:
        raise AttributeError(f"module 'metanet' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBPACKAGES})
