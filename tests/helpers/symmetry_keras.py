# pyright: reportMissingImports=false
"""Networks of Keras, on its JAX backend, whose permutation group is known on paper."""

from __future__ import annotations

import os
from collections.abc import Callable
from math import factorial as fac
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from helpers.symmetry_networks import Case, array

IMAGE = (8, 8, 2)
SERIES = (6, 3)


def keras_case(make: Callable[[], Any], order: int, *inputs: Any) -> Case:
    """Returns a Keras model in evaluation mode, with noise on all of its variables."""
    model = make()
    trained, rest = model.trainable_variables, model.non_trainable_variables
    constants = [x for x in rest if not jnp.issubdtype(x.dtype, jnp.floating)]
    state = [x for x in rest if jnp.issubdtype(x.dtype, jnp.floating)]

    def noisy(x: jax.Array, seed: int) -> jax.Array:
        noise = array(*x.shape, seed=seed)
        return x * jnp.exp(0.3 * noise) + 0.02 * jnp.abs(noise)

    def named(variables: list[Any]) -> dict[str, jax.Array]:
        return {f"{i:03d}/{x.path}": noisy(x.value, i) for i, x in enumerate(variables)}

    fixed = {id(x): x.value for x in constants}

    def apply_fn(params: Any, *inputs: Any) -> Any:
        moving = dict(zip(map(id, state), params["state"].values(), strict=True))
        values = [(moving | fixed)[id(x)] for x in rest]
        trainable = list(params["trained"].values())
        return model.stateless_call(trainable, values, *inputs, training=False)[0]

    params = {"trained": named(trained), "state": named(state)}
    return Case(apply_fn, params, inputs, order, None)


