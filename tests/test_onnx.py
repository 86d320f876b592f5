"""ONNX files: evaluated as by onnxruntime, refused with one clear error."""

import resource
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from metanet import symmetry as sym
from metanet.cli import main
from metanet.errors import MetanetError
from metanet.importers import load_network, operator, save_network
from metanet.importers.onnx import Call
from metanet.networks import Architecture, create

FLOAT, INT = TensorProto.FLOAT, TensorProto.INT64


def values(*shape: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng((seed, *shape))
    return rng.normal(size=shape).astype(np.float32)


def model_of(nodes, inputs, arrays, outputs=("y",), opset=18, functions=()):
    """A model of ``(operator, inputs, outputs, attributes)`` rows."""
    graph = helper.make_graph(
        [
            helper.make_node(o, i, out, name=f"n{k}", **a)
            for k, (o, i, out, a) in enumerate(nodes)
        ],
        "network",
        [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs],
        [helper.make_tensor_value_info(n, FLOAT, ["rows", "columns"]) for n in outputs],
        [numpy_helper.from_array(a, n) for n, a in arrays.items()],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_model(
        graph,
        opset_imports=opsets[: 2 if functions else 1],
        functions=functions,
        ir_version=9,
    )


def small_cnn():
    nodes = [
        ("Conv", ["x", "c.weight", "c.bias"], ["h"], {"pads": [1, 1, 1, 1]}),
        (
            "BatchNormalization",
            ["h", "n.scale", "n.bias", "n.mean", "n.var"],
            ["b"],
            {},
        ),
        ("Relu", ["b"], ["r"], {}),
        ("MaxPool", ["r"], ["p"], {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("Shape", ["p"], ["s"], {}),
        ("Gather", ["s", "zero"], ["count"], {}),
        ("Concat", ["count", "rest"], ["shape"], {"axis": 0}),
        ("Reshape", ["p", "shape"], ["f"], {}),
        ("Gemm", ["f", "d.weight", "d.bias"], ["y"], {"transB": 1}),
    ]
    arrays = {
        "c.weight": values(4, 2, 3, 3),
        "c.bias": values(4),
        "n.scale": values(4, seed=1),
        "n.bias": values(4, seed=2),
        "n.mean": values(4, seed=3),
        "n.var": values(4, seed=4) ** 2,
        "d.weight": values(3, 36),
        "d.bias": values(3),
        "zero": np.array([0]),
        "rest": np.array([-1]),
    }
    return model_of(nodes, [("x", FLOAT, ["batch", 2, 6, 6])], arrays)


def saved(model, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def conformance():
    """Yields onnx's own cases: operator, name, model, inputs and outputs."""
    from onnx.backend.test.loader import load_model_tests

    from metanet.importers import OPERATORS

    with np.errstate(all="ignore"):
        for case in load_model_tests(kind="node"):
            if case.model is None or case.data_sets is None:
                continue
            operators = {n.op_type for n in case.model.graph.node}
            inputs, outputs = case.data_sets[0]
            plain = all(
                isinstance(x, np.ndarray) and x.dtype.kind in "fiub"
                for x in (*inputs, *outputs)
            )
            if plain and len(operators) == 1 and operators <= set(OPERATORS):
                yield operators.pop(), case.name, case.model, inputs, outputs


# Reasons that the importer gives for cases that it does not support.
UNSUPPORTED = (
    "select_last_index",
    "tf_crop",
    "antialias",
    "peepholes",
    "indices of maxima",
    "depends on weights or inputs",
    "size 24",
    "Sum of sizes",
    "node Cast",
)


def run_case(model, inputs, outputs, path: Path) -> None:
    """Evaluates a case with one input; the others become stored constants."""
    copy = type(model)()
    copy.CopyFrom(model)
    copy.ir_version = max(copy.ir_version, 4)
    argument = None
    del copy.graph.input[:]
    for info, x in zip(model.graph.input, inputs, strict=True):
        if argument is None and x.dtype.kind in "fb" and x.ndim:
            argument = x
            copy.graph.input.append(info)
        elif x.dtype.kind != "O":
            tensor = numpy_helper.from_array(np.ascontiguousarray(x), info.name)
            tensor.dims[:] = x.shape
            copy.graph.initializer.append(tensor)
    network = load_network(saved(copy, path))
    arguments = [] if argument is None else [argument]
    results = network.apply_fn(network.params, *arguments)
    results = results if isinstance(results, tuple) else [results]
    for a, b in zip(results, outputs, strict=False):
        np.testing.assert_allclose(
            np.asarray(a, np.float64), b.astype(np.float64), rtol=1e-3, atol=1e-4
        )


@pytest.mark.filterwarnings("ignore")  # raised by the cases themselves
@pytest.mark.parametrize(
    "all_cases", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_operators_conform(all_cases, tmp_path):
    """Runs one case of each operator; the slow suite runs all thousand."""
    passed: dict[str, int] = {}
    failed = []
    for op_type, name, model, inputs, outputs in conformance():
        if passed.get(op_type, 0) and not all_cases:
            continue
        try:
            run_case(model, inputs, outputs, tmp_path / "case.onnx")
        except MetanetError as error:
            if not any(reason in str(error) for reason in UNSUPPORTED):
                failed.append(f"{name}: {error}")
            continue
        except AssertionError as error:
            failed.append(f"{name}: {error}")
        passed[op_type] = passed.get(op_type, 0) + 1
    assert not failed
    assert len(passed) > 100
    assert not all_cases or sum(passed.values()) > 900


def test_outputs_are_those_of_onnxruntime(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    path = saved(small_cnn(), tmp_path / "cnn.onnx")
    network = load_network(path, dims={"batch": 5})
    assert network.inputs[0].shape == (5, 2, 6, 6)
    session = runtime.InferenceSession(str(path))
    expected = session.run(None, {"x": np.asarray(network.inputs[0])})[0]
    run = jax.jit(network.apply_fn)
    np.testing.assert_allclose(
        run(network.params, *network.inputs), expected, atol=1e-4
    )
    symmetry = sym.discover(network.apply_fn, network.params, *network.inputs)
    assert symmetry.order == 24
    assert set(network.params) == {
        "c.weight",
        "c.bias",
        "n.scale",
        "n.bias",
        "n.mean",
        "n.var",
        "d.weight",
        "d.bias",
    }
    # A batch of another size than at load.
    larger = np.concatenate([network.inputs[0]] * 2)
    assert run(network.params, larger).shape == (10, 3)
    assert "onnx Gemm n8" in symmetry.explain("d.weight", 1)


def test_networks_are_saved_as_onnx(tmp_path):
    path = saved(small_cnn(), tmp_path / "cnn.onnx")
    network = load_network(path)
    edited = network._replace(params=jax.tree.map(lambda x: x + 1, network.params))
    save_network(tmp_path / "edited.onnx", edited, like=path)
    copy = load_network(tmp_path / "edited.onnx")
    for name, value in network.params.items():
        np.testing.assert_array_equal(copy.params[name], value + 1)
    np.testing.assert_array_equal(
        copy.apply_fn(copy.params, *copy.inputs),
        network.apply_fn(edited.params, *network.inputs),
    )


def test_constants_and_fillers_are_no_parameters(tmp_path):
    nodes = [
        ("MatMul", ["x", "fc.weight"], ["h"], {}),
        ("Mul", ["h", "val_3"], ["m"], {}),
        ("Add", ["m", "table"], ["y"], {}),
    ]
    arrays = {
        "fc.weight": values(3, 4),
        "val_3": np.full(1, 0.5, np.float32),
        "table": values(4),
    }
    path = saved(model_of(nodes, [("x", FLOAT, [2, 3])], arrays), tmp_path / "m.onnx")
    assert set(load_network(path).params) == {"fc.weight", "table"}
    assert set(load_network(path, constants=["tab*"]).params) == {"fc.weight"}
    with pytest.raises(MetanetError, match="m.onnx: no stored tensor.*'none'"):
        load_network(path, constants=["none"])
    with pytest.raises(MetanetError, match="no open axis is called 'batch'"):
        load_network(path, dims={"batch": 3})


def test_warns_of_arrays_that_an_exporter_merged(tmp_path):
    nodes = [
        ("MatMul", ["x", "a.k"], ["h"], {}),
        ("Mul", ["h", "n.gain"], ["m"], {}),
        ("MatMul", ["m", "b.k"], ["o"], {}),
        ("Mul", ["o", "n.gain"], ["y"], {}),
    ]
    arrays = {
        "a.k": values(3, 4),
        "b.k": values(4, 4),
        "n.gain": np.ones(4, np.float32),
    }
    path = saved(model_of(nodes, [("x", FLOAT, [2, 3])], arrays), tmp_path / "m.onnx")
    with pytest.warns(UserWarning, match="n.gain: read by several operators"):
        load_network(path)


def test_functions_are_inlined(tmp_path):
    body = helper.make_function(
        "local",
        "Double",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 18)],
    )
    model = model_of(
        [
            ("MatMul", ["x", "w.k"], ["h"], {}),
            ("Double", ["h"], ["y"], {"domain": "local"}),
        ],
        [("x", FLOAT, [2, 3])],
        {"w.k": values(3, 4)},
        functions=[body],
    )
    network = load_network(saved(model, tmp_path / "f.onnx"))
    x = network.inputs[0]
    expected = 2 * (x @ network.params["w.k"])
    np.testing.assert_allclose(network.apply_fn(network.params, x), expected, atol=1e-5)


def test_operators_of_other_domains(tmp_path):
    @operator("test.domain.Scaled", settings=(1,))
    def scaled(call: Call) -> jax.Array:
        return call.get("factor") * call.inputs[0] + call.inputs[1]

    nodes = [
        ("MatMul", ["x", "w.k"], ["h"], {}),
        ("Scaled", ["h", "shift.b"], ["y"], {"factor": 3.0, "domain": "test.domain"}),
    ]
    arrays = {"w.k": values(3, 4), "shift.b": values(4)}
    model = model_of(nodes, [("x", FLOAT, [2, 3])], arrays)
    model.opset_import.append(helper.make_opsetid("test.domain", 1))
    network = load_network(saved(model, tmp_path / "custom.onnx"))
    assert set(network.params) == {"w.k"}  # the shift is a setting
    x = network.inputs[0]
    expected = 3 * (np.asarray(x) @ arrays["w.k"]) + arrays["shift.b"]
    np.testing.assert_allclose(network.apply_fn(network.params, x), expected, rtol=1e-5)


def bad_models():
    """Yields names, models or bytes that must be refused, and patterns of the error."""
    whole = small_cnn().SerializeToString()
    yield "empty", b"", "not an ONNX model"
    yield "text", b"this is no model at all", "not a valid ONNX model"
    yield "truncated", whole[: len(whole) // 2], "not a valid ONNX model|tensor"
    x, w = [("x", FLOAT, [2, 3])], {"w.k": values(3, 3)}
    loop = [
        ("Add", ["x", "b"], ["a"], {}),
        ("Relu", ["a"], ["b"], {}),
        ("MatMul", ["b", "w.k"], ["y"], {}),
    ]
    yield "cyclic", model_of(loop, x, w), "not a valid ONNX model.*sorted"
    huge = [("x", FLOAT, [2, 1 << 40])]
    yield (
        "huge input",
        model_of([("Relu", ["x"], ["y"], {})], huge, {}),
        "input x: shape",
    )
    fill = [("ConstantOfShape", ["size"], ["c"], {}), ("Add", ["x", "c"], ["y"], {})]
    size = {"size": np.array([1 << 20, 1 << 20])}
    yield (
        "huge constant",
        model_of(fill, x, size),
        "node ConstantOfShape n0: a constant of",
    )
    wide = [("Expand", ["x", "size"], ["y"], {})]
    size = {"size": np.array([1 << 20, 1 << 10, 2, 3])}
    yield "huge result", model_of(wide, x, size), "node Expand n0: a result of shape"
    yield (
        "operator",
        model_of(
            [
                (
                    "Scan",
                    ["x"],
                    ["y"],
                    {"num_scan_inputs": 1, "body": helper.make_graph([], "b", [], [])},
                )
            ],
            x,
            {},
        ),
        "not a valid ONNX model|not supported: ai.onnx.Scan",
    )
    yield (
        "shapes",
        model_of([("MatMul", ["x", "w.k"], ["y"], {})], x, {"w.k": values(4, 3)}),
        "node MatMul n0",
    )
    dynamic = [("Cast", ["x"], ["s"], {"to": INT}), ("Reshape", ["x", "s"], ["y"], {})]
    yield (
        "data-dependent",
        model_of(dynamic, [("x", FLOAT, [2])], {}),
        "n1: shape depends",
    )
    lying = small_cnn()
    lying.graph.initializer[0].dims[0] = 400
    yield "lying", lying, "tensor c.weight|not a valid ONNX model.*c.weight"
    negative = small_cnn()
    negative.graph.initializer[0].dims[0] = -4
    yield "negative", negative, "tensor c.weight|not a valid ONNX model"
    outside = small_cnn()
    outside.graph.initializer[0].ClearField("raw_data")
    outside.graph.initializer[0].data_location = TensorProto.EXTERNAL
    entry = outside.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "../secret.bin"
    yield "outside", outside, "c.weight: external data outside"
    absent = type(outside)()
    absent.CopyFrom(outside)
    absent.graph.initializer[0].external_data[0].value = "weights.bin"
    yield "absent", absent, "c.weight: its data file weights.bin is missing"
    call = helper.make_node("Again", ["a"], ["b"], domain="local")
    endless = helper.make_function(
        "local", "Again", ["a"], ["b"], [call], [helper.make_opsetid("local", 1)]
    )
    yield (
        "endless",
        model_of(
            [("Again", ["x"], ["y"], {"domain": "local"})], x, {}, functions=[endless]
        ),
        "function Again calls itself",
    )


BAD_MODELS = list(bad_models())


@pytest.mark.parametrize(
    ("name", "model", "message"), BAD_MODELS, ids=[case[0] for case in BAD_MODELS]
)
def test_bad_files_give_one_error_that_names_them(name, model, message, tmp_path):
    path = tmp_path / "bad.onnx"
    content = model if isinstance(model, bytes) else model.SerializeToString()
    path.write_bytes(content)
    with pytest.raises(MetanetError, match=message) as caught:
        load_network(path)
    assert "bad.onnx" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_files_and_other_formats(tmp_path):
    with pytest.raises(MetanetError, match="no such file"):
        load_network(tmp_path / "none.onnx")
    with pytest.raises(MetanetError, match="is a directory"):
        (tmp_path / "dir.onnx").mkdir()
        load_network(tmp_path / "dir.onnx")
    with pytest.raises(MetanetError, match="unknown format '.h5'"):
        load_network(tmp_path / "x.h5")
    np.savez(tmp_path / "x.npz", a=np.ones(2))
    with pytest.raises(MetanetError, match="give the network"):
        load_network(tmp_path / "x.npz")


def outputs_of_onnxruntime(path: Path, *inputs: np.ndarray) -> list[np.ndarray]:
    runtime = pytest.importorskip("onnxruntime")
    options = runtime.SessionOptions()
    # Its optimiser quantises activations beside quantised weights.
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(str(path), options)
    feeds = {}
    for i, x in zip(session.get_inputs(), inputs, strict=True):
        # JAX has no 64-bit integers by default.
        feeds[i.name] = x.astype(np.int64) if i.type == "tensor(int64)" else x
    return session.run(None, feeds)


def assert_equals_onnxruntime(path: Path, atol: float = 1e-5, **options):
    network = load_network(path, **options)
    expected = outputs_of_onnxruntime(path, *map(np.asarray, network.inputs))
    results = network.apply_fn(network.params, *network.inputs)
    results = results if isinstance(results, tuple) else (results,)
    for a, b in zip(results, expected, strict=True):
        np.testing.assert_allclose(np.asarray(a), b, atol=atol)
    return network


def test_sequences(tmp_path):
    """``chunk``, ``split`` and ``unbind`` of PyTorch become sequences."""
    nodes = [
        ("MatMul", ["x", "w.k"], ["h"], {}),
        ("SplitToSequence", ["h", "size"], ["s"], {"axis": 1}),
        ("SequenceAt", ["s", "one"], ["a"], {}),
        ("SequenceAt", ["s", "last"], ["b"], {}),
        ("SplitToSequence", ["b"], ["u"], {"axis": -1, "keepdims": 0}),
        ("ConcatFromSequence", ["u"], ["c"], {"axis": 1, "new_axis": 1}),
        ("SequenceInsert", ["s", "c"], ["s2"], {}),
        ("SequenceErase", ["s2", "one"], ["s3"], {}),
        ("ConcatFromSequence", ["s3"], ["d"], {"axis": 1}),
        ("SequenceLength", ["s3"], ["n"], {}),
        ("Cast", ["n"], ["m"], {"to": FLOAT}),
        ("Mul", ["d", "m"], ["e"], {}),
        ("Concat", ["a", "e"], ["y"], {"axis": 1}),
    ]
    arrays = {
        "w.k": values(3, 8),
        "size": np.array(3),
        "one": np.array(1),
        "last": np.array(-1),
    }
    path = saved(model_of(nodes, [("x", FLOAT, [2, 3])], arrays), tmp_path / "s.onnx")
    network = assert_equals_onnxruntime(path)
    assert set(network.params) == {"w.k"}
    parts = [("SplitToSequence", ["w.k", "size"], ["s"], {"axis": 1})]
    parts += [
        ("SequenceAt", ["s", "one"], ["v"], {}),
        ("MatMul", ["x", "v"], ["y"], {}),
    ]
    path = saved(model_of(parts, [("x", FLOAT, [2, 3])], arrays), tmp_path / "p.onnx")
    assert_equals_onnxruntime(path)


def test_padding_that_cuts_and_reflects(tmp_path):
    nodes = [("Pad", ["x", "pads"], ["y"], {"mode": "reflect"})]
    model = model_of(nodes, [("x", FLOAT, [2, 5])], {"pads": np.array([0, -2, 0, 1])})
    network = load_network(saved(model, tmp_path / "pad.onnx"))
    (x,) = network.inputs
    np.testing.assert_array_equal(network.apply_fn({}, x), x[:, [2, 3, 4, 3]])


def test_names_that_exporters_make_up_give_way_to_modules(tmp_path):
    """As torch.onnx.export writes them: TorchScript in names, dynamo in metadata."""
    rows = [
        ("/layers/layers.0/fc/MatMul", "MatMul", ["x", "onnx::MatMul_9"], "a"),
        ("/layers/layers.0/fc/Add", "Add", ["a", "layers.0.fc.bias"], "b"),
        ("node_MatMul_3", "MatMul", ["b", "val_7"], "c"),
        ("Gemm_4", "Gemm", ["c", "17"], "d"),
        ("/layers/layers.0/fc/MatMul_1", "MatMul", ["d", "onnx::MatMul_11"], "y"),
    ]
    model = model_of([], [("x", FLOAT, [2, 3])], {})
    for name, operation, inputs, output in rows:
        model.graph.node.append(helper.make_node(operation, inputs, [output], name))
    entry = model.graph.node[2].metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", "['', 'head.0', 'linear_3']"
    arrays = {
        "onnx::MatMul_9": values(3, 4),
        "layers.0.fc.bias": values(4),
        "val_7": values(4, 5),
        "17": values(5, 4),
        "onnx::MatMul_11": values(4, 4),
    }
    for name, array in arrays.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    path = saved(model, tmp_path / "names.onnx")
    network = load_network(path)
    assert list(network.params) == [
        "layers.0.fc.weight",
        "layers.0.fc.bias",
        "head.0.weight",
        "Gemm_4.weight",
        "layers.0.fc.weight_1",
    ]
    changed = network._replace(params=jax.tree.map(lambda x: 2 * x, network.params))
    save_network(tmp_path / "changed.onnx", changed, like=path)
    copy = load_network(tmp_path / "changed.onnx")
    assert list(copy.params) == list(network.params)
    np.testing.assert_array_equal(copy.params["head.0.weight"], 2 * arrays["val_7"])


def strided_cnn(*shape):
    """A network of images whose sides are multiples of four."""
    nodes = [
        ("Conv", ["image", "a.weight"], ["a"], {"strides": [4, 4]}),
        ("ConvTranspose", ["a", "b.weight"], ["b"], {"strides": [4, 4]}),
        ("Add", ["image", "b"], ["c"], {}),
        ("Conv", ["c", "c.weight"], ["y"], {}),
    ]
    arrays = {
        "a.weight": values(5, 3, 4, 4),
        "b.weight": values(5, 3, 4, 4),
        "c.weight": values(2, 3, 12, 12),
    }
    model = model_of(nodes, [("image", FLOAT, [None] * 4)], arrays)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(dims, shape, strict=True):
        if isinstance(size, int):
            dim.dim_value = size
        elif size:
            dim.dim_param = size
    return model


@pytest.mark.parametrize(
    ("shape", "names"),
    [
        (("batch", 3, "height", "width"), ("height", "width")),
        ((-1, 3, "?", "?"), ("image:2", "image:3")),
        ((0, 0, None, None), ("image:2", "image:3")),
    ],
)
def test_sizes_of_open_axes_are_found(shape, names, tmp_path):
    path = saved(strided_cnn(*shape), tmp_path / "open.onnx")
    network = load_network(path)
    assert network.inputs[0].shape == (2, 3, 16, 16)
    network = load_network(path, dims={names[0]: 12, "image:3": 24, "image:0": 1})
    assert network.inputs[0].shape == (1, 3, 12, 24)
    hint = f"node Conv n0: .*{names[0]}=3.*--dim "
    with pytest.raises(MetanetError, match=hint):
        load_network(path, dims={names[0]: 3})
    with pytest.raises(
        MetanetError, match=f"no open axis is called 'side'.*{names[1]}"
    ):
        load_network(path, dims={"side": 3})


def test_open_axes_are_set_on_the_command_line(tmp_path, capsys):
    path = saved(strided_cnn("batch", 3, "?", "width"), tmp_path / "open.onnx")
    options = ["--dim", "image:2=3", "--dim", "width=12"]
    assert main(["inspect", str(path), *options]) == 1
    error = capsys.readouterr().err
    assert "image:2=3" in error and "--dim" in error and error.count("\n") == 1


def test_weights_are_constants_of_any_form(tmp_path):
    """Nodes Constant and ConstantOfShape, and tensors of a branch's own graph."""
    kernel, bias, other = values(3, 4), values(4), values(4, seed=1)
    branches = []
    for value in (bias, other):
        nodes = [
            helper.make_node(
                "Constant", [], ["bias"], value=numpy_helper.from_array(value)
            ),
            helper.make_node("Add", ["h", "bias"], ["b"]),
        ]
        output = helper.make_tensor_value_info("b", FLOAT, None)
        branches.append(helper.make_graph(nodes, "branch", [], [output]))
    one = numpy_helper.from_array(np.ones(1, np.float32))
    nodes = [
        ("Constant", [], ["w.k"], {"value": numpy_helper.from_array(kernel)}),
        ("Constant", [], ["four"], {"value_ints": [4]}),
        ("MatMul", ["x", "w.k"], ["h"], {}),
        ("ReduceSum", ["x"], ["sum"], {"keepdims": 0}),
        ("Greater", ["sum", "zero"], ["positive"], {}),
        (
            "If",
            ["positive"],
            ["c"],
            dict(zip(("then_branch", "else_branch"), branches, strict=True)),
        ),
        ("ConstantOfShape", ["four"], ["gain"], {"value": one}),
        ("ConstantOfShape", ["four"], ["shift"], {}),
        ("LayerNormalization", ["c", "gain", "shift"], ["y"], {}),
    ]
    arrays = {"zero": np.float32(0.0)}
    path = saved(model_of(nodes, [("x", FLOAT, [2, 3])], arrays), tmp_path / "c.onnx")
    network = assert_equals_onnxruntime(path)
    assert set(network.params) == {"w.k", "bias", "bias_1", "gain", "shift"}
    flipped = -np.asarray(network.inputs[0])
    expected = outputs_of_onnxruntime(path, flipped)[0]
    result = network.apply_fn(network.params, flipped)
    np.testing.assert_allclose(result, expected, atol=1e-5)
    save_network(tmp_path / "copy.onnx", network, like=path)
    copy = assert_equals_onnxruntime(tmp_path / "copy.onnx")
    assert set(copy.params) == set(network.params)


def test_tables_are_told_from_parameters_by_their_use(tmp_path):
    """Rotary frequencies and slopes of distances are no weights; look-alikes are."""
    nodes = [
        # Frequencies times position ids.
        ("Unsqueeze", ["freqs.f", "axes0"], ["f"], {}),
        ("Cast", ["ids"], ["p"], {"to": FLOAT}),
        ("Unsqueeze", ["p", "axes2"], ["q"], {}),
        ("MatMul", ["q", "f"], ["angles"], {}),
        ("Concat", ["angles", "angles"], ["both"], {"axis": -1}),
        ("Cos", ["both"], ["cos"], {}),
        # Slopes times distances, counted from the shape.
        ("Shape", ["ids"], ["shape"], {"start": 1}),
        ("Squeeze", ["shape"], ["length"], {}),
        ("Range", ["zero", "length", "step"], ["steps"], {}),
        ("Cast", ["steps"], ["distances"], {"to": FLOAT}),
        ("Unsqueeze", ["distances", "axes1"], ["column"], {}),
        ("Mul", ["slopes.s", "column"], ["bias"], {}),
        # A gain times a size, and a layer of an integer feature, are weights.
        ("Cast", ["length"], ["size"], {"to": FLOAT}),
        ("Mul", ["gain.g", "size"], ["gain"], {}),
        ("Mul", ["cos", "gain"], ["h"], {}),
        ("Unsqueeze", ["feature.w", "axes0"], ["w"], {}),
        ("MatMul", ["q", "w"], ["k"], {}),
        ("Tanh", ["k"], ["t"], {}),
        ("Add", ["h", "t"], ["r"], {}),
        ("Add", ["r", "bias"], ["y"], {}),
    ]
    arrays = {
        "freqs.f": values(2),
        "slopes.s": values(4),
        "gain.g": values(4, seed=2),
        "feature.w": values(4, seed=3),
        "axes0": np.array([0]),
        "axes1": np.array([1]),
        "axes2": np.array([2]),
        "zero": np.array(0),
        "step": np.array(1),
    }
    model = model_of(nodes, [("ids", INT, ["batch", "length"])], arrays)
    network = assert_equals_onnxruntime(saved(model, tmp_path / "tables.onnx"))
    assert set(network.params) == {"gain.g", "feature.w"}


def test_sines_of_positions_are_no_parameters(tmp_path):
    """Exporters compute tables of positions; learned tables stay parameters."""
    angles = np.arange(6)[:, None] / 100 ** (np.arange(4) / 4)
    waves = np.concatenate([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    nodes = [
        ("Add", ["x", "waves.w"], ["a"], {}),
        ("Add", ["a", "learned.w"], ["b"], {}),
        ("Mul", ["b", "decay.w"], ["c"], {}),
        ("Add", ["c", "zero.b"], ["d"], {}),
        ("Sin", ["angles.w"], ["sines"], {}),
        ("Add", ["d", "sines"], ["y"], {}),
    ]
    arrays = {
        "zero.b": np.zeros(8, np.float32),
        "angles.w": np.repeat(angles, 2, 1).astype(np.float32),
        "waves.w": waves,
        "learned.w": values(6, 8),
        "decay.w": (0.5 ** np.arange(8.0)).astype(np.float32),
    }
    model = model_of(nodes, [("x", FLOAT, [2, 6, 8])], arrays)
    network = load_network(saved(model, tmp_path / "waves.onnx"))
    assert set(network.params) == {"zero.b", "learned.w", "decay.w"}


def test_sizes_that_an_exporter_fixed_are_tried(tmp_path):
    nodes = [
        ("Reshape", ["x", "shape"], ["h"], {}),
        ("MatMul", ["h", "w.k"], ["y"], {}),
    ]
    arrays = {"shape": np.array([7, -1, 3]), "w.k": values(3, 2)}
    nodes.append(("Reshape", ["h", "fixed"], ["z"], {}))
    arrays["fixed"] = np.array([-1, 11, 3])
    inputs = [("x", FLOAT, ["batch", "time", 3])]
    model = model_of(nodes, inputs, arrays, outputs=("y", "z"))
    network = load_network(saved(model, tmp_path / "fixed.onnx"))
    assert network.inputs[0].shape[0] * network.inputs[0].shape[1] % 77 == 0


def test_token_ids_are_drawn_from_the_whole_vocabulary(tmp_path):
    nodes = [("Gather", ["e.table", "ids"], ["y"], {})]
    model = model_of(nodes, [("ids", INT, [4, 50])], {"e.table": values(30, 2)})
    network = load_network(saved(model, tmp_path / "ids.onnx"))
    assert set(np.unique(network.inputs[0])) > set(range(2, 20))


def quantized_models():
    """Yields names, nodes, shapes of inputs and arrays of quantised models."""
    rng = np.random.default_rng(0)

    def integers(*shape: int, dtype=np.int8) -> np.ndarray:
        info = np.iinfo(dtype)
        return rng.integers(info.min, info.max, shape).astype(dtype)

    half, zero = np.float32(0.02), np.uint8(120)
    scales = np.array([0.01, 0.02, 0.03], np.float32)
    nodes = [
        ("DequantizeLinear", ["k_quantized", "ks", "kz"], ["d"], {"axis": 1}),
        ("MatMul", ["x", "d"], ["y"], {}),
    ]
    arrays = {"k_quantized": integers(4, 3), "ks": scales, "kz": integers(3)}
    yield "stored", nodes, [2, 4], arrays
    nodes = [
        ("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"], {}),
        ("MatMulInteger", ["q", "w_quantized", "qz", "wz"], ["i"], {}),
        ("Cast", ["i"], ["f"], {"to": FLOAT}),
        ("Mul", ["qs", "ws"], ["s"], {}),
        ("Mul", ["f", "s"], ["y"], {}),
    ]
    weights = {"w_quantized": integers(4, 3), "wz": np.int8(3), "ws": scales}
    yield "dynamic matmul", nodes, [2, 4], weights
    nodes = [
        ("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"], {}),
        ("ConvInteger", ["q", "w", "qz", "wz"], ["i"], {"pads": [1, 1, 1, 1]}),
        ("Cast", ["i"], ["f"], {"to": FLOAT}),
        ("Mul", ["f", "qs"], ["y"], {}),
    ]
    weights = {"w": integers(3, 2, 3, 3, dtype=np.uint8), "wz": np.uint8(130)}
    yield "dynamic convolution", nodes, [1, 2, 5, 5], weights
    head = [("QuantizeLinear", ["x", "xs", "xz"], ["q"], {})]
    tail = [("DequantizeLinear", ["r", "ys", "yz"], ["y"], {})]
    around = {"xs": half, "xz": zero, "ys": np.float32(0.1), "yz": np.uint8(100)}
    names = ["q", "xs", "xz", "w", "ws", "wz", "ys", "yz"]
    weights = {"w": integers(4, 3), "ws": half, "wz": np.int8(0)}
    nodes = [*head, ("QLinearMatMul", names, ["r"], {}), *tail]
    yield "static matmul", nodes, [2, 4], around | weights
    weights = {"w": integers(3, 2, 3, 3), "ws": scales, "wz": np.zeros(3, np.int8)}
    weights |= {"b": rng.integers(-1000, 1000, 3).astype(np.int32)}
    nodes = [*head, ("QLinearConv", [*names, "b"], ["r"], {}), *tail]
    yield "static convolution", nodes, [1, 2, 5, 5], around | weights


QUANTIZED = {name: rest for name, *rest in quantized_models()}


@pytest.mark.parametrize("name", QUANTIZED)
def test_quantised_weights_are_floats(name, tmp_path):
    nodes, shape, arrays = QUANTIZED[name]
    path = saved(model_of(nodes, [("x", FLOAT, shape)], arrays), tmp_path / "q.onnx")
    network = assert_equals_onnxruntime(path, atol=1e-4)
    weights = [x for x in network.params.values() if x.ndim > 1]
    assert len(weights) == 1 and weights[0].dtype == jnp.float32
    save_network(tmp_path / "copy.onnx", network, like=path)
    copy = load_network(tmp_path / "copy.onnx")
    np.testing.assert_array_equal(
        copy.apply_fn(copy.params, *network.inputs),
        network.apply_fn(network.params, *network.inputs),
    )
    if name in ("stored", "dynamic matmul"):
        (stem,) = network.params
        stored = arrays["k_quantized" if name == "stored" else "w_quantized"]
        zero = arrays["kz" if name == "stored" else "wz"]
        scale = arrays["ks" if name == "stored" else "ws"]
        assert stem == ("k" if name == "stored" else "w")
        expected = (stored.astype(np.float32) - zero) * scale
        np.testing.assert_allclose(network.params[stem], expected, rtol=1e-6)


def test_quantised_operators_that_are_refused(tmp_path):
    nodes = [("MatMulNBits", ["x", "w", "s"], ["y"], {"domain": "com.microsoft"})]
    arrays = {"w": np.zeros((2, 2, 2), np.uint8), "s": values(2, 2)}
    model = model_of(nodes, [("x", FLOAT, [2, 3])], arrays)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    with pytest.raises(
        MetanetError, match=r"com\.microsoft\.MatMulNBits; onnxruntime's"
    ):
        load_network(saved(model, tmp_path / "bits.onnx"))
    nodes = [
        ("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"], {}),
        ("MatMulInteger", ["q", "q", "qz", "qz"], ["y"], {}),
    ]
    model = model_of(nodes, [("x", FLOAT, [3, 3])], {})
    with pytest.raises(
        MetanetError, match="MatMulInteger n1: q is computed, not stored"
    ):
        load_network(saved(model, tmp_path / "computed.onnx"))


def test_constants_follow_the_precision_of_parameters(tmp_path):
    """In float64, no value passes through a narrower type."""
    nodes = [
        ("Conv", ["x", "filter"], ["a"], {}),
        ("Cast", ["a"], ["b"], {"to": FLOAT}),
        ("Mul", ["b", "table"], ["c"], {}),
        ("Gemm", ["c", "w.k", "w.b"], ["y"], {}),
    ]
    arrays = {"filter": values(3, 3, 1), "table": values(4)}
    arrays |= {"w.k": values(4, 2), "w.b": values(2)}
    nodes.insert(2, ("Reshape", ["b", "flat"], ["b2"], {}))
    nodes[3] = ("Mul", ["b2", "table"], ["c"], {})
    arrays["flat"] = np.array([3, 4])
    path = saved(
        model_of(nodes, [("x", FLOAT, [1, 3, 4])], arrays), tmp_path / "c.onnx"
    )
    network = load_network(path, constants=["filter", "table"])
    assert set(network.params) == {"w.k", "w.b"}
    x = np.asarray(network.inputs[0])
    for dtype in (jnp.float64, jnp.bfloat16):
        with jax.enable_x64(True):
            params = {k: jnp.asarray(v, dtype) for k, v in network.params.items()}
            jaxpr = jax.make_jaxpr(network.apply_fn)(params, jnp.asarray(x, dtype))
            types = {v.aval.dtype for e in jaxpr.eqns for v in (*e.invars, *e.outvars)}
            assert types == {np.dtype(dtype)}
    f = {k: v.astype(np.float64) for k, v in arrays.items()}
    hidden = np.einsum("oi,nit->not", f["filter"][..., 0], x.astype(np.float64))
    expected = (hidden.reshape(3, 4) * f["table"]) @ f["w.k"] + f["w.b"]
    with jax.enable_x64(True):
        params = {k: jnp.asarray(v, jnp.float64) for k, v in network.params.items()}
        result = network.apply_fn(params, jnp.asarray(x, jnp.float64))
    np.testing.assert_allclose(result, expected, rtol=1e-12)


def hostile_models():
    """Yields names, small files that ask for much, and patterns of the error."""
    x = [("x", FLOAT, [2, 3])]
    end = [("ReduceSum", ["c"], ["s"], {}), ("Add", ["x", "s"], ["y"], {})]
    levels = []
    for k in range(9):
        last = [helper.make_node("Relu", ["a"], ["b"])]
        calls = [
            helper.make_node(f"F{k + 1}", [f"t{i}" if i else "a"], [o], domain="local")
            for i, o in enumerate(("t1", "t2", "t3", "b"))
        ]
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
        body = calls if k < 8 else last
        levels.append(
            helper.make_function("local", f"F{k}", ["a"], ["b"], body, opsets)
        )
    yield (
        "functions",
        model_of([("F0", ["x"], ["y"], {"domain": "local"})], x, {}, functions=levels),
        "more than 10,000 nodes",
    )
    column = {"a": np.ones((40_000, 1), np.float32)}
    outer = [("Transpose", ["a"], ["b"], {}), ("Add", ["a", "b"], ["c"], {}), *end]
    yield "outer sum", model_of(outer, x, column), "Add n1: a constant of 1,600,000,000"
    counts = {"i": np.arange(3000, dtype=np.float32)}
    einsum = [("Einsum", ["i"] * 3, ["c"], {"equation": "i,j,k->"}), *end]
    yield (
        "einsum",
        model_of(einsum, x, counts),
        "Einsum n0: constants that take too long",
    )
    eye = [("EyeLike", ["i"], ["c"], {}), *end]
    counts = {"i": np.zeros(60_000, np.float32)}
    yield (
        "identity",
        model_of(eye, x, counts),
        "EyeLike n0: a constant of 3,600,000,000",
    )
    doubling = [
        ("Concat", [f"c{k}"] * 2, [f"c{k + 1}"], {"axis": 0}) for k in range(40)
    ]
    doubling += [("ReduceSum", ["c40"], ["s"], {}), ("Add", ["x", "s"], ["y"], {})]
    counts = {"c0": np.zeros(1 << 16, np.float32)}
    yield (
        "doubling",
        model_of(doubling, x, counts),
        "node Concat n1.: constants of more",
    )
    many = [("ConstantOfShape", ["n"], [f"c{k}"], {}) for k in range(40)]
    many += [("Add", ["x", "c1"], ["y"], {})]
    sizes = {"n": np.array([5000, 5000])}
    yield "many constants", model_of(many, x, sizes), "constants of more than 512 MiB"
    filled = [("ConstantOfShape", ["n"], [f"w{k}"], {}) for k in range(40)]
    filled += [
        ("Gemm", [f"h{k}" if k else "x", f"w{k}"], [f"h{k + 1}"], {}) for k in range(40)
    ]
    filled += [("Relu", ["h40"], ["y"], {})]
    wide = [("x", FLOAT, [2, 5000])]
    yield (
        "many weights",
        model_of(filled, wide, sizes),
        "constants of more than 1,024 MiB",
    )
    tile = [("Tile", ["i", "n"], ["c"], {}), *end]
    sizes = {"i": np.zeros(3000, np.float32), "n": np.array([1 << 20])}
    yield "tiles", model_of(tile, x, sizes), "Tile n0: a constant of"
    resize = [("Resize", ["x", "", "scales"], ["y"], {})]
    scales = {"scales": np.array([1, 1, 1e6, 1e6], np.float32)}
    image = [("x", FLOAT, [1, 1, 400, 400])]
    yield (
        "resized",
        model_of(resize, image, scales),
        "Resize n0: an axis of 400 resized",
    )
    relus = [
        ("Relu", [f"h{k}" if k else "x"], [f"h{k + 1}"], {}) for k in range(20_000)
    ]
    relus += [("Relu", ["h20000"], ["y"], {})]
    yield "many nodes", model_of(relus, x, {}), "more than 10,000 nodes"
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["o0"])],
        "leaf",
        [],
        [helper.make_tensor_value_info("o0", FLOAT, None)],
    )
    for k in range(1, 13):
        branch = dict(then_branch=graph, else_branch=graph)
        node = helper.make_node("If", ["positive"], [f"o{k}"], **branch)
        output = helper.make_tensor_value_info(f"o{k}", FLOAT, None)
        graph = helper.make_graph([node], "inner", [], [output])
    model = model_of(
        [
            ("ReduceSum", ["x"], ["s"], {"keepdims": 0}),
            ("Greater", ["s", "zero"], ["positive"], {}),
        ],
        x,
        {"zero": np.float32(0)},
        outputs=("o12",),
    )
    model.graph.node.extend(graph.node)
    yield "branches", model, "nested more than 10 deep"


def test_hostile_files_are_refused_at_once(tmp_path):
    for name, model, message in hostile_models():
        path = saved(model, tmp_path / f"{name.replace(' ', '_')}.onnx")
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        start = time.process_time()
        with pytest.raises(MetanetError, match=message) as caught:
            load_network(path)
        assert "\n" not in str(caught.value)
        assert time.process_time() - start < 10, name
        # In KiB on Linux, in bytes elsewhere, where the bound says nothing.
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 2 << 20 or sys.platform != "linux", name


def test_a_branch_that_does_not_fit_is_not_taken(tmp_path):
    """A file for two sampling rates: one branch fits the example's length."""
    branches = []
    for weight in ("short.k", "long.k"):
        nodes = [helper.make_node("MatMul", ["x", weight], ["b"])]
        output = helper.make_tensor_value_info("b", FLOAT, None)
        branches.append(helper.make_graph(nodes, "branch", [], [output]))
    nodes = [
        ("Equal", ["rate", "fast"], ["is_fast"], {}),
        (
            "If",
            ["is_fast"],
            ["y"],
            dict(zip(("then_branch", "else_branch"), branches, strict=True)),
        ),
    ]
    arrays = {
        "short.k": values(8, 2),
        "long.k": values(16, 2),
        "fast": np.array(16_000),
    }
    inputs = [("x", FLOAT, ["batch", "samples"]), ("rate", INT, [])]
    path = saved(model_of(nodes, inputs, arrays), tmp_path / "rates.onnx")
    for samples, weight in ((8, "short.k"), (16, "long.k")):
        network = load_network(path, dims={"samples": samples})
        x = network.inputs[0]
        result = network.apply_fn(network.params, *network.inputs)
        np.testing.assert_allclose(result, x @ arrays[weight], atol=1e-5)


@given(st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_damaged_files_never_crash(tmp_path_factory, data):
    whole = bytearray(small_cnn().SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(whole) - 1))
        whole[position] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "m.onnx"
    path.write_bytes(whole[: data.draw(st.integers(1, len(whole)))])
    try:
        load_network(path)
    except MetanetError as error:
        assert "m.onnx" in str(error)


def test_inspect_takes_onnx_files_and_functions(tmp_path, monkeypatch, capsys):
    saved(small_cnn(), tmp_path / "cnn.onnx")
    (tmp_path / "mine.py").write_text(
        "import jax.numpy as jnp\n"
        "def made():\n"
        "    f = lambda p, x: jnp.tanh(x @ p['w']) @ p['o']\n"
        "    return f, {'w': jnp.ones((3, 4)), 'o': jnp.ones((4, 2))}, (jnp.ones((5, 3)),)\n"
        "def wrong():\n"
        "    return 3\n"
        "def swapped():\n"
        "    f, p, x = made()\n"
        "    return (lambda x, p: f(p, x)), p, x\n"
    )

    monkeypatch.chdir(tmp_path)

    def inspect(*args: str) -> tuple[int, str, str]:
        return main(["inspect", *args]), *capsys.readouterr()

    code, out, error = inspect(
        "cnn.onnx", "--plot", "graph.png", "--json", "symmetry.json"
    )
    assert code == 0, error
    assert "S_4" in out and (tmp_path / "graph.png").stat().st_size > 1000
    symmetry = sym.Symmetry.from_json((tmp_path / "symmetry.json").read_text())
    assert symmetry.order == 24
    code, out, error = inspect("mine:made", "--explain", "w:1")
    assert code == 0 and "mine.py" in out and "free" in out, error
    for command, message in (
        ("mine:wrong", "must return"),
        ("mine:none", "no function none"),
        ("mine:swapped", "mine:swapped: calling the network fails: "),
        ("mine.py:made", "get_config"),
        ("nothing:here", "no module named nothing"),
        ("cnn.onnx --dim batch=0", "--dim batch=0"),
    ):
        code, _, error = inspect(*command.split())
        assert code == 1 and message in error
        assert "Traceback" not in error


def test_weights_are_bound_to_a_network(tmp_path):
    network = create(Architecture.of("mlp", hidden=[4]), jax.random.key(0))
    flat, _ = jax.tree_util.tree_flatten_with_path(network.params)
    arrays = {
        jax.tree_util.keystr(p, simple=True, separator="."): x + 1 for p, x in flat
    }
    np.savez(tmp_path / "w.npz", **{k: np.asarray(v) for k, v in arrays.items()})
    bound = load_network(tmp_path / "w.npz", network)
    for a, b in zip(
        jax.tree.leaves(bound.params), jax.tree.leaves(network.params), strict=True
    ):
        np.testing.assert_allclose(a, jnp.asarray(b) + 1)
