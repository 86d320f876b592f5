"""ONNX files: evaluated as by onnxruntime, refused with one clear error."""

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
