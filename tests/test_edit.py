"""Edit heads, and the forward pass as a special case of a graph metanetwork."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from helpers.metanetworks import build, flat, subject

from metanet import symmetry as sym
from metanet.errors import MetanetError
from metanet.graphs import Budget, build_topology, compile_topology, pack, to_graph
from metanet.models import EditHead, build_model
from metanet.networks import Architecture, ParamSpec, create


def head_for(net, homogeneous=False):
    return EditHead(net, homogeneous=homogeneous, rngs=nnx.Rngs(1))


@pytest.mark.parametrize(
    ("model", "name", "factors"),
    [
        ("product_gmn", "mlp", False),
        ("gmn parallel", "small CNN", False),
        ("gmn loops", "RNN", False),
        ("ng_t", "mlp", False),
        ("product_gmn", "mixer", False),
        ("scale_gmn_b", "mlp", True),
    ],
)
def test_edits_move_along_with_the_parameters(model, name, factors):
    case = subject(name)
    net = build(model, [case])
    head = head_for(net, homogeneous=factors)
    spec = ParamSpec.of(jax.tree.map(lambda x: x[0], case.params))
    act = jax.vmap(
        lambda p: sym.act(
            case.symmetry,
            sym.random_element(
                case.symmetry,
                jax.random.key(3),
                signs=factors,
                phases=False,
                scales=factors,
            ),
            p,
        )
    )

    @nnx.jit
    def edit(net, head, params):
        graphs = to_graph(case.topology, params)
        return spec.unflatten(head(graphs, net(graphs)))

    moved = jax.jit(act)(case.params)
    expected = jax.jit(act)(edit(net, head, case.params))
    for found, wanted, old in zip(
        jax.tree.leaves(edit(net, head, moved)),
        jax.tree.leaves(expected),
        jax.tree.leaves(case.params),
        strict=True,
    ):
        assert found.shape == old.shape
        scale = float(jnp.abs(wanted).max()) + 1e-6
        np.testing.assert_allclose(found / scale, wanted / scale, atol=2e-4)
    # Unequal parameters get unequal edits.
    assert max(float(x.std()) for x in jax.tree.leaves(expected)) > 1e-5


@pytest.mark.parametrize("model", ["gmn", "gmn pna", "gmn loops"])
def test_packed_edits_equal_dense_ones(model):
    """Biases from a bias node, as features of nodes, and as loops; two networks a bin."""
    case = subject("mlp")
    net = build(model, [case])
    head = head_for(net)
    part = compile_topology(case.topology, net.schema).packed
    batch = pack(
        [part] * 2,
        [flat(case.params, i) for i in range(2)],
        Budget(2 * part.nodes + 3, 2 * part.edges + 5, 3),
        parameters=part.parameters + 4,
    )
    two = to_graph(case.topology, jax.tree.map(lambda x: x[:2], case.params))
    run = nnx.jit(lambda net, head, g: head(g, net(g)))
    packed, dense = run(net, head, batch), run(net, head, two)
    # All parameters, biases among them; the last place of the budget is empty, as are
    # the parameters that only larger networks have.
    assert packed.shape == (3, part.parameters + 4)
    assert dense.shape == (2, part.parameters)
    np.testing.assert_allclose(packed[:2, :-4], dense, atol=1e-5)
    assert float(jnp.abs(dense[0] - dense[1]).max()) > 1e-3
    assert (np.asarray(packed[2]) == 0).all() and (
        np.asarray(packed[:, -4:]) == 0
    ).all()


def test_models_without_features_cannot_edit():
    with pytest.raises(MetanetError, match="StatNN.*take a graph metanetwork"):
        head_for(build("statnn", [subject("mlp")]))


def test_two_layers_can_be_set_to_compute_the_forward_pass_of_an_mlp():
    """The expressivity statement of Graph Metanetworks (proposition 3), by hand.

    Feature 0 carries activations, 1 the bias, 2 a large constant that makes the norm a
    known factor, 3 the output. The input network's nonlinearity is the block's (silu).
    """
    network = create(
        Architecture.of("mlp", in_dim=4, hidden=[4], out_dim=3, activation="silu"),
        jax.random.key(1),
    )
    params = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(jax.random.key(2), x.shape),
        network.params,
    )
    found = sym.discover(network.apply_fn, network.params, *network.inputs, check=False)
    topology = build_topology(found)
    model = build_model(
        "product_gmn",
        {"dim": 8, "heads": 1, "depth": 2, "frequencies": 0, "readout": "mean"},
        topology=topology,
        rngs=nnx.Rngs(0),
    )
    big, point = 1e3, jnp.asarray([0.3, -0.7, 0.5, 1.1])
    state = jax.tree.map(jnp.zeros_like, nnx.state(model, nnx.Param))
    nnx.update(model, state)
    encoder = model.encoder
    encoder.on_edges.direct[0].kernel[...] = jnp.ones((1, 1))
    encoder.on_nodes.direct[0].kernel[...] = jnp.zeros((1, 8)).at[0, 1].set(1.0)
    embedding = encoder.embedding
    embedding.kind[...] = embedding.kind[...].at[:, 2].set(big)
    kinds = [kind for kind, _ in model.schema.identities]
    assert kinds[0] == "input"
    embedding.identity[...] = embedding.identity[...].at[:4, 0].set(point)
    unnorm = big / np.sqrt(8)  # norm(x) = x / unnorm, up to (x / big)^2
    dim, fan = 8, 2.0  # both layers read 4 units; sums are divided by their root
    for number, block in enumerate(model.blocks):
        block.node_in.gain[...] = jnp.ones(dim)
        kernel = jnp.zeros((dim, 6 * dim)).at[0, 0].set(unnorm)  # what is sent
        kernel = kernel.at[1, 4 * dim].set(unnorm)  # bias into hidden value 0
        kernel = kernel.at[1, 4 * dim + 1].set(-unnorm)  # and its negative
        block.node_in.kernel[...] = kernel
        heard = jnp.zeros((dim, dim)).at[0, 0].set(fan).at[0, 1].set(-fan)
        block.incoming.kernel[...] = heard
        out = jnp.zeros((dim, dim))
        if number == 0:
            out = out.at[0, 0].set(1.0)  # silu of the sum is the activation
        else:
            out = out.at[0, 3].set(1.0).at[1, 3].set(-1.0)  # silu(z) - silu(-z) = z
        block.node_out.kernel[...] = out
    batch = jax.tree.map(lambda x: x[None], params)
    nodes = model(to_graph(topology, batch)).nodes
    start = sum(n.size for n in topology.nodes[:-1])
    assert topology.nodes[-1].kind == "output"
    expected = network.apply_fn(params, point[None])[0]
    np.testing.assert_allclose(nodes[0, start:, 3], expected, atol=1e-4)
