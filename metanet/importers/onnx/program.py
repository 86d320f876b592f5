"""ONNX graphs as JAX functions of their weights.

Nodes are evaluated in order, each by the operator registered for it. Nodes that depend
on neither weights nor inputs (shapes, index arithmetic) are computed at trace time by
onnx's own reference implementation. An operator that is not registered, but which ONNX
defines as a function of others, is evaluated by that definition.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metanet.errors import MetanetError
from metanet.importers.files import LOADERS, SAVERS
from metanet.importers.onnx.file import MAX_ELEMENTS, read_model, read_tensor
from metanet.importers.onnx.interface import all_nodes, example_inputs, split_tensors
from metanet.importers.onnx.operators import (
    OPERATORS,
    Call,
    Unsupported,
    operator_name,
)
from metanet.networks import Network

# Depth of nested branches and function bodies.
_MAX_DEPTH = 16


@LOADERS.register(".onnx")
def load_onnx(
    path: Path,
    *,
    constants: Sequence[str] = (),
    dims: Mapping[str, int] | None = None,
) -> Network:
    """Reads an ONNX file as a network.

    Args:
        path: The file.
        constants: Shell patterns of names of stored tensors that are no parameters
            (``"*inv_freq"``). All others of a floating type with at least one axis are
            parameters, unless they hold one number throughout and have no module's name.
        dims: Sizes of axes that the file names but leaves open (``{"batch": 4}``).

    Returns:
        ``apply_fn(params, *inputs)`` with ``params`` a flat dict by the file's names,
        and example inputs: normal numbers, integers 0 and 1, masks of ones.

    Raises:
        MetanetError: naming the file and the node or tensor at fault.
    """
    model = read_model(path)
    stored = {t.name: read_tensor(path, t) for t in model.graph.initializer}
    params, fixed = split_tensors(path, model, stored, constants)
    program = _Program(path, model, fixed)
    inputs = example_inputs(path, model, stored, dims or {})
    params = {name: jnp.asarray(array) for name, array in params.items()}
    program.check_operators()
    jax.eval_shape(program, params, *inputs)
    return Network(program, params, inputs)


@SAVERS.register(".onnx")
def _save_onnx(source: Path, values: Mapping[str, np.ndarray]) -> bytes:
    """Replaces stored tensors; external data moves into the file."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(source))
    for tensor in model.graph.initializer:
        if tensor.name in values:
            dtype = read_tensor(source, tensor).dtype
            array = np.asarray(values[tensor.name]).astype(dtype)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model.SerializeToString()


class _Program:
    """Evaluates a graph; hashable and callable like any function."""

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
        # ONNX broadcasts arrays of different rank, whatever the user allows in JAX.
        with jax.numpy_rank_promotion("allow"):
            results = self._run(self._graph, env, 0)
        return results[0] if len(results) == 1 else tuple(results)

    def check_operators(self) -> None:
        """Raises an error that names all operators that cannot be evaluated."""
        missing = sorted(
            {
                f"{node.domain or 'ai.onnx'}.{node.op_type}"
                for node in all_nodes(self._graph)
                if not self._is_supported(node)
            }
        )
        if missing:
            raise MetanetError(
                f"{self._path}: operators that are not supported: {', '.join(missing)}"
            )

    def _is_supported(self, node: Any) -> bool:
        if operator_name(node) in OPERATORS or node.op_type in ("Constant", "If"):
            return True
        schema = _schema(node, self._versions)
        return schema is not None and _has_body(schema)

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
            # Any function of JAX may refuse the shapes or types of a node.
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
        is_constant = all(v is None or isinstance(v, np.ndarray) for v in values)
        # Operators of other domains have no reference implementation.
        has_reference = _schema(node, self._versions) is not None
        if is_constant and has_reference and node.op_type not in ("Shape", "Size"):
            _check_constant_size(node.op_type, values)
            return _evaluate_constant(node, values, self._versions)
        name = operator_name(node)
        if name in OPERATORS:
            results = OPERATORS[name].evaluate(call)
            return results if isinstance(results, (tuple, list)) else [results]
        return self._evaluate_body(node, call, depth)

    def _branch(self, call: Call, env: dict[str, Any], depth: int) -> list[Any]:
        branches = [call.attributes["then_branch"], call.attributes["else_branch"]]
        if depth > _MAX_DEPTH:
            raise Unsupported("nested too deeply")
        choice = call.inputs[0]
        if isinstance(choice, np.ndarray):
            return self._run(branches[not choice.item()], dict(env), depth + 1)

        def branch(graph: Any) -> Callable[[], list[Any]]:
            return lambda: self._run(graph, dict(env), depth + 1)

        return jax.lax.cond(jnp.reshape(choice, ()), *map(branch, branches))

    def _evaluate_body(self, node: Any, call: Call, depth: int) -> list[Any]:
        """Evaluates an operator by ONNX's own definition of it."""
        schema = _schema(node, self._versions)
        if schema is None or not _has_body(schema) or depth > _MAX_DEPTH:
            raise Unsupported(f"operator {node.op_type} is not supported")
        body = _function_body(schema, node, call)
        env: dict[str, Any] = {"": None, **dict.fromkeys(body.input)}
        env.update(zip(body.input, call.inputs, strict=False))
        attributes = {a.name: a for a in body.attribute_proto}
        attributes |= {a.name: a for a in node.attribute}
        for inner in body.node:
            self._step(_with_attributes(inner, attributes), env, depth + 1)
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


