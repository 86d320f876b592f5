"""ONNX graphs as JAX functions of their weights.

Nodes are evaluated in order, each by the operator registered for it; constants are computed
while the program is traced (see `folding`). An operator that is not registered, but which ONNX
defines as a function of others, is evaluated by that definition.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metanet.errors import MetanetError
from metanet.importers.files import LOADERS, SAVERS
from metanet.importers.onnx.file import read_model, read_tensor
from metanet.importers.onnx.folding import Folder
from metanet.importers.onnx.inputs import (
    Input,
    Misfit,
    choose_sizes,
    example_inputs,
    read_inputs,
    shapes_of,
    sizes_in,
)
from metanet.importers.onnx.limits import MAX_DEPTH, MAX_ELEMENTS, Budget, TooLarge
from metanet.importers.onnx.operators import (
    OPERATORS,
    Call,
    Unsupported,
    operator_name,
)
from metanet.importers.onnx.parameters import split_tensors
from metanet.importers.onnx.quantized import dequantize
from metanet.importers.onnx.sequences import SEQUENCE_OPERATORS
from metanet.importers.onnx.stored import all_nodes, set_stored, take_stored
from metanet.importers.onnx.uses import Uses
from metanet.networks import Network

# Nodes evaluated in a call, with those of ONNX's definitions of operators.
_MAX_STEPS = 40_000
_NOT_FOLDED = SEQUENCE_OPERATORS | {"Shape", "Size"}


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
        constants: Shell patterns of names of stored tensors that are no parameters, beside
            those that their use shows to be constants (see `split_tensors`).
        dims: Sizes of axes that the file leaves open, by the axis' name or as
            "input:axis" (``{"batch": 4, "image:2": 64}``). For the others, sizes with
            which the network can be evaluated are found by trying.

    Returns:
        ``apply_fn(params, *inputs)`` with ``params`` a flat dict, and example inputs:
        normal numbers, integers, masks of ones. Parameters have the file's names, and
        those of their module and role where an exporter made a name up. Quantised weights
        are the floats that they stand for.

    Raises:
        MetanetError: naming the file and the node, tensor or axis at fault.
    """
    model, stored, names = _read(path, constants)
    inputs = read_inputs(path, model, stored)
    params = {names[n]: jnp.asarray(stored[n]) for n in names}
    fixed = {n: array for n, array in stored.items() if n not in names}
    program = _Program(path, model, fixed, names, params, inputs)
    program.check_operators()

    def evaluate(sizes: Mapping[str, int]) -> None:
        arguments = [
            jax.ShapeDtypeStruct(shape, jax.dtypes.canonicalize_dtype(i.dtype))
            for i, shape in zip(inputs, shapes_of(path, inputs, sizes), strict=True)
        ]
        jax.eval_shape(program, params, *arguments)

    sizes = choose_sizes(path, inputs, dims or {}, sizes_in(stored), evaluate)
    uses = Uses(model, stored)
    rows = {i.name: n for i in inputs if (n := uses.rows_read_by(i.name)) is not None}
    shapes = shapes_of(path, inputs, sizes)
    return Network(program, params, example_inputs(inputs, shapes, rows))


def _read(
    path: Path, constants: Sequence[str]
) -> tuple[Any, dict[str, np.ndarray], dict[str, str]]:
    """Returns a model, its stored tensors, and the names of those that are parameters."""
    model = read_model(path)
    stored = take_stored(path, model)
    dequantize(path, model, stored)
    return model, stored, split_tensors(path, model, stored, constants)


@SAVERS.register(".onnx")
def _save_onnx(source: Path, values: Mapping[str, np.ndarray]) -> bytes:
    """Replaces parameters; all stored tensors become initialisers of the file."""
    model, stored, names = _read(source, ())
    for name, new in names.items():
        if new in values:
            stored[name] = np.asarray(values[new]).astype(stored[name].dtype)
    set_stored(model, stored)
    return model.SerializeToString()


class _Run:
    """Evaluation of a program with certain arguments.

    Attributes:
        precision: Floating type of the computation if it is not the file's own.
        budget: Room for constants.
        taken: Branches (0 or 1) by the identity of a node If, where the other branch
            does not fit the arguments.
        steps: Number of nodes evaluated so far.
    """

    def __init__(self, precision: np.dtype[Any] | None):
        self.precision = precision
        self.budget = Budget()
        self.taken: dict[int, int] = {}
        self.steps = 0


