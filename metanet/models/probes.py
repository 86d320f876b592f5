"""Probe features, the activations of every node at learned inputs.

Source: Kofinas et al., "Graph Neural Networks for Learning Equivariant Representations
of Neural Networks" (ICLR 2024), section 3.3; there for MLPs only. Here the input
network's traced program is replayed, so any architecture can be probed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.errors import MetanetError
from metanet.graphs import DenseLayout, Layout, NodeSet, Topology, to_params
from metanet.models.layers import Linear
from metanet.networks import ParamSpec


class Probe(NamedTuple):
    """Access to the activations of the input network.

    Attributes:
        activations: ``activations(params, inputs) -> tuple`` of an array
            ``[*units, k]`` per activation at ``k`` inputs, or None for an activation that
            cannot be captured.
        spec: Structure and shapes of the parameters.
        input_shape: Shape of one input, without the batch axis.
        low, high: Range of the inputs.
    """

    activations: Callable[[Any, jax.Array], tuple[jax.Array | None, ...]]
    spec: ParamSpec
    input_shape: tuple[int, ...]
    low: float = -1.0
    high: float = 1.0


class ProbeFeatures(nnx.Module):
    """Learned probe inputs, and linear maps from activations to node features.

    Args:
        count: Number of probe inputs.
        dim: Width of the node features.
        topology: Topology of the graphs.
        probe: Access to the activations.
        rngs: Random streams of the initialisation.

    Raises:
        MetanetError: without access to the activations.
    """

    def __init__(
        self,
        count: int,
        dim: int,
        topology: Topology,
        probe: Probe | None,
        *,
        rngs: nnx.Rngs,
    ):
        if probe is None:
            raise MetanetError(
                "probes: this model has no access to the input network; set probes to 0"
            )
        self.activations, self.spec, self.dim = probe.activations, probe.spec, dim
        shape = (count, *probe.input_shape)
        self.inputs = nnx.Param(
            jax.random.uniform(
                rngs.params(), shape, minval=probe.low, maxval=probe.high
            )
        )
        example = jax.eval_shape(
            lambda v: self.activations(self.spec.unflatten(v), jnp.zeros(shape)),
            jax.ShapeDtypeStruct((self.spec.size,), jnp.float32),
        )
        self.maps = nnx.List(
            [
                Linear(width, dim, rngs=rngs) if width else None
                for width in (_width(n, example) for n in topology.nodes)
            ]
        )

    def __call__(self, layout: Layout) -> jax.Array:
        """Returns node values ``[B, N, dim]``, 0 for nodes without activations."""
        if not isinstance(layout, DenseLayout):
            raise MetanetError(
                "probes: networks of several architectures cannot be "
                "probed in one batch; set probes to 0"
            )
        params = to_params(layout.graphs, self.spec.treedef)
        inputs = self.inputs[...]
        values = jax.vmap(lambda p: self.activations(p, inputs))(params)
        out = []
        for i, node in enumerate(layout.topology.nodes):
            linear = self.maps[i] if i < len(self.maps) else None
            value = None if linear is None else values[node.activation]
            if linear is None or value is None:
                out.append(jnp.zeros((layout.size, node.size, self.dim)))
            else:
                flat = value.reshape(value.shape[0], node.size, -1)
                out.append(linear(flat))
        return jnp.concatenate(out, axis=1)


def _width(node: NodeSet, activations: tuple[Any, ...]) -> int:
    """Returns the number of activations per node; 0 for inputs and uncaptured values."""
    captured = node.kind != "input" and 0 <= node.activation < len(activations)
    value = activations[node.activation] if captured else None
    return 0 if value is None else math.prod(value.shape) // node.size
