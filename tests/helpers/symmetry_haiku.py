# pyright: reportMissingImports=false
"""Networks of Haiku and of jraph whose permutation group is known on paper, by name.

They are made by functions, since the libraries need not be installed.
"""

from __future__ import annotations

from collections.abc import Callable
from math import factorial as fac
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from helpers.symmetry_networks import Case, array, relu, tanh

IMAGE = (2, 8, 8, 2)
SERIES = (6, 2, 3)


def haiku_case(function: Callable[..., Any], order: int, *inputs: Any) -> Case:
    """Returns a function of Haiku modules, with noise on its parameters and state."""
    import haiku as hk

    network = hk.without_apply_rng(hk.transform_with_state(function))
    params, state = network.init(jax.random.key(0), *inputs)
    # Of a moving average a network reads the average, not the sum behind it.
    read, unread = hk.data_structures.partition(lambda _, n, __: n == "average", state)

    def noise(x: jax.Array) -> jax.Array:
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return x
        return x + 0.3 * jnp.abs(array(*x.shape, seed=x.size))

    def apply_fn(variables: Any, *inputs: Any) -> Any:
        state = hk.data_structures.merge(variables["state"], unread)
        return network.apply(variables["params"], state, *inputs)[0]

    variables = {"params": params, "state": read}
    return Case(apply_fn, jax.tree.map(noise, variables), inputs, order, None)


