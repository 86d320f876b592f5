"""An ONNX graph as a JAX function of its weights.

Nodes are evaluated in order, each by the operator of its name (see `MODULES`). What
depends on neither weights nor inputs (shapes, index arithmetic) is computed at trace time
by onnx's own reference implementation. An operator that is in none of the modules but
which ONNX defines as a function of others is evaluated by that definition.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metanet.errors import MetanetError
from metanet.importers import (
    onnx_classical,
    onnx_indices,
    onnx_layers,
    onnx_operators,
    onnx_recurrent,
    onnx_resize,
)
from metanet.importers.onnx_call import OPERATORS, Call, Unsupported
from metanet.importers.onnx_file import MAX_ELEMENTS, read_model, read_tensor
from metanet.importers.onnx_interface import all_nodes, example_inputs, split_tensors
from metanet.networks import Network

# Modules that register operators.
MODULES = (
    onnx_classical,
    onnx_indices,
    onnx_layers,
    onnx_operators,
    onnx_recurrent,
    onnx_resize,
)
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml")
_MAX_DEPTH = 16


def load_onnx(
    path: str | Path,
    constants: Sequence[str] = (),
    dims: Mapping[str, int] | None = None,
) -> Network:
    """An ONNX file as a network.

    Args:
        path: The file.
        constants: Shell patterns of names of stored tensors that are no parameters
            (``"*inv_freq"``). All others of a floating type with at least one axis are,
            unless they hold one number throughout and have no module's name.
        dims: Sizes of axes that the file names but leaves open (``{"batch": 4}``).

    Returns:
        ``apply_fn(params, *inputs)`` with ``params`` a flat dict by the file's names,
        and example inputs: normal numbers, integers 0 and 1, masks of ones.

    Raises:
        MetanetError: naming the file and the node or tensor at fault.
    """
    path = Path(path)
    model = read_model(path)
    stored = {t.name: read_tensor(path, t) for t in model.graph.initializer}
    params, fixed = split_tensors(path, model, stored, constants)
    program = _Program(path, model, fixed)
    inputs = example_inputs(path, model, stored, dims or {})
    params = {name: jnp.asarray(array) for name, array in params.items()}
    program.check_operators()
    jax.eval_shape(program, params, *inputs)
    return Network(program, params, inputs)


class _Program:
    """The evaluation of a graph; hashable and callable like any function."""

    def __init__(self, path: Path, model: Any, fixed: Mapping[str, np.ndarray]):
        self._path, self._graph, self._fixed = path, model.graph, fixed
        self._versions = {o.domain: o.version for o in model.opset_import}
        self._versions.setdefault("", self._versions.get("ai.onnx", 1))
        self.__name__ = path.stem
        known = {*fixed, *(t.name for t in model.graph.initializer)}
        self._inputs = [i.name for i in model.graph.input if i.name not in known]

    def __call__(self, params: Mapping[str, Any], *inputs: Any) -> Any:
        if len(inputs) != len(self._inputs):
            raise MetanetError(
                f"{self._path}: takes inputs {', '.join(self._inputs)}; "
                f"{len(inputs)} were given"
            )
        env: dict[str, Any] = {"": None, **self._fixed, **params}
        env.update(zip(self._inputs, inputs, strict=True))
        # ONNX broadcasts arrays of different rank wherever a user forbids it in JAX.
        with jax.numpy_rank_promotion("allow"):
            results = self._run(self._graph, env, 0)
        return results[0] if len(results) == 1 else tuple(results)

    def check_operators(self) -> None:
        """Raises one error that names all operators that cannot be evaluated."""
        missing = sorted(
            {
                f"{node.domain or 'ai.onnx'}.{node.op_type}"
                for node in all_nodes(self._graph)
                if not self._known(node)
            }
        )
        if missing:
            raise MetanetError(
                f"{self._path}: operators that are not supported: {', '.join(missing)}"
            )

    def _known(self, node: Any) -> bool:
        if node.domain in _DOMAINS and node.op_type in OPERATORS:
            return True
        return node.op_type in ("Constant", "If") or _schema(
            node, self._versions
        ) not in (None, "plain")

    def _run(self, graph: Any, env: dict[str, Any], depth: int) -> list[Any]:
        for node in graph.node:
            self._step(node, env, depth)
        return [jnp.asarray(env[output.name]) for output in graph.output]

    def _step(self, node: Any, env: dict[str, Any], depth: int) -> None:
        label = f"{node.op_type} {node.name or node.output[0]}"
        try:
            values = [env[name] for name in node.input]
            with jax.named_scope("onnx " + label.replace("/", ".")):
                results = self._evaluate(node, values, env, depth)
        except MetanetError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:300]
            raise MetanetError(
                f"{self._path}: node {label}: {reason or type(error).__name__}"
            ) from error
        for name, result in zip(node.output, results, strict=False):
            if name and result is not None and np.size(result) > MAX_ELEMENTS:
                raise MetanetError(
                    f"{self._path}: node {label}: a result of shape {np.shape(result)}, "
                    f"more than {MAX_ELEMENTS:,} values"
                )
            env[name] = result

    def _evaluate(
        self, node: Any, values: list[Any], env: dict[str, Any], depth: int
    ) -> Sequence[Any]:
        attributes = {a.name: _attribute(self._path, a) for a in node.attribute}
        version = self._versions.get(node.domain, 1)
        call = Call(values, attributes, version, len(node.output))
        if node.op_type == "If":
            return self._branch(call, env, depth)
        static = all(v is None or isinstance(v, np.ndarray) for v in values)
        if static and node.op_type not in ("Shape", "Size"):
            _bounded(node.op_type, values)
            return _reference(node, values, self._versions)
        operator = OPERATORS.get(node.op_type)
        if operator is not None and node.domain in _DOMAINS:
            results = operator(call)
            return results if isinstance(results, (tuple, list)) else [results]
        return self._inlined(node, call, depth)

    def _branch(self, call: Call, env: dict[str, Any], depth: int) -> list[Any]:
        branches = [call.attributes["then_branch"], call.attributes["else_branch"]]
        if depth > _MAX_DEPTH:
            raise Unsupported("nested too deeply")
        choice = call.inputs[0]
        if isinstance(choice, np.ndarray):
            return self._run(branches[not choice.item()], dict(env), depth + 1)
        runs = [lambda b=b: self._run(b, dict(env), depth + 1) for b in branches]
        return jax.lax.cond(jnp.reshape(choice, ()), *runs)

    def _inlined(self, node: Any, call: Call, depth: int) -> list[Any]:
        """Evaluates an operator by ONNX's own definition of it."""
        body = _schema(node, self._versions, call.inputs)
        if body in (None, "plain") or depth > _MAX_DEPTH:
            raise Unsupported(f"operator {node.op_type} is not supported")
        env: dict[str, Any] = {"": None, **dict.fromkeys(body.input)}
        env.update(zip(body.input, call.inputs, strict=False))
        given = {a.name: a for a in node.attribute}
        given = {**{a.name: a for a in body.attribute_proto}, **given}
        for inner in body.node:
            self._step(_with_attributes(inner, given), env, depth + 1)
        return [env[name] for name in body.output]


