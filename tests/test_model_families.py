"""The graph metanetwork on graphs of every kind of network."""

from typing import Any

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from helpers.symmetry_families import FAMILIES
from helpers.symmetry_networks import NETWORKS

from metanet import symmetry as sym
from metanet.graphs import ParameterGraph, build_topology, to_graph
from metanet.models import build_model

CASES = {**NETWORKS, **FAMILIES}
QUICK = {
    "experts",
    "grouped query",
    "hypernetwork",
    "p4 convolution",
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in CASES],
)
def test_invariant_to_the_discovered_group(name):
    network = CASES[name]()
    symmetry = sym.discover(
        network.apply_fn, network.params, *network.inputs, check=False
    )
    topology = build_topology(symmetry)
    model = build_model(
        "product_gmn", {"dim": 16, "depth": 2}, topology=topology, rngs=nnx.Rngs(0)
    )

    leaves, treedef = jax.tree.flatten(network.params)

    def with_noise(leaf: jax.Array, key: jax.Array) -> jax.Array:
        return leaf * jnp.exp(0.3 * jax.random.normal(key, leaf.shape))

    def sample(key: jax.Array) -> Any:
        keys = jax.random.split(key, len(leaves))
        return treedef.unflatten(map(with_noise, leaves, keys))

    def graphs(params: Any) -> ParameterGraph:
        return to_graph(topology, params)

    def canonical_graphs(params: Any) -> ParameterGraph:
        return graphs(sym.canonicalize(symmetry, params))

    def act(key: jax.Array, params: Any) -> Any:
        return sym.act(symmetry, sym.random_element(symmetry, key), params)

    keys = jax.random.split(jax.random.key(0), 3)

    @nnx.jit
    def run(model):
        params = jax.vmap(sample)(keys)
        model.set_statistics(jax.vmap(graphs)(params))
        moved = jax.vmap(act)(keys, params)
        both = jax.tree.map(lambda *x: jnp.concatenate(x), params, moved)
        canonical = jax.vmap(canonical_graphs)(both)

        def energy(model):
            pooled = model(canonical).pooled
            return (pooled[:3] ** 2).mean(), pooled

        gradient, pooled = nnx.grad(energy, has_aux=True)(model)
        size = sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient))
        return *jnp.split(pooled, 2), size

    before, after, size = run(model)
    assert float(jnp.abs(before - after).max()) < 1e-4
    # A feature that does not depend on the networks would be invariant too.
    assert float(jnp.abs(before[0] - before[1]).max()) > 1e-3
    assert 0 < float(size) < float("inf")