def haiku_cases() -> dict[str, Callable[[], Case]]:
    """Networks of Haiku."""
    import haiku as hk

    def perceptron(x):
        return hk.nets.MLP([4, 5, 2], activation=tanh)(x)

    def norms(x):
        x = relu(
            hk.BatchNorm(True, True, 0.9)(
                hk.Conv2D(4, 3)(x), is_training=hk.running_init()
            )
        )
        x = relu(hk.GroupNorm(2)(hk.Conv2D(6, 3, stride=2)(x)))
        x = relu(hk.InstanceNorm(True, True)(hk.Conv2D(3, 3)(x)))
        return hk.Linear(2)(hk.Flatten()(hk.avg_pool(x, 2, 2, "VALID")))

    def separable(x):
        x = relu(hk.Conv2D(4, 1)(x))
        x = relu(hk.DepthwiseConv2D(2, 3)(x))
        x = relu(hk.SeparableDepthwiseConv2D(1, 3)(x))
        return hk.Linear(2)(x.mean((1, 2)))

    def generator(x):
        x = relu(hk.Linear(2 * 2 * 4)(x)).reshape(-1, 2, 2, 4)
        x = relu(hk.Conv2DTranspose(3, 3, stride=2)(x))
        return tanh(hk.Conv2DTranspose(1, 3, stride=2)(x))

    def transformer(x):
        x = hk.Linear(8)(x) + hk.get_parameter("places", (5, 8), init=jnp.ones)
        for _ in range(2):
            h = hk.LayerNorm(-1, True, True)(x)
            attend = hk.MultiHeadAttention(
                2, 3, w_init=hk.initializers.VarianceScaling(), model_size=8
            )
            x = x + attend(h, h, h)
            h = hk.LayerNorm(-1, True, True)(x)
            x = x + hk.Linear(8)(jax.nn.gelu(hk.Linear(6)(h)))
        return hk.Linear(2)(hk.RMSNorm(-1)(x).mean(1))

    def recurrent(core):
        def run(x):
            cell = core()
            outputs, _ = hk.dynamic_unroll(cell, x, cell.initial_state(x.shape[1]))
            return hk.Linear(2)(outputs)

        return run

    def images(x):
        cell = hk.Conv2DLSTM((4, 4), 3, 3)
        outputs, _ = hk.dynamic_unroll(cell, x, cell.initial_state(x.shape[1]))
        return hk.Conv2D(1, 1)(outputs[-1])

    def stacked(x):
        """Layers of one kind, whose parameters are stacked and scanned."""
        x = hk.Linear(4)(x)

        def layer(x):
            return x + hk.Linear(4)(relu(hk.Linear(5)(x)))

        return hk.Linear(2)(hk.experimental.layer_stack(3)(layer)(x))

    def quantised(x):
        z = hk.Linear(3)(relu(hk.Linear(4)(x)))
        codes = hk.nets.VectorQuantizer(3, 6, 0.25)(z, is_training=hk.running_init())
        return hk.Linear(3)(relu(hk.Linear(5)(codes["quantize"])))

    def embedded(i):
        table = hk.Embed(7, 4)
        x = table(i)
        x = x + hk.Linear(4)(hk.Bias()(relu(hk.Linear(5, with_bias=False)(x))))
        return x @ table.embeddings.T

    def volumes(x):
        x = relu(hk.Conv3D(3, 2)(x))
        return hk.Linear(2)(relu(hk.Conv3D(4, 2)(x)).mean((1, 2, 3)))

    def resnet(make):
        return lambda x: make(5)(x, is_training=hk.running_init())

    return {
        "mlp": lambda: haiku_case(perceptron, fac(4) * fac(5), array(5, 3)),
        # Two groups of three channels; of the last norm each channel by itself.
        "norms": lambda: haiku_case(
            norms, fac(4) * (fac(2) * fac(3) ** 2) * fac(3), array(*IMAGE)
        ),
        # Each of four channels has two of its own after the first depthwise layer.
        "separable convolutions": lambda: haiku_case(
            separable, fac(4) * fac(2) ** 4, array(*IMAGE)
        ),
        "generator": lambda: haiku_case(generator, fac(4) * fac(3), array(2, 3)),
        "transformer": lambda: haiku_case(
            transformer,
            fac(8) * (fac(2) * fac(3) ** 4 * fac(6)) ** 2,
            array(2, 5, 3),
        ),
        "vanilla recurrence": lambda: haiku_case(
            recurrent(lambda: hk.VanillaRNN(4)), fac(4), array(*SERIES)
        ),
        "lstm": lambda: haiku_case(
            recurrent(lambda: hk.LSTM(4)), fac(4), array(*SERIES)
        ),
        "gru": lambda: haiku_case(recurrent(lambda: hk.GRU(4)), fac(4), array(*SERIES)),
        "deep recurrence": lambda: haiku_case(
            recurrent(
                lambda: hk.deep_rnn_with_skip_connections([hk.LSTM(4), hk.GRU(5)])
            ),
            fac(4) * fac(5),
            array(*SERIES),
        ),
        "convolutional lstm": lambda: haiku_case(images, fac(3), array(4, 1, 4, 4, 2)),
        "layer stack": lambda: haiku_case(stacked, fac(4) * fac(5) ** 3, array(5, 3)),
        # Units of the encoder, entries of codes, codes, units of the decoder.
        "vector quantiser": lambda: haiku_case(
            quantised, fac(4) * fac(3) * fac(6) * fac(5), array(5, 3)
        ),
        "tied embedding": lambda: haiku_case(
            embedded, fac(4) * fac(5), jnp.array([[0, 3, 2], [1, 5, 6]])
        ),
        "3-d convolutions": lambda: haiku_case(
            volumes, fac(3) * fac(4), array(1, 4, 4, 4, 2)
        ),
        "MobileNetV1": lambda: haiku_case(
            resnet(lambda n: hk.nets.MobileNetV1(num_classes=n)),
            fac(32)
            * fac(64)
            * fac(128) ** 2
            * fac(256) ** 2
            * fac(512) ** 6
            # The last two layers.
            * fac(1024) ** 2,
            array(1, 32, 32, 3),
        ),
        # Stem and stream of the first stage are one; each block has an inner layer.
        "ResNet18": lambda: haiku_case(
            resnet(hk.nets.ResNet18),
            fac(64) ** 3 * fac(128) ** 3 * fac(256) ** 3 * fac(512) ** 3,
            array(1, 32, 32, 3),
        ),
    }