def _attribute(path: Path, attribute: Any) -> Any:
    from onnx import helper

    value = helper.get_attribute_value(attribute)
    if attribute.HasField("t"):
        return read_tensor(path, value)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [v.decode() if isinstance(v, bytes) else v for v in value]
    return value


def _with_attributes(node: Any, given: Mapping[str, Any]) -> Any:
    """A node of a function body, its references to the call's attributes resolved."""
    if not any(a.ref_attr_name for a in node.attribute):
        return node
    new = type(node)()
    new.CopyFrom(node)
    del new.attribute[:]
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            new.attribute.append(attribute)
        elif attribute.ref_attr_name in given:
            kept = type(attribute)()
            kept.CopyFrom(given[attribute.ref_attr_name])
            kept.name = attribute.name
            new.attribute.append(kept)
    return new


def _schema(
    node: Any, versions: Mapping[str, int], inputs: Sequence[Any] | None = None
) -> Any:
    """ONNX's definition of an operator as a function; "plain" if it has none.

    Without ``inputs`` only tells whether there is one (then not None and not "plain").
    """
    from onnx import FunctionProto, defs, helper

    version = versions.get(node.domain, 1)
    try:
        schema: Any = defs.get_schema(node.op_type, version, node.domain)
    except Exception:
        return None
    if schema.has_function:
        return schema.function_body
    if not schema.has_context_dependent_function:
        return "plain"
    if inputs is None:
        return schema
    types = []
    for value in inputs:
        if value is None:
            types.append(b"")
            continue
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
        made = helper.make_tensor_type_proto(kind, np.shape(value))
        types.append(made.SerializeToString())
    defined = schema.context_dependent_function_opset_versions
    chosen = max((v for v in defined if v <= version), default=min(defined))
    text = schema.get_context_dependent_function_with_opset_version(
        chosen, node.SerializeToString(), types
    )
    body = FunctionProto()
    body.ParseFromString(text)
    return body


def _reference(
    node: Any, values: Sequence[Any], versions: Mapping[str, int]
) -> list[Any]:
    """Evaluates a node of constants with onnx's reference implementation."""
    from onnx import TensorProto, helper
    from onnx.reference import ReferenceEvaluator

    names = list(dict.fromkeys(n for n in node.input if n))
    graph = helper.make_graph(
        [node],
        "constant",
        [helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None) for n in names],
        [
            helper.make_tensor_value_info(n, TensorProto.UNDEFINED, None)
            for n in node.output
            if n
        ],
    )
    opsets = [helper.make_opsetid(d, v) for d, v in versions.items()]
    model = helper.make_model(graph, opset_imports=opsets)
    held = dict(zip(node.input, values, strict=True))
    results = iter(ReferenceEvaluator(model).run(None, {n: held[n] for n in names}))
    return [np.asarray(next(results)) if n else None for n in node.output]


def _bounded(operator: str, values: Sequence[Any]) -> None:
    """Refuses to expand constants without bound."""
    if operator in ("ConstantOfShape", "Expand", "Tile"):
        shape = values[-1].tolist() if values else []
        old = values[0].size if operator == "Tile" else 1
        count = old * math.prod(max(int(n), 1) for n in np.ravel(shape))
    elif operator == "Range":
        start, stop, step = (float(np.ravel(v)[0]) for v in values)
        count = (stop - start) / step if step else math.inf
    elif operator == "Pad" and len(values) > 1:
        most = int(np.abs(values[1]).max(initial=0))
        count = math.prod(n + 2 * most for n in values[0].shape)
    elif operator == "OneHot":
        count = values[0].size * int(np.ravel(values[1])[0])
    else:
        return
    if count > MAX_ELEMENTS:
        raise Unsupported(f"a constant of {count:,.0f} values")
