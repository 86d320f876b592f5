"""Metanetworks and networks for them to read, by name."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from helpers.symmetry_families import FAMILIES
from helpers.symmetry_networks import NETWORKS
from metanet import symmetry as sym
from metanet.graphs import (
    ParameterGraph,
    Topology,
    build_topology,
    remaining_symmetry,
    to_graph,
)
from metanet.models import MODELS, Probe, build_model
from metanet.networks import Architecture, ParamSpec, create

MODELS_TESTED: dict[str, dict[str, Any]] = {
    **{name: {} for name in MODELS if name not in ("flat_mlp", "dmc", "transformer")},
    "product_gmn": {"moments": 4, "readout": "moments"},
    "product_gmn attention": {"readout": "attention"},
    "product_gmn probes": {"probes": 3},
    "gmn parallel": {"kernel": "parallel"},
    "gmn loops": {"bias": "loop", "aggregate": "attention", "readout": "nodes_edges"},
    "gmn pna": {"bias": "feature", "aggregate": "pna", "directions": "forward"},
    "gmn sum": {"aggregate": "sum", "readout": "attention"},
}
SUBJECTS = {
    "siren": lambda: create(
        Architecture.of("siren", hidden=[5, 4], w0=5.0), jax.random.key(0)
    ),
    "mlp": NETWORKS["mlp"],
    "small CNN": lambda: create(
        Architecture.of("small_cnn", widths=[3, 4], classes=3), jax.random.key(0)
    ),
    "residual CNN with norm": NETWORKS["group norm"],
    "transformer block": NETWORKS["transformer"],
    "GRU": FAMILIES["gru"],
    "RNN": NETWORKS["rnn"],
    "DeepSets": NETWORKS["deep sets"],
    "mixer": NETWORKS["mixer"],
}
PROBING = ("probegen", "product_gmn probes")


class ModelInputs(NamedTuple):
    """A network, its symmetry and topology, and a batch of three parameter sets."""

    network: Any
    symmetry: sym.Symmetry
    topology: Topology
    params: Any


@functools.cache
def subject(name: str) -> ModelInputs:
    return model_inputs(SUBJECTS[name]())


def model_inputs(network: Any) -> ModelInputs:
    """Returns a network with three parameter sets in general position."""
    symmetry = sym.discover(
        network.apply_fn, network.params, *network.inputs, check=False
    )
    leaves, treedef = jax.tree.flatten(network.params)

    def with_noise(leaf: jax.Array, key: jax.Array) -> jax.Array:
        noise = 0.3 * jax.random.normal(key, leaf.shape)
        return leaf + noise * (jnp.std(leaf) + 0.1)

    def sample(key: jax.Array) -> Any:
        keys = jax.random.split(key, len(leaves))
        return treedef.unflatten(map(with_noise, leaves, keys))

    params = jax.jit(jax.vmap(sample))(jax.random.split(jax.random.key(0), 3))
    return ModelInputs(network, symmetry, build_topology(symmetry), params)


def build(model: str, subjects: list[ModelInputs], seed: int = 0, depth: int = 2):
    first = subjects[0]
    small = {"dim": 16, "depth": depth}
    options = {k: v for k, v in small.items() if k in MODELS.options(model.split()[0])}
    probe = None
    if model in PROBING:
        apply_fn, shape = first.network.apply_fn, first.network.inputs[0].shape[1:]
        activations = functools.partial(
            sym.compute_activations, apply_fn, first.symmetry
        )
        probe = Probe(activations, ParamSpec.of(first.network.params), shape)
    net = build_model(
        model.split()[0],
        {**options, **MODELS_TESTED.get(model, {})},
        topology=[s.topology for s in subjects],
        symmetry=first.symmetry,
        probe=probe,
        rngs=nnx.Rngs(seed),
    )
    randomize(net, 0.1, seed)
    return net


def randomize(model: nnx.Module, deviation: float, seed: int = 0) -> None:
    """Adds noise to all parameters.

    An offset that starts at 0 and a gain that starts at 1 would hide what they break.
    """
    leaves, treedef = jax.tree.flatten(nnx.state(model, nnx.Param))
    rng = np.random.default_rng(seed)
    noise = [jnp.asarray(deviation * rng.normal(size=x.shape), x.dtype) for x in leaves]
    nnx.update(model, treedef.unflatten(map(jnp.add, leaves, noise)))


def scale_equivariant(model: str) -> bool:
    return getattr(MODELS[model.split()[0]], "scale_equivariant", False)


def graphs_of(subject: ModelInputs, factors: bool):
    """Returns a function from parameters to graphs, which canonicalizes the parameters.

    With ``factors``, factors of nodes remain, for models that are equivariant to them.
    """
    symmetry = subject.symmetry
    if factors:
        symmetry = remaining_symmetry(subject.symmetry, subject.topology)
    canonicalize = jax.vmap(functools.partial(sym.canonicalize, symmetry))

    def graphs(params: Any) -> ParameterGraph:
        return to_graph(subject.topology, canonicalize(params))

    return graphs


def flat(params: Any, i: int) -> np.ndarray:
    return np.concatenate([np.asarray(x[i]).ravel() for x in jax.tree.leaves(params)])
