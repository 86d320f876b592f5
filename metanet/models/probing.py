r"""ProbeGen: a model that reads the outputs of a network at learned inputs.

Source: Kahana et al., "Deep Linear Probe Generators for Weight Space Learning" (ICLR
2025): learned latent codes pass through a linear generator shared by all probes; the
network's outputs at the probes, concatenated, go through an MLP.

Equivariance: the model reads no weights, so it is invariant to every change that leaves
the network's function as it is (permutations, scales, signs, phases). It has no features
of nodes and edges, which edits need.

Deviations: the generator is one linear map to inputs of any shape, without the structure
of images (the paper's has transposed convolutions without activation functions); a tanh
brings its outputs into the range of the inputs. Outputs at the probes are standardised.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from metanet.errors import MetanetError
from metanet.graphs import GraphBatch, GraphSchema, to_params
from metanet.models.base import MODELS, Features, ModelInputs, require_dense
from metanet.models.embeddings import Statistic
from metanet.models.layers import Linear, dropout
from metanet.options import Options, PositiveInt, Rate

_UNCAPTURED = (
    "ProbeGen reads the outputs of networks; those of this one cannot be captured"
)


@dataclass(frozen=True)
class ProbeGenConfig(Options):
    """Options of ProbeGen.

    Attributes:
        probes: Number of learned inputs.
        latent: Width of the latent codes.
        dim: Width of the hidden layers.
        depth: Number of hidden layers.
        dropout: Dropout rate on the last features.
    """

    probes: PositiveInt = 64
    latent: PositiveInt = 32
    dim: PositiveInt = 256
    depth: PositiveInt = 2
    dropout: Rate = 0.0


@MODELS.register("probegen")
class ProbeGen(nnx.Module):
    """Learned probes and an MLP on the outputs of the network."""

    Config = ProbeGenConfig

    def __init__(
        self,
        config: ProbeGenConfig,
        schema: GraphSchema,
        model_inputs: ModelInputs,
        *,
        rngs: nnx.Rngs,
    ):
        topology = model_inputs.single("probegen")
        if model_inputs.probe is None:
            raise MetanetError("ProbeGen runs the input networks, got probe=None")
        activations = [
            n.activation
            for n in topology.nodes
            if n.kind == "output" and n.activation >= 0
        ]
        if not activations:
            raise MetanetError(_UNCAPTURED)
        self.config, self.dim, self.activations = config, config.dim, tuple(activations)
        self.probe = model_inputs.probe
        shape = self.probe.input_shape
        codes = jax.random.normal(rngs.params(), (config.probes, config.latent))
        self.codes = nnx.Param(codes)
        self.generate = Linear(config.latent, math.prod(shape), rngs=rngs)
        spec = self.probe.spec
        example = jax.eval_shape(
            lambda v: self._outputs(spec.unflatten(v), self._inputs()),
            jax.ShapeDtypeStruct((spec.size,), jnp.float32),
        )
        count = example.shape[0]
        self.mean, self.deviation = (
            Statistic(jnp.zeros(())),
            Statistic(jnp.ones(())),
        )
        widths = [count] + [config.dim] * config.depth
        self.layers = nnx.List(
            [Linear(a, b, rngs=rngs) for a, b in zip(widths, widths[1:], strict=False)]
        )

    @property
    def cost(self) -> int:
        """Floats per network: activations at the probes, estimated from its units."""
        return max(self.config.dim, 64 * self.config.probes)

    def _inputs(self) -> jax.Array:
        probe = self.probe
        flat = jnp.tanh(self.generate(self.codes[...]))
        middle, half = (probe.high + probe.low) / 2, (probe.high - probe.low) / 2
        return (middle + half * flat).reshape(-1, *probe.input_shape)

    def _outputs(self, params, inputs: jax.Array) -> jax.Array:
        values = self.probe.activations(params, inputs)
        outputs = []
        for activation in self.activations:
            value = values[activation]
            if value is None:
                raise MetanetError(_UNCAPTURED)
            outputs.append(jnp.ravel(value))
        return jnp.concatenate(outputs)

    def _batch_outputs(self, graphs: GraphBatch) -> jax.Array:
        inputs = self._inputs()
        params = to_params(require_dense(graphs), self.probe.spec.treedef)
        return jax.vmap(lambda p: self._outputs(p, inputs))(params)

    def set_statistics(self, graphs: GraphBatch) -> None:
        """Measures mean and deviation of the outputs on a sample of graphs."""
        outputs = self._batch_outputs(graphs)
        self.mean[...] = outputs.mean()
        self.deviation[...] = jnp.maximum(outputs.std(), 1e-8)

    def __call__(
        self,
        graphs: GraphBatch,
        *,
        key: jax.Array | None = None,
        deterministic: bool = True,
    ) -> Features:
        """Returns pooled features ``[B, dim]``."""
        x = (self._batch_outputs(graphs) - self.mean[...]) / self.deviation[...]
        for layer in self.layers:
            x = jax.nn.silu(layer(x))
        x = dropout(x, self.config.dropout, key, deterministic)
        return Features(None, None, x)