class _Program:
    """Evaluates a graph; hashable and callable like any function.

    Args:
        path: The file, for messages.
        model: The model, without its stored tensors.
        fixed: Stored tensors that are constants, by name.
        names: Names of parameters by names of stored tensors.
        params: The parameters by name.
        inputs: The inputs.
    """

    def __init__(
        self,
        path: Path,
        model: Any,
        fixed: Mapping[str, np.ndarray],
        names: Mapping[str, str],
        params: Mapping[str, jax.Array],
        inputs: Sequence[Input],
    ):
        self._path, self._graph, self._fixed = path, model.graph, fixed
        self._versions = {o.domain: o.version for o in model.opset_import}
        self._versions.setdefault("", self._versions.get("ai.onnx", 1))
        self.__name__ = path.stem
        self._names, self._inputs = names, inputs
        self._dtypes = {name: x.dtype for name, x in params.items()}
        self._folder = Folder(self._versions, all_nodes(self._graph))

    def __call__(self, params: Mapping[str, Any], *inputs: Any) -> Any:
        if len(inputs) != len(self._inputs):
            listed = ", ".join(i.name for i in self._inputs)
            raise MetanetError(
                f"{self._path}: takes inputs {listed}; {len(inputs)} were given"
            )
        env: dict[str, Any] = {"": None, **self._fixed}
        env |= {name: params[new] for name, new in self._names.items()}
        run = _Run(self._precision(params))
        for i, x in zip(self._inputs, inputs, strict=True):
            # Integers have the width of those that the program computes.
            dtype = jax.dtypes.canonicalize_dtype(i.dtype)
            env[i.name] = jnp.asarray(x, dtype) if i.dtype.kind in "iu" else x
        # ONNX broadcasts arrays of different rank, whatever the user allows in JAX.
        with jax.numpy_rank_promotion("allow"):
            results = self._run(self._graph, env, 0, run)
        return results[0] if len(results) == 1 else tuple(results)

    def _precision(self, params: Mapping[str, Any]) -> np.dtype[Any] | None:
        """Returns the type of parameters that are not of the file's type; else None."""
        dtypes = {name: jnp.asarray(params[name]).dtype for name in self._dtypes}
        if dtypes == self._dtypes:
            return None
        return jnp.result_type(*dtypes.values())

    def check_operators(self) -> None:
        """Raises an error that names all operators that cannot be evaluated."""
        missing = {
            f"{node.domain or 'ai.onnx'}.{node.op_type}"
            for node in all_nodes(self._graph)
            if not self._is_supported(node)
        }
        if missing:
            hint = ""
            if any(name.startswith("com.microsoft") for name in missing):
                hint = (
                    "; onnxruntime's optimiser or quantiser made them: use the model "
                    "from before"
                )
            listed = ", ".join(sorted(missing))
            raise MetanetError(
                f"{self._path}: operators that are not supported: {listed}{hint}"
            )

    def _is_supported(self, node: Any) -> bool:
        if operator_name(node) in OPERATORS or node.op_type in ("Constant", "If"):
            return True
        schema = _schema(node, self._versions)
        return schema is not None and _has_body(schema)

    def _run(self, graph: Any, env: dict[str, Any], depth: int, run: _Run) -> list[Any]:
        for node in graph.node:
            self._step(node, env, depth, run)
        outputs = [env[output.name] for output in graph.output]
        return jax.tree.map(lambda x: _cast(jnp.asarray(x), run.precision), outputs)

    def _step(self, node: Any, env: dict[str, Any], depth: int, run: _Run) -> None:
        label = f"{node.op_type} {node.name or node.output[0]}"
        run.steps += 1
        try:
            if run.steps > _MAX_STEPS:
                raise Unsupported(f"more than {_MAX_STEPS:,} nodes are evaluated")
            values = [env[name] for name in node.input]
            with jax.named_scope("onnx " + label.replace("/", ".")):
                results = self._evaluate(node, values, env, depth, run)
            for result in results:
                if not isinstance(result, list) and np.size(result) > MAX_ELEMENTS:
                    raise TooLarge(
                        f"a result of shape {np.shape(result)}, more than "
                        f"{MAX_ELEMENTS:,} values"
                    )
        except MetanetError:
            raise
        except Exception as error:
            # Any function of JAX may refuse the shapes or types of a node.
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            message = f"{self._path}: node {label}: {reason}"
            if isinstance(error, Unsupported):
                raise MetanetError(message) from error
            raise Misfit(message, run.steps) from error
        env.update(zip(node.output, results, strict=False))

    def _evaluate(
        self, node: Any, values: list[Any], env: dict[str, Any], depth: int, run: _Run
    ) -> Sequence[Any]:
        attributes = {a.name: _attribute(self._path, a) for a in node.attribute}
        version = self._versions.get(node.domain, 1)
        name = operator_name(node)
        call = Call(values, attributes, version, len(node.output), run.precision)
        if node.op_type == "If":
            return self._branch(node, call, env, depth, run)
        is_constant = all(v is None or isinstance(v, np.ndarray) for v in values)
        # Operators of other domains have no reference implementation.
        is_known = name in OPERATORS or node.op_type == "Constant"
        has_reference = is_known and _schema(node, self._versions) is not None
        if is_constant and has_reference and node.op_type not in _NOT_FOLDED:
            return self._folder.fold(node, call, run.budget)
        if name not in OPERATORS:
            return self._evaluate_body(node, call, depth, run)
        call = call._replace(inputs=[_cast(v, run.precision) for v in values])
        results = OPERATORS[name].evaluate(call)
        return results if isinstance(results, (tuple, list)) else [results]

    def _branch(
        self, node: Any, call: Call, env: dict[str, Any], depth: int, run: _Run
    ) -> list[Any]:
        """Evaluates a branch; both if the choice depends on weights or inputs.

        A branch that does not fit the shapes of the arguments cannot be the one that is
        taken, so that the other one is.
        """
        branches = [call.attributes["then_branch"], call.attributes["else_branch"]]
        choice, failed = call.inputs[0], []
        if isinstance(choice, np.ndarray):
            taken = int(not choice.item())
        else:
            taken = run.taken.get(id(node))
        if taken is not None:
            return self._run(branches[taken], dict(env), depth + 1, run)

        def branch(which: int) -> list[Any]:
            try:
                return self._run(branches[which], dict(env), depth + 1, run)
            except Misfit:
                failed.append(which)
                raise

        try:
            return jax.lax.cond(
                jnp.reshape(choice, ()), lambda: branch(0), lambda: branch(1)
            )
        except Misfit:
            run.taken[id(node)] = 1 - failed[0]
            return self._run(branches[1 - failed[0]], dict(env), depth + 1, run)

    def _evaluate_body(self, node: Any, call: Call, depth: int, run: _Run) -> list[Any]:
        """Evaluates an operator by ONNX's own definition of it."""
        schema = _schema(node, self._versions)
        if schema is None or not _has_body(schema) or depth > MAX_DEPTH:
            raise Unsupported(f"operator {node.op_type} is not supported")
        body = _function_body(schema, node, call)
        env: dict[str, Any] = {"": None, **dict.fromkeys(body.input)}
        env.update(zip(body.input, call.inputs, strict=False))
        attributes = {a.name: a for a in body.attribute_proto}
        attributes |= {a.name: a for a in node.attribute}
        for inner in body.node:
            self._step(_with_attributes(inner, attributes), env, depth + 1, run)
        return [env[name] for name in body.output]


def _cast(value: Any, precision: np.dtype[Any] | None) -> Any:
    """Casts floats to the precision of a computation, and integers to JAX's width.

    JAX remembers constants by identity and type: an array of 64-bit integers that was a
    constant without 64-bit types must not be one with them.
    """
    if value is None or isinstance(value, list):
        return value
    if jnp.issubdtype(value.dtype, jnp.floating):
        return value if precision is None else value.astype(precision)
    dtype = jax.dtypes.canonicalize_dtype(value.dtype)
    if isinstance(value, np.ndarray) and dtype != value.dtype:
        # The largest integer stands for the end of an axis.
        info = np.iinfo(dtype)
        return np.asarray(value.clip(info.min, info.max), dtype)
    return value


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