def keras_cases() -> dict[str, Callable[[], Case]]:
    """Networks of Keras."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    import keras
    from keras import layers as k

    def sequential(shape: tuple[int, ...], *layers: Any) -> Any:
        return keras.Sequential([keras.Input(shape), *layers])

    def images() -> Any:
        return sequential(
            IMAGE,
            k.Conv2D(4, 3, activation="relu"),
            k.BatchNormalization(),
            k.MaxPooling2D(2),
            k.SeparableConv2D(3, 2, activation="swish"),
            k.PReLU(shared_axes=[1, 2]),
            k.Flatten(),
            k.Dense(5, activation="gelu"),
            k.Dropout(0.5),
            k.Dense(2, activation="softmax"),
        )

    def residual() -> Any:
        start = keras.Input(IMAGE)
        x = k.Conv2D(4, 3, padding="same")(start)
        h = k.ReLU()(k.BatchNormalization()(k.Conv2D(5, 3, padding="same")(x)))
        gate = k.GlobalAveragePooling2D(keepdims=True)(h)
        gate = k.Conv2D(3, 1, activation="relu")(gate)
        h = k.Multiply()([h, k.Conv2D(5, 1, activation="sigmoid")(gate)])
        x = k.Add()([x, k.Conv2D(4, 3, padding="same")(h)])
        x = k.GroupNormalization(2)(x)
        return keras.Model(start, k.Dense(2)(k.GlobalMaxPooling2D()(x)))

    def recurrent(*cells: Any) -> Any:
        return sequential(SERIES, *cells, k.Dense(2))

    def encoder() -> Any:
        start = keras.Input(SERIES)
        x = k.Dense(4)(start)
        h = k.LayerNormalization()(x)
        x = k.Add()([x, k.MultiHeadAttention(2, 3)(h, h)])
        h = k.Dense(5, activation="gelu")(k.RMSNormalization()(x))
        x = k.Add()([x, k.Dense(4)(h)])
        return keras.Model(start, k.Dense(2)(k.GlobalAveragePooling1D()(x)))

    def grouped() -> Any:
        start = keras.Input(SERIES)
        x = k.Dense(4)(start)
        x = k.Add()([x, k.GroupQueryAttention(3, 4, 2)(x, x)])
        return keras.Model(start, k.Dense(2)(x))

    def additive() -> Any:
        a, b = keras.Input(SERIES), keras.Input((5, 2))
        q, v = k.Dense(4)(a), k.Dense(4)(b)
        x = k.Concatenate()([q, k.AdditiveAttention()([q, v])])
        return keras.Model([a, b], k.Dense(2)(x))

    def decoder() -> Any:
        return sequential(
            (3,),
            k.Dense(4 * 4 * 4, activation="relu"),
            k.Reshape((4, 4, 4)),
            k.Conv2DTranspose(3, 3, strides=2, padding="same", activation="tanh"),
            k.UpSampling2D(2, interpolation="bilinear"),
            k.Conv2D(1, 3, padding="same"),
        )

    def factored() -> Any:
        return sequential(
            (5, 3),
            k.EinsumDense("btc,chd->bthd", output_shape=(None, 2, 3), bias_axes="hd"),
            k.Activation("relu"),
            k.EinsumDense("bthd,hdo->bto", output_shape=(None, 4), bias_axes="o"),
            k.Conv1D(6, 2, groups=2, padding="causal"),
            k.Dense(2),
        )

    def tied() -> Any:
        start = keras.Input((5,), dtype="int32")
        embed = k.ReversibleEmbedding(7, 4)
        x = embed(start)
        x = k.Add()([x, k.Dense(4)(k.Dense(5, activation="relu")(x))])
        return keras.Model(start, embed(x, reverse=True))

    def application(name: str, size: int, **options: Any) -> Any:
        make = getattr(keras.applications, name)
        shape = (size, size, 3)
        return lambda: make(weights=None, input_shape=shape, classes=5, **options)

    series = array(2, *SERIES)
    words = jnp.asarray(np.array([[0, 3, 2, 6, 1], [1, 5, 4, 0, 2]], np.int32))
    image = array(1, 32, 32, 3)
    return {
        # Channels, and those of the separable convolution; hidden units.
        "convolutions, flattened": lambda: keras_case(
            images, fac(4) * fac(3) * fac(5), array(2, *IMAGE)
        ),
        # Two groups of two channels; the block's channels; squeezed ones.
        "residual, squeezed": lambda: keras_case(
            residual, fac(2) * fac(2) ** 2 * fac(5) * fac(3), array(2, *IMAGE)
        ),
        "simple recurrence": lambda: keras_case(
            lambda: recurrent(k.SimpleRNN(4)), fac(4), series
        ),
        "lstm, bidirectional": lambda: keras_case(
            lambda: recurrent(k.Bidirectional(k.LSTM(4))), fac(4) ** 2, series
        ),
        "gru, two layers": lambda: keras_case(
            lambda: recurrent(k.GRU(4, return_sequences=True), k.GRU(5)),
            fac(4) * fac(5),
            series,
        ),
        "convolutional lstm": lambda: keras_case(
            lambda: sequential((4, 4, 4, 2), k.ConvLSTM2D(3, 3), k.Dense(2)),
            fac(3),
            array(1, 4, 4, 4, 2),
        ),
        "encoder": lambda: keras_case(
            encoder, fac(4) * fac(2) * fac(3) ** 4 * fac(5), series
        ),
        # Two key heads, two queries of each; channels of keys and of values.
        "grouped queries": lambda: keras_case(
            grouped, fac(4) * fac(2) * fac(2) ** 2 * fac(3) ** 4, series
        ),
        "additive attention": lambda: keras_case(
            additive, fac(4), [series, array(2, 5, 2)]
        ),
        "decoder": lambda: keras_case(decoder, fac(4) * fac(3), array(2, 3)),
        # Units by two axes; the stream in two groups; in each the outputs.
        "einsum and groups": lambda: keras_case(
            factored, fac(6) * (fac(2) * fac(2) ** 2 * fac(3) ** 2), array(2, 5, 3)
        ),
        "tied embedding": lambda: keras_case(tied, fac(4) * fac(5), words),
        "MobileNet": lambda: keras_case(
            application("MobileNet", 32, alpha=0.25),
            fac(8)
            * fac(16)
            * fac(32) ** 2
            * fac(64) ** 2
            * fac(128) ** 6
            # The last two layers.
            * fac(256) ** 2,
            image,
        ),
        # Two convolutions in each of two stages, three in each of three, all flattened.
        "VGG16": lambda: keras_case(
            application("VGG16", 32),
            fac(64) ** 2
            * fac(128) ** 2
            * fac(256) ** 3
            * fac(512) ** 6
            # Both hidden layers.
            * fac(4096) ** 2,
            image,
        ),
        # Stem; of every block the inner layers; four streams.
        "ResNet50V2": lambda: keras_case(
            application("ResNet50V2", 32),
            fac(64) ** 7
            * fac(128) ** 8
            * fac(256) ** 13
            * fac(512) ** 7
            # The last two streams.
            * fac(1024)
            * fac(2048),
            image,
        ),
    }
