"""Models by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx

from metanet.graphs import Topology
from metanet.models.base import MODELS, Model, new_model
from metanet.models.probes import Probe
from metanet.symmetry import Symmetry


def model_config(name: str, options: Mapping[str, Any]) -> Any:
    """Returns the checked options of a model.

    Raises:
        MetanetError: for an unknown model or option (with the nearest known name).
    """
    return MODELS.configure(name, options)


def build_model(
    name: str,
    options: Mapping[str, Any],
    *,
    topology: Topology | Sequence[Topology],
    symmetry: Symmetry | None = None,
    probe: Probe | None = None,
    features: int = 1,
    rngs: nnx.Rngs,
) -> Model:
    """Builds a model for graphs of one topology, or of several.

    Args:
        name: A name in `MODELS`, or ``package.module:attribute``.
        options: Fields of the model's config class.
        topology: Topology or topologies of the graphs.
        symmetry: Discovered symmetry, for weight-space functionals.
        probe: Access to activations, for models with probes.
        features: Values per parameter.
        rngs: Keys of the initialisation.

    Raises:
        MetanetError: for an unknown model or option, an impossible value, and networks
            that the model cannot read.
    """
    return new_model(
        MODELS[name],
        model_config(name, options),
        topology,
        symmetry=symmetry,
        probe=probe,
        features=features,
        rngs=rngs,
    )
