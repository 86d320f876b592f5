"""Rules of JAX primitives; `load_rules` registers them."""

from importlib import import_module

_MODULES = (
    "collectives",
    "contraction",
    "control_flow",
    "elementwise",
    "fourier",
    "indexing",
    "linear_algebra",
    "random_bits",
    "reduction",
    "shape",
    "slicing",
)


def load_rules() -> None:
    """Imports the modules of this package, each of which registers its rules."""
    for name in _MODULES:
        import_module(f"{__name__}.{name}")
