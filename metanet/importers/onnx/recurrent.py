"""ONNX operators that are recurrent layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from metanet.importers.onnx.operators import Call, Unsupported, operator

Activation = Callable[[jax.Array], jax.Array]
State = tuple[jax.Array, ...]
# (state, input gates, recurrent weights, recurrent bias) -> state
Cell = Callable[[State, jax.Array, jax.Array, jax.Array], State]

_WEIGHTS = {1: "weight_ih", 2: "weight_hh", 3: "bias"}
_ACTIVATIONS: dict[str, Activation] = {
    "Sigmoid": jax.nn.sigmoid,
    "Tanh": jnp.tanh,
    "Relu": jax.nn.relu,
}


def _rnn_cell(call: Call, functions: Sequence[Activation]) -> Cell:
    (f,) = functions

    def cell(state: State, x: jax.Array, r: jax.Array, bias: jax.Array) -> State:
        return (f(x + state[0] @ r.T + bias),)

    return cell


def _lstm_cell(call: Call, functions: Sequence[Activation]) -> Cell:
    f, g, h_fn = functions

    def cell(state: State, x: jax.Array, r: jax.Array, bias: jax.Array) -> State:
        h, c = state
        gate_i, gate_o, gate_f, candidate = jnp.split(x + h @ r.T + bias, 4, -1)
        c = f(gate_f) * c + f(gate_i) * g(candidate)
        return f(gate_o) * h_fn(c), c

    return cell


def _gru_cell(call: Call, functions: Sequence[Activation]) -> Cell:
    f, g = functions
    linear_before_reset = call.get("linear_before_reset", 0)

    def cell(state: State, x: jax.Array, r: jax.Array, bias: jax.Array) -> State:
        (h,) = state
        x_z, x_r, x_n = jnp.split(x, 3, -1)
        if linear_before_reset:
            h_z, h_r, h_n = jnp.split(h @ r.T + bias, 3, -1)
            n = g(x_n + f(x_r + h_r) * h_n)
        else:
            (r_z, r_r, r_n), (b_z, b_r, b_n) = jnp.split(r, 3), jnp.split(bias, 3)
            h_z, h_r = h @ r_z.T + b_z, h @ r_r.T + b_r
            n = g(x_n + (f(x_r + h_r) * h) @ r_n.T + b_n)
        z = f(x_z + h_z)
        return ((1 - z) * n + z * h,)

    return cell


def _recurrent(
    call: Call,
    make_cell: Callable[[Call, Sequence[Activation]], Cell],
    gates: int,
    activations: Sequence[str],
    state_inputs: Sequence[int],
) -> list[jax.Array]:
    """Evaluates a recurrent layer.

    Args:
        call: The call.
        make_cell: Builds the cell from its activations.
        gates: Number of gates.
        activations: Default activations of a direction.
        state_inputs: Positions of the initial states among the inputs.
    """
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
    directions, size = w.shape[0], call.attributes["hidden_size"]
    names = call.get("activations") or [*activations] * directions
    if not set(names) <= set(_ACTIVATIONS):
        raise Unsupported(f"activations {', '.join(names)}")
    reverse_first = call.get("direction", "forward") == "reverse"
    states, outputs = [], []
    for d in range(directions):
        chosen = names[d * len(activations) : (d + 1) * len(activations)]
        cell = make_cell(call, [_ACTIVATIONS[name] for name in chosen])
        bias = jnp.zeros(2 * gates * size, w.dtype)
        if call.input(3) is not None:
            bias = lax.index_in_dim(call.inputs[3], d, keepdims=False)
        input_bias, state_bias = jnp.split(bias, 2)
        weight = lax.index_in_dim(w, d, keepdims=False)
        recurrent = lax.index_in_dim(r, d, keepdims=False)
        input_gates = x @ weight.T + input_bias
        start = []
        for position in state_inputs:
            initial = call.input(position)
            if initial is None:
                initial = np.zeros((directions, x.shape[1], size))
            elif batch_first:
                initial = jnp.swapaxes(initial, 0, 1)
            if np.shape(initial) != (directions, x.shape[1], size):
                raise ValueError(
                    f"an initial state of shape {np.shape(initial)} for a batch of "
                    f"{x.shape[1]}"
                )
            initial = jnp.asarray(initial, input_gates.dtype)
            start.append(lax.index_in_dim(initial, d, keepdims=False))
        step = _step(cell, recurrent, state_bias)
        reverse = reverse_first != (d == 1)
        last, rows = lax.scan(step, tuple(start), input_gates, reverse=reverse)
        states.append(last)
        outputs.append(rows)
    output = jnp.stack(outputs, 1)
    final = [jnp.stack(part) for part in zip(*states, strict=True)]
    if not batch_first:
        return [output, *final]
    return [
        jnp.transpose(output, (2, 0, 1, 3)),
        *(jnp.swapaxes(state, 0, 1) for state in final),
    ]


def _step(
    cell: Cell, recurrent: jax.Array, bias: jax.Array
) -> Callable[[State, jax.Array], tuple[State, jax.Array]]:
    def step(state: State, row: jax.Array) -> tuple[State, jax.Array]:
        state = cell(state, row, recurrent, bias)
        return state, state[0]

    return step


@operator("RNN", weights=_WEIGHTS)
def _rnn(call: Call) -> list[jax.Array]:
    return _recurrent(call, _rnn_cell, 1, ("Tanh",), (5,))


@operator("GRU", weights=_WEIGHTS)
def _gru(call: Call) -> list[jax.Array]:
    return _recurrent(call, _gru_cell, 3, ("Sigmoid", "Tanh"), (5,))


@operator("LSTM", weights=_WEIGHTS)
def _lstm(call: Call) -> list[jax.Array]:
    if call.input(7) is not None:
        raise Unsupported("peepholes")
    return _recurrent(call, _lstm_cell, 4, ("Sigmoid", "Tanh", "Tanh"), (5, 6))