def jraph_cases() -> dict[str, Callable[[], Case]]:
    """Networks of jraph on one graph, with Haiku's layers."""
    import haiku as hk
    import jraph

    def graph(nodes, edges, context):
        senders = np.array([0, 1, 2, 3, 4, 1], np.int32)
        receivers = np.array([1, 2, 3, 4, 0, 0], np.int32)
        sizes = np.array([5], np.int32), np.array([6], np.int32)
        return jraph.GraphsTuple(nodes, edges, receivers, senders, context, *sizes)

    def on_concatenated(update):
        """Calls an update with its features side by side, as jraph's helper does."""
        return jraph.concatenated_args(update)

    def layers(*sizes):
        return on_concatenated(lambda x: hk.nets.MLP(sizes, activate_final=True)(x))

    def full(nodes, edges, context):
        g = graph(nodes, edges, context)
        for sizes in ((4, 3, 5), (3, 4, 2)):
            e, n, c = sizes
            g = jraph.GraphNetwork(layers(e), layers(n), layers(c))(g)
        return g.globals

    def interacting(nodes, edges):
        g = graph(nodes, edges, None)
        for e, n in ((4, 3), (5, 4)):
            g = jraph.InteractionNetwork(layers(e), layers(n))(g)
        return hk.Linear(2)(g.nodes)

    def relating(nodes):
        g = graph(nodes, None, jnp.zeros((1, 0)))
        net = jraph.RelationNetwork(
            lambda s, r: relu(hk.Linear(4)(jnp.concatenate([s, r], -1))),
            lambda e: hk.nets.MLP([5, 2])(e),
        )
        return net(g).globals

    def sets(nodes, context):
        g = graph(nodes, None, context)
        net = jraph.DeepSets(layers(4, 5), on_concatenated(hk.nets.MLP([3, 2])))
        return net(g).globals

    def convolutional(nodes):
        g = graph(nodes, None, None)
        for n, act in ((4, relu), (5, relu)):
            g = jraph.GraphConvolution(
                lambda x, n=n, act=act: act(hk.Linear(n)(x)), add_self_edges=True
            )(g)
        return hk.Linear(2)(g.nodes)

    def attending(nodes):
        g = graph(nodes, None, None)
        for n in (4, 5):
            g = jraph.GAT(
                lambda x, n=n: hk.Linear(n)(x),
                lambda s, r, e: jax.nn.leaky_relu(
                    hk.Linear(1)(jnp.concatenate([s, r], -1))
                ),
                lambda x: relu(x),
            )(g)
        return hk.Linear(2)(g.nodes)

    def mapped(nodes, edges, context):
        g = jraph.GraphMapFeatures(hk.Linear(4), hk.Linear(3), hk.Linear(5))(
            graph(nodes, edges, context)
        )
        attend = jraph.GraphNetGAT(
            layers(4),
            layers(3),
            lambda e, s, r, c: hk.Linear(1)(jnp.concatenate([e, s, r], -1)),
            lambda e, w: jax.nn.sigmoid(w) * e,
            layers(2),
        )
        return hk.Linear(2)(attend(g).globals)

    nodes, edges, context = array(5, 3), array(6, 2), array(1, 2, seed=1)
    return {
        # The last globals are outputs; the last edges and nodes are read by them.
        "graph network": lambda: haiku_case(
            full,
            fac(4) * fac(3) * fac(5) * fac(3) * fac(4),
            nodes,
            edges,
            context,
        ),
        "interaction network": lambda: haiku_case(
            interacting, fac(4) * fac(3) * fac(5) * fac(4), nodes, edges
        ),
        "relation network": lambda: haiku_case(relating, fac(4) * fac(5), nodes),
        "deep sets": lambda: haiku_case(sets, fac(4) * fac(5) * fac(3), nodes, context),
        "graph convolution": lambda: haiku_case(convolutional, fac(4) * fac(5), nodes),
        "graph attention": lambda: haiku_case(attending, fac(4) * fac(5), nodes),
        # Embedded nodes, edges and globals; updated edges, nodes and globals.
        "attentive graph network": lambda: haiku_case(
            mapped,
            fac(4) * fac(3) * fac(5) * fac(4) * fac(3) * fac(2),
            nodes,
            edges,
            context,
        ),
    }
