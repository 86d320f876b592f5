"""Building blocks of models are exact, and node features move along."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_metanetworks import ModelInputs, build, graphs_of, scale_equivariant, subject

from metanet import symmetry as sym
from metanet.errors import MetanetError
from metanet.graphs import Rows
from metanet.graphs import batch as graph_batch
from metanet.models import build_model
from metanet.models.dmc import halved
from metanet.models.layers import NormLinear, bf16_products, product


def read(model: str, case: ModelInputs, *params):
    """What a model makes of each batch of parameter sets, by one program."""
    net = build(model, [case])
    graphs = graphs_of(case, scale_equivariant(model))
    net.set_statistics(jax.jit(graphs)(case.params))
    run = jax.jit(lambda p: net(graphs(p)))
    return [run(p) for p in params]


@pytest.mark.parametrize("model", ["flat_mlp", "dmc"])
def test_models_that_read_an_order_are_not_invariant(model):
    case = subject("siren")
    element = sym.random_element(case.symmetry, jax.random.key(5))
    moved = jax.vmap(lambda p: sym.act(case.symmetry, element, p))(case.params)
    before, after = (x.pooled for x in read(model, case, case.params, moved))
    assert float(jnp.abs(before - after).max()) > 1e-2


def test_node_features_move_along():
    case = subject("siren")
    element = sym.random_element(
        case.symmetry, jax.random.key(3), signs=False, phases=False
    )
    moved = jax.vmap(lambda p: sym.act(case.symmetry, element, p))(case.params)
    before, after = (x.nodes for x in read("product_gmn", case, case.params, moved))
    hidden = [i for i, n in enumerate(case.topology.nodes) if n.kind == "hidden"]
    starts = np.cumsum([0, *(n.size for n in case.topology.nodes)])
    for index, perm in zip(hidden, element.permutations, strict=True):
        own = slice(starts[index], starts[index + 1])
        expected = before[:, own][:, perm[0]]
        np.testing.assert_allclose(after[:, own], expected, atol=1e-4)


@pytest.mark.parametrize("rows", [(7,), (64,), (640,), (2, 3, 5, 64), (1280,)])
def test_product_equals_the_plain_one(rows):
    x = jax.random.normal(jax.random.key(0), (*rows, 12))
    w = jax.random.normal(jax.random.key(1), (12, 5))
    value = lambda f: lambda x, w: jnp.sum(jnp.sin(f(x, w)))
    plain = jax.value_and_grad(value(lambda x, w: x @ w), (0, 1))(x, w)
    ours = jax.value_and_grad(value(product), (0, 1))(x, w)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5)


def test_bf16_products_round_factors_only():
    x = jax.random.normal(jax.random.key(0), (640, 12))
    w = jax.random.normal(jax.random.key(1), (12, 5))
    low = lambda v: v.astype(jnp.bfloat16).astype(jnp.float32)
    value = lambda f: lambda x, w: jnp.sum(jnp.sin(f(x, w)))
    with bf16_products():
        ours = jax.value_and_grad(value(product), (0, 1))(x, w)
    exact = low(x) @ low(w)
    np.testing.assert_allclose(ours[0], jnp.sin(exact).sum(), rtol=1e-4)
    g = low(jnp.cos(exact))
    np.testing.assert_allclose(ours[1][0], g @ low(w).T, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(ours[1][1], low(x).T @ g, rtol=1e-3, atol=1e-2)
    # Outside, and inside when switched off, nothing is rounded.
    with bf16_products(False):
        np.testing.assert_array_equal(product(x, w), x @ w)


def test_folded_norm_equals_norm_then_linear():
    layer = NormLinear(8, 5, rngs=nnx.Rngs(0))
    layer.gain[...] = jnp.linspace(0.5, 2.0, 8)
    x = jax.random.normal(jax.random.key(1), (3, 4, 8))
    rms = jnp.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)
    expected = (x / rms * layer.gain[...].reshape(1, 1, -1)) @ layer.kernel[...]
    np.testing.assert_allclose(layer(x), expected, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 5, 3), (4, 1, 1), (2, 3, 4)])
def test_carry_and_match_equal_loops_over_the_edges(shape):
    both, sources, targets = shape
    heads, width, batch = 2, 6, 2
    ends = tuple(
        graph_batch.AxisMap((both, n), (0, 1), (1, both, n, 1)) for n in shape[1:]
    )
    group = graph_batch.EdgeBlock(0, 1, shape, ends)
    key = jax.random.split(jax.random.key(0), 3)
    edges = jax.random.normal(key[0], (batch, both, heads, sources, targets))
    at_source = jax.random.normal(key[1], (batch, both * sources, width))
    at_target = jax.random.normal(key[2], (batch, both * targets, width))
    to_target, to_source = np.zeros(at_target.shape), np.zeros(at_source.shape)
    products = np.zeros(edges.shape)
    for b, z, h, s, t in np.ndindex(edges.shape):
        run = slice(h * width // heads, (h + 1) * width // heads)
        i, j, e = z * sources + s, z * targets + t, float(edges[b, z, h, s, t])
        to_target[b, j, run] += e * at_source[b, i, run]
        to_source[b, i, run] += e * at_target[b, j, run]
        dot = np.vdot(at_source[b, i, run], at_target[b, j, run])
        products[b, z, h, s, t] = dot / np.sqrt(width / heads)
    aggregate_messages, edge_scores = (
        graph_batch.aggregate_messages,
        graph_batch.edge_scores,
    )
    forth = aggregate_messages(edges, at_source, group, "target")
    np.testing.assert_allclose(forth, to_target, atol=1e-5)
    back = aggregate_messages(edges, at_target, group, "source")
    np.testing.assert_allclose(back, to_source, atol=1e-5)
    found = edge_scores(at_source, at_target, group, heads)
    np.testing.assert_allclose(found, products, atol=1e-5)


def test_unknown_names_and_options_are_named():
    topology = subject("siren").topology
    build = lambda name, **o: build_model(name, o, topology=topology, rngs=nnx.Rngs(0))
    with pytest.raises(MetanetError, match='Did you mean "gmn"'):
        build("gnm")
    with pytest.raises(MetanetError, match='Did you mean "depth"'):
        build("product_gmn", dept=3)
    with pytest.raises(MetanetError, match="probes"):
        build("product_gmn", probes=3)
    with pytest.raises(MetanetError, match="heads: 3 does not divide"):
        build("product_gmn", heads=3)
    with pytest.raises(
        MetanetError, match='aggregate: unknown choice .*Did you mean "mean"'
    ):
        build("gmn", aggregate="meen")
    with pytest.raises(MetanetError, match="one architecture"):
        both = [topology, subject("mlp").topology]
        build_model("statnn", {}, topology=both, rngs=nnx.Rngs(0))


def test_windows_of_runs_are_a_convolution_of_each():
    """With stride 2 and zeros behind the end, whatever lies between the runs."""
    rng = np.random.default_rng(0)
    lengths, gap, kernel = [7, 0, 1, 12, 2], 3, 4
    start = np.cumsum([0, *(n + gap for n in lengths[:-1])])
    values = rng.standard_normal((start[-1] + lengths[-1] + gap, 5)).astype("f4")
    weight = rng.standard_normal((kernel * 5, 6)).astype("f4")
    found = halved(
        Rows(jnp.asarray(values), jnp.asarray(start), jnp.asarray(lengths), start),
        kernel,
    )
    for i, n in enumerate(lengths):
        own = np.asarray(found.values[found.start[i] :][: found.length[i]] @ weight)
        assert len(own) == -(-n // 2)
        if n:
            direct = jax.lax.conv_general_dilated(
                values[None, start[i] : start[i] + n],
                weight.reshape(kernel, 5, 6),
                (2,),
                [(0, 2 * len(own) - 2 + kernel - n)],
                dimension_numbers=("NWC", "WIO", "NWC"),
            )
            np.testing.assert_allclose(own, direct[0], atol=1e-5)
