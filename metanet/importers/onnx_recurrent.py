"""ONNX operators that are recurrent layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from metanet.importers.onnx_call import Call, Unsupported, operator

_ACTIVATIONS = {"Sigmoid": jax.nn.sigmoid, "Tanh": jnp.tanh, "Relu": jax.nn.relu}


def _cell(kind: str, call: Call, functions: Sequence[Any]) -> Any:
    """One step ``(state, gates of the input) -> state``; gates as ONNX orders them."""
    f, *rest = functions

    def rnn(h: Any, x: Any, r: Any, rb: Any) -> Any:
        return (f(x + h[0] @ r.T + rb),)

    def lstm(state: Any, x: Any, r: Any, rb: Any) -> Any:
        h, c = state
        i, o, g, n = jnp.split(x + h @ r.T + rb, 4, -1)
        c = f(g) * c + f(i) * rest[0](n)
        return f(o) * rest[1](c), c

    def gru(state: Any, x: Any, r: Any, rb: Any) -> Any:
        (h,) = state
        xz, xr, xn = jnp.split(x, 3, -1)
        if call.get("linear_before_reset", 0):
            hz, hr, hn = jnp.split(h @ r.T + rb, 3, -1)
            n = rest[0](xn + f(xr + hr) * hn)
        else:
            (rz, rr, rn), (bz, br, bn) = jnp.split(r, 3), jnp.split(rb, 3)
            hz, hr = h @ rz.T + bz, h @ rr.T + br
            n = rest[0](xn + (f(xr + hr) * h) @ rn.T + bn)
        z = f(xz + hz)
        return ((1 - z) * n + z * h,)

    return {"RNN": rnn, "LSTM": lstm, "GRU": gru}[kind]


def _recurrent(call: Call, kind: str, gates: int, defaults: Sequence[str]) -> Any:
    x, w, r = call.inputs[:3]
    if call.get("clip") or call.get("input_forget"):
        raise Unsupported("clip or input_forget")
    batch_first = bool(call.get("layout", 0))
    x = jnp.swapaxes(x, 0, 1) if batch_first else x
    lengths = call.input(4)
    if lengths is not None and not (
        isinstance(lengths, np.ndarray) and (lengths == x.shape[0]).all()
    ):
        raise Unsupported("sequences of different lengths")
    if kind == "LSTM" and call.input(7) is not None:
        raise Unsupported("peepholes")
    directions, size = w.shape[0], call.attributes["hidden_size"]
    names = call.get("activations") or [*defaults] * directions
    if not set(names) <= set(_ACTIVATIONS):
        raise Unsupported(f"activations {', '.join(names)}")
    first = call.get("direction", "forward") == "reverse"
    states, rows = [], []
    for d in range(directions):
        own = names[d * len(defaults) : (d + 1) * len(defaults)]
        cell = _cell(kind, call, [_ACTIVATIONS[n] for n in own])
        bias = jnp.zeros(2 * gates * size, w.dtype)
        if call.input(3) is not None:
            bias = lax.index_in_dim(call.inputs[3], d, keepdims=False)
        input_bias, state_bias = jnp.split(bias, 2)
        weight = lax.index_in_dim(w, d, keepdims=False)
        recurrent = lax.index_in_dim(r, d, keepdims=False)
        gates_in = x @ weight.T + input_bias
        start = []
        for place in (5, 6) if kind == "LSTM" else (5,):
            given = call.input(place)
            if given is None:
                given = np.zeros((directions, x.shape[1], size))
            elif batch_first:
                given = jnp.swapaxes(given, 0, 1)
            given = jnp.asarray(given, gates_in.dtype)
            start.append(lax.index_in_dim(given, d, keepdims=False))

        def step(state: Any, row: Any, cell: Any = cell, r: Any = recurrent,
                 b: Any = state_bias) -> Any:  # fmt: skip
            state = cell(state, row, r, b)
            return state, state[0]

        last, out = lax.scan(step, tuple(start), gates_in, reverse=first != (d == 1))
        states.append(last)
        rows.append(out)
    results = [jnp.stack(rows, 1)]
    results += [jnp.stack(part) for part in zip(*states, strict=True)]
    if not batch_first:
        return results
    return [jnp.transpose(results[0], (2, 0, 1, 3)),
            *(jnp.swapaxes(r, 0, 1) for r in results[1:])]  # fmt: skip


@operator("RNN")
def _rnn(call: Call) -> Any:
    return _recurrent(call, "RNN", 1, ("Tanh",))


@operator("GRU")
def _gru(call: Call) -> Any:
    return _recurrent(call, "GRU", 3, ("Sigmoid", "Tanh"))


@operator("LSTM")
def _lstm(call: Call) -> Any:
    return _recurrent(call, "LSTM", 4, ("Sigmoid", "Tanh", "Tanh"))
