"""The graph metanetwork takes the graph of every kind of network."""

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from helpers.symmetry_families import FAMILIES
from helpers.symmetry_networks import NETWORKS

from metanet import symmetry as sym
from metanet.graphs import build_topology, to_graph
from metanet.models import build_model

CASES = {**NETWORKS, **FAMILIES}
# Its signs per head and per channel depend on each other: no unique canonical form.
CASES.pop("query-key norm")
QUICK = {
    "experts",
    "grouped query",
    "hypernetwork",
    "p4 convolution",
    "stacked layers",
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in CASES],
)
def test_invariant_to_the_discovered_group(name):
    network = CASES[name]()
    found = sym.discover(network.apply_fn, network.params, *network.inputs, check=False)
    topology = build_topology(found)
    model = build_model(
        "product_gmn", {"dim": 16, "depth": 2}, topology=topology, rngs=nnx.Rngs(0)
    )

    def noisy(key):
        leaves, treedef = jax.tree.flatten(network.params)
        keys = jax.random.split(key, len(leaves))
        pairs = zip(leaves, keys, strict=True)
        return treedef.unflatten([x * jnp.exp(0.3 * jax.random.normal(k, x.shape))
                                  for x, k in pairs])  # fmt: skip

    graphs = lambda p: to_graph(topology, p)
    canonical = lambda p: graphs(sym.canonicalize(found, p))
    act = lambda k, p: sym.act(found, sym.random_element(found, k), p)
    keys = jax.random.split(jax.random.key(0), 3)

    @nnx.jit
    def run(model):
        params = jax.vmap(noisy)(keys)
        model.set_statistics(jax.vmap(graphs)(params))
        moved = jax.vmap(act)(keys, params)
        both = jax.tree.map(lambda *x: jnp.concatenate(x), params, moved)
        read = jax.vmap(canonical)(both)

        def energy(model):
            pooled = model(read).pooled
            return (pooled[:3] ** 2).mean(), pooled

        gradient, pooled = nnx.grad(energy, has_aux=True)(model)
        size = sum(jnp.vdot(g, g) for g in jax.tree.leaves(gradient))
        return *jnp.split(pooled, 2), size

    before, after, size = run(model)
    assert float(jnp.abs(before - after).max()) < 1e-4
    # The networks differ, and an invariant that ignores them would be caught here.
    assert float(jnp.abs(before[0] - before[1]).max()) > 1e-3
    assert 0 < float(size) < float("inf")
