"""Models by name, and the named configs that reproduce published defaults."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import nnx

from metanet.errors import MetanetError, suggest
from metanet.graphs import GraphForm, GraphSchema, Topology
from metanet.models.base import Model, ModelInputs
from metanet.models.baselines import BaselineConfig, FlatMLP, StatNN
from metanet.models.dmc import DMC, DMCConfig
from metanet.models.functionals import Functional, FunctionalConfig
from metanet.models.gmn import GMN, GMNConfig
from metanet.models.ng_gnn import NGGNN, NGGNNConfig
from metanet.models.ng_t import NGT, NGTConfig
from metanet.models.probes import Probe
from metanet.models.probing import ProbeGen, ProbeGenConfig
from metanet.models.product_gmn import ProductGMN, ProductGMNConfig
from metanet.models.scale_gmn import ScaleGMN, ScaleGMNConfig
from metanet.models.scale_product_gmn import ScaleProductGMN, ScaleProductGMNConfig
from metanet.models.sets import (
    DeepSets,
    DeepSetsConfig,
    SetTransformer,
    SetTransformerConfig,
    TokenConfig,
    TokenTransformer,
)
from metanet.registry import Registry
from metanet.symmetry import Symmetry


@dataclasses.dataclass(frozen=True)
class Entry:
    """A model of the registry.

    Attributes:
        config: Class of its options.
        build: ``build(config, schema, subject, rngs=...)``.
        defaults: Options that its name stands for, beside the class's own.
    """

    config: type
    build: Callable[..., Any]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def options(self) -> set[str]:
        """Names of its options."""
        return {f.name for f in dataclasses.fields(self.config)}

    @property
    def carries_factors(self) -> bool:
        """Whether it is equivariant to scales and signs by itself."""
        return getattr(self.build, "carries_factors", False)


MODELS: Registry[Entry] = Registry("model")


def _register(name: str, config: type, build: Callable[..., Any], **defaults) -> None:
    MODELS.register(name)(Entry(config, build, defaults))


_register("product_gmn", ProductGMNConfig, ProductGMN)
_register("gmn", GMNConfig, GMN)
_register("ng_gnn", NGGNNConfig, NGGNN)
_register("ng_t", NGTConfig, NGT)
_register("scale_gmn", ScaleGMNConfig, ScaleGMN)
_register("scale_gmn_b", ScaleGMNConfig, ScaleGMN, directions="both")
_register("scale_product_gmn", ScaleProductGMNConfig, ScaleProductGMN)
_register("dws", FunctionalConfig, Functional, reduce="max")
_register("nfn_np", FunctionalConfig, Functional, dim=64, depth=3, pinned="permuted")
_register("nfn_hnp", FunctionalConfig, Functional, dim=64, depth=3)
_register("unf", FunctionalConfig, Functional)
_register("nft", FunctionalConfig, Functional, pinned="permuted", attention=True)
_register("flat_mlp", BaselineConfig, FlatMLP)
_register("statnn", BaselineConfig, StatNN)
_register("dmc", DMCConfig, DMC)
_register("deep_sets", DeepSetsConfig, DeepSets)
_register("set_transformer", SetTransformerConfig, SetTransformer)
_register("transformer", TokenConfig, TokenTransformer)
_register("probegen", ProbeGenConfig, ProbeGen)


def model_config(name: str, options: Mapping[str, Any]) -> Any:
    """The typed options of a model.

    Raises:
        MetanetError: for an unknown model or option (with the nearest known name).
    """
    entry = MODELS[name]
    for option in options:
        if option not in entry.options:
            raise MetanetError(
                f"config.model.{option}: model {name!r} has no such option."
                f"{suggest(option, entry.options)}"
            )
    try:
        return entry.config(**{**entry.defaults, **options})
    except MetanetError as error:
        raise MetanetError(f"config.model.{error}") from error


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
    return MODELS[name].build(config, schema, model_inputs, rngs=rngs)