def _with_attributes(node: Any, attributes: Mapping[str, Any]) -> Any:
    """Resolves references of a function body's node to the attributes of the call."""
    if not any(a.ref_attr_name for a in node.attribute):
        return node
    new = type(node)()
    new.CopyFrom(node)
    del new.attribute[:]
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            new.attribute.append(attribute)
        elif attribute.ref_attr_name in attributes:
            resolved = type(attribute)()
            resolved.CopyFrom(attributes[attribute.ref_attr_name])
            resolved.name = attribute.name
            new.attribute.append(resolved)
    return new


def _schema(node: Any, versions: Mapping[str, int]) -> Any:
    """Returns ONNX's definition of an operator; None if there is none."""
    from onnx import defs

    version = versions.get(node.domain, 1)
    try:
        domain = "" if node.domain == "ai.onnx" else node.domain
        return defs.get_schema(node.op_type, version, domain)
    except Exception:
        # onnx raises exceptions without a common class.
        return None


def _has_body(schema: Any) -> bool:
    return schema.has_function or schema.has_context_dependent_function


def _function_body(schema: Any, node: Any, call: Call) -> Any:
    """Returns the ``FunctionProto`` by which ONNX defines an operator."""
    from onnx import FunctionProto, helper

    if schema.has_function:
        return schema.function_body
    types = []
    for value in call.inputs:
        if value is None:
            types.append(b"")
            continue
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
        proto = helper.make_tensor_type_proto(kind, np.shape(value))
        types.append(proto.SerializeToString())
    defined = schema.context_dependent_function_opset_versions
    version = max((v for v in defined if v <= call.version), default=min(defined))
    text = schema.get_context_dependent_function_with_opset_version(
        version, node.SerializeToString(), types
    )
    body = FunctionProto()
    body.ParseFromString(text)
    return body


def _evaluate_constant(
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
    by_name = dict(zip(node.input, values, strict=True))
    feeds = {name: by_name[name] for name in names}
    results = iter(ReferenceEvaluator(model).run(None, feeds))
    return [np.asarray(next(results)) if n else None for n in node.output]


def _check_constant_size(operator: str, values: Sequence[Any]) -> None:
    """Refuses constants that a few numbers expand without bound."""
    if operator in ("ConstantOfShape", "Expand", "Tile"):
        shape = values[-1].tolist() if values else []
        repeated = values[0].size if operator == "Tile" else 1
        count = repeated * math.prod(max(int(n), 1) for n in np.ravel(shape))
    elif operator == "Range":
        start, stop, step = (float(np.ravel(v)[0]) for v in values)
        count = (stop - start) / step if step else math.inf
    elif operator == "Pad" and len(values) > 1:
        largest = int(np.abs(values[1]).max(initial=0))
        count = math.prod(n + 2 * largest for n in values[0].shape)
    elif operator == "OneHot":
        count = values[0].size * int(np.ravel(values[1])[0])
    else:
        return
    if count > MAX_ELEMENTS:
        raise Unsupported(f"a constant of {count:,.0f} values")
