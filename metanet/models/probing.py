r"""ProbeGen: what a network answers to learned inputs, and nothing else.

Source: Kahana et al., "Deep Linear Probe Generators for Weight Space Learning" (ICLR
2025): learned latent codes pass through a linear generator shared by all probes; the
network's outputs at the probes, concatenated, go through an MLP.

Equivariance: invariant to whatever leaves the network's function unchanged, permutations,
scales, signs and phases alike: no weight is read. Edits need another model.

Deviation: the generator is two linear maps for inputs of any shape (the paper's has
transposed convolutions without activations for images), so no structure of images is
given beforehand.
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


@dataclass(frozen=True)
class ProbeGenConfig(Options):
    """Options of ProbeGen.

    Attributes:
        probes: Number of learned inputs.
        latent: Width of their codes.
        dim: Width of the hidden layers.
        depth: Number of hidden layers.
        dropout: Rate on the last features.
    """

    probes: PositiveInt = 64
    latent: PositiveInt = 32
    dim: PositiveInt = 256
    depth: PositiveInt = 2
    dropout: Rate = 0.0


@MODELS.register("probegen")
class ProbeGen(nnx.Module):
    """Learned probes and an MLP on the answers."""

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
            raise MetanetError(
                "probe: probegen has no access to the input network; pass it as probe"
            )
        activations = [
            n.activation
            for n in topology.nodes
            if n.kind == "output" and n.activation >= 0
        ]
        if not activations:
            raise MetanetError("probegen: the network's outputs cannot be captured")
        self.config, self.dim, self.activations = config, config.dim, tuple(activations)
        self.probe = model_inputs.probe
        shape = self.probe.input_shape
        codes = jax.random.normal(rngs.params(), (config.probes, config.latent))
        self.codes = nnx.Param(codes)
        self.generate = Linear(config.latent, math.prod(shape), rngs=rngs)
        spec = self.probe.spec
        example = jax.eval_shape(
            lambda v: self._answers(spec.unflatten(v), self._inputs()),
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

    def _answers(self, params, inputs: jax.Array) -> jax.Array:
        values = self.probe.activations(params, inputs)
        held = [values[activation] for activation in self.activations]
        if any(v is None for v in held):
            raise MetanetError("probegen: the network's outputs cannot be captured")
        return jnp.concatenate([jnp.ravel(v) for v in held])  # type: ignore[arg-type]

    def _all(self, graphs: GraphBatch) -> jax.Array:
        inputs = self._inputs()
        params = to_params(require_dense(graphs), self.probe.spec.treedef)
        return jax.vmap(lambda p: self._answers(p, inputs))(params)

    def set_statistics(self, graphs: GraphBatch) -> None:
        """Measures mean and deviation of the answers on a sample of graphs."""
        answers = self._all(graphs)
        self.mean[...] = answers.mean()
        self.deviation[...] = jnp.maximum(answers.std(), 1e-8)

    def __call__(
        self,
        graphs: GraphBatch,
        *,
        key: jax.Array | None = None,
        deterministic: bool = True,
    ) -> Features:
        """Pooled features ``[B, dim]``."""
        x = (self._all(graphs) - self.mean[...]) / self.deviation[...]
        for layer in self.layers:
            x = jax.nn.silu(layer(x))
        x = dropout(x, self.config.dropout, key, deterministic)
        return Features(None, None, x)
