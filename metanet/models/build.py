"""Models by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx

from metanet.graphs import GraphForm, GraphSchema, Topology
from metanet.models.base import MODELS, Model, ModelInputs
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
        name: A name in `MODELS`.
        options: Fields of the model's config class.
        topology: Topology or topologies of the graphs.
        symmetry: What was discovered, for weight-space functionals.
        probe: How to run the input network, for models with probe features.
        features: Values per parameter.
        rngs: Initialisation.
    """
    config = model_config(name, options)
    topologies = (topology,) if isinstance(topology, Topology) else tuple(topology)
    form = getattr(config, "form", GraphForm())
    schema = GraphSchema.of(topologies, form, features)
    model_inputs = ModelInputs(topologies, symmetry, probe)
    return MODELS[name](config, schema, model_inputs, rngs=rngs)
