"""Files of other programs: arrays are read as written, and nothing is executed."""

from __future__ import annotations

import io
import os
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import torch_writer
from safetensors.numpy import save_file

from metanet.errors import MetanetError
from metanet.importers import bind, load_network, read_arrays, save_network
from metanet.importers.torch_file import to_torch
from metanet.networks import Architecture, ParamSpec, create


def siren(
    hidden: int = 32, seed: int = 0
) -> dict[str, dict[str, dict[str, np.ndarray]]]:
    rng = np.random.default_rng(seed)
    widths = (2, hidden, hidden, 1)
    return {
        "layers": {
            i: {
                "kernel": rng.standard_normal((a, b)).astype(np.float32),
                "bias": rng.standard_normal(b).astype(np.float32),
            }
            for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False))
        }
    }


def flat(params: dict) -> np.ndarray:
    return np.asarray(ParamSpec.of(params).flatten(params))


def as_torch(params: dict, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = OrderedDict()
    for name, layer in zip(names, params["layers"].values(), strict=True):
        out[f"{name}.weight"] = layer["kernel"].T
        out[f"{name}.bias"] = layer["bias"]
    return out


DWS = ("seq.0", "seq.1", "seq.2")
NFN = ("net.0.linear", "net.1.linear", "net.2")


@pytest.mark.parametrize("names", [DWS, NFN], ids=["dws", "nfn"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_public_layouts_bind_to_the_same_vector(names, suffix, tmp_path):
    params = siren()
    arrays = as_torch(params, names)
    path = tmp_path / f"model{suffix}"
    if suffix == ".pth":
        torch_writer.save(path, arrays | {"label": 7})
    elif suffix == ".npz":
        np.savez_compressed(path, label=7, **arrays)
    else:
        contiguous = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
        save_file(contiguous | {"label": np.array(7)}, path)
    bound = bind(read_arrays(path), ParamSpec.of(params), path.name)
    np.testing.assert_array_equal(bound.vector, flat(params))
    assert bound.ignored == ("label",)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".npz"])
def test_networks_are_saved_in_the_format_that_they_came_in(suffix, tmp_path):
    """Names, layouts, types and other arrays are those of the file."""
    network = create(Architecture.of("siren"), jax.random.key(0))
    arrays = as_torch(siren(), DWS)
    arrays["seq.0.bias"] = arrays["seq.0.bias"].astype(np.float16)
    path = tmp_path / f"model{suffix}"
    contiguous = {k: np.ascontiguousarray(v) for k, v in arrays.items()}
    contiguous["label"] = np.array(7)
    if suffix == ".pth":
        torch_writer.save(path, contiguous)
    elif suffix == ".npz":
        np.savez(path, **contiguous)
    else:
        save_file(contiguous, path)
    network = load_network(path, network)
    edited = network._replace(params=jax.tree.map(lambda x: 2 * x, network.params))
    save_network(tmp_path / f"edited{suffix}", edited, like=path)
    copy = read_arrays(tmp_path / f"edited{suffix}")
    assert set(copy) == set(contiguous) and copy["label"] == 7
    for name in arrays:
        assert copy[name].dtype == arrays[name].dtype
        np.testing.assert_allclose(copy[name], 2 * arrays[name], rtol=1e-3)
    with pytest.raises(MetanetError, match="must end with"):
        save_network(tmp_path / "edited.bin", edited, like=path)


def test_written_state_dicts_are_those_of_pytorch(tmp_path):
    """The pickle builds tensors by the calls that PyTorch's own pickles contain."""
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    data = to_torch({"a.weight": array})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        operations = list(pickletools.genops(archive.read("archive/data.pkl")))
        assert archive.read("archive/data/0") == array.tobytes()
    names = [argument for code, argument, _ in operations if code.name == "GLOBAL"]
    assert names == [
        "torch._utils _rebuild_tensor_v2",
        "torch FloatStorage",
        "collections OrderedDict",
    ]
    numbers = [argument for code, argument, _ in operations if code.name == "LONG1"]
    assert numbers == [6, 0, 2, 3, 3, 1]  # values, offset, shape, strides


def test_paths_of_metanet_bind_without_conversion(tmp_path):
    params = siren()
    spec = ParamSpec.of(params)
    leaves = [x for layer in params["layers"].values() for x in layer.values()]
    names = [f"layers.{i}.{k}" for i in range(3) for k in ("kernel", "bias")]
    np.savez(tmp_path / "a.npz", **dict(zip(names, leaves, strict=True)))
    bound = bind(read_arrays(tmp_path / "a.npz"), spec, "a.npz")
    np.testing.assert_array_equal(bound.vector, flat(params))


def test_layers_pair_in_natural_order_and_kernels_are_not_transposed():
    widths = (4,) * 12
    params = {
        "layers": {
            i: {"kernel": np.full((4, 4), i, np.float32).cumsum(0)}
            for i in range(len(widths))
        }
    }
    arrays = {
        f"net.{i}.kernel": params["layers"][i]["kernel"] for i in reversed(range(12))
    }
    bound = bind(arrays, ParamSpec.of(params), "x")
    np.testing.assert_array_equal(bound.vector, flat(params))


def test_convolutions_are_transposed_by_name():
    kernel = np.arange(3 * 3 * 2 * 5, dtype=np.float32).reshape(3, 3, 2, 5)
    params = {"conv": {"kernel": kernel, "bias": np.zeros(5, np.float32)}}
    arrays = {
        "c.weight": kernel.transpose(3, 2, 0, 1),
        "c.bias": params["conv"]["bias"],
    }
    bound = bind(arrays, ParamSpec.of(params), "x")
    np.testing.assert_array_equal(bound.vector, flat(params))


def test_layers_whose_names_sort_differently():
    rng = np.random.default_rng(0)
    net = create(Architecture.of("small_cnn"), jax.random.key(0))
    spec = ParamSpec.of(net.params)
    vector = rng.standard_normal(spec.size).astype(np.float32)
    params = spec.unflatten(vector)
    arrays = {
        "fc.weight": params["head"]["kernel"].T,
        "fc.bias": params["head"]["bias"],
    }
    for i, layer in params["layers"].items():
        arrays[f"conv.{i}.weight"] = layer["kernel"].transpose(3, 2, 0, 1)
        arrays[f"conv.{i}.bias"] = layer["bias"]
    np.testing.assert_array_equal(bind(arrays, spec, "x").vector, vector)


def test_batch_norm_names():
    rng = np.random.default_rng(0)
    bn = {
        k: rng.standard_normal(3).astype("f4") for k in ("scale", "bias", "mean", "var")
    }
    names = dict(scale="weight", bias="bias", mean="running_mean", var="running_var")
    arrays = {f"bn.{names[k]}": v for k, v in bn.items()}
    arrays["bn.num_batches_tracked"] = np.array(5)
    bound = bind(arrays, ParamSpec.of({"norm": bn}), "x")
    np.testing.assert_array_equal(bound.vector, flat({"norm": bn}))


def edit(arrays, change):
    arrays = dict(arrays)
    change(arrays)
    return arrays


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.update({"seq.1.weight": np.zeros((64, 32), "f4")}),
            r"m\.pth: seq\.1\.weight: shape \(64, 32\).* takes \(32, 32\)",
        ),
        (
            lambda a: a.update({"seq.0.weight": np.zeros((2, 32), "f4")}),
            r"m\.pth: seq\.0\.weight: shape \(2, 32\).* takes \(32, 2\)",
        ),
        (lambda a: a.pop("seq.1.bias"), r"m\.pth: no array for layers/1/bias"),
        (lambda a: a.update({"seq.3.bias": np.zeros(1)}), r"seq\.3\.bias: unexpected"),
        (
            lambda a: [a.pop("seq.2.weight"), a.pop("seq.2.bias")],
            r"no array for layers/2/.*2 layers.* 3",
        ),
        (
            lambda a: a.update({"seq.2.bias": np.array([np.nan])}),
            r"m\.pth: seq\.2\.bias: holds NaN",
        ),
        (lambda a: a.update({"seq.2.bias": np.array([1e300])}), r"infinite"),
        (lambda a: a.update({"seq.2.bias": np.array([1j])}), r"complex"),
        (lambda a: a.update({"seq.2.alpha": np.ones(1)}), r"seq\.2\.alpha: unexpected"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change, message):
    params = siren()
    arrays = edit(as_torch(params, DWS), change)
    with pytest.raises(MetanetError, match=message) as error:
        bind(arrays, ParamSpec.of(params), "m.pth")
    assert "\n" not in str(error.value)


def test_torch_views_types_and_wrappers(tmp_path):
    base = np.arange(24, dtype=np.float32)
    exact = np.array([1.5, -2.0, 0.0], np.float32)
    tree = {
        "epoch": 3,
        "config": "text",
        "state_dict": OrderedDict(
            columns=torch_writer.View(base, 2, (3, 2), (1, 6)),
            half=exact.astype(np.float16),
            bf16=torch_writer.BFloat16(exact),
            parameter=torch_writer.Parameter(exact),
            long=np.array([1, 2]),
            scalar=np.float32(2.5),
            empty=np.zeros((0, 4), np.float32),
        ),
    }
    torch_writer.save(tmp_path / "m.pt", tree)
    arrays = read_arrays(tmp_path / "m.pt")
    assert list(arrays) == list(tree["state_dict"])
    np.testing.assert_array_equal(arrays["columns"], [[2, 8], [3, 9], [4, 10]])
    for name in ("half", "bf16", "parameter"):
        np.testing.assert_array_equal(arrays[name], exact)
    assert arrays["bf16"].dtype == np.float32
    assert arrays["scalar"].shape == () and arrays["empty"].shape == (0, 4)


def test_pickled_code_is_refused_and_not_executed(tmp_path):
    class Attack:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'pwned'}",)

    torch_writer.save(tmp_path / "m.pth", {"a": np.ones(2, "f4"), "b": Attack()})
    with pytest.raises(MetanetError, match=r"m\.pth: refused to load \w+\.system"):
        read_arrays(tmp_path / "m.pth")
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "view",
    [
        torch_writer.View(np.ones(4, "f4"), 1, (4,), (1,)),
        torch_writer.View(np.ones(4, "f4"), 0, (1 << 36,), (0,)),
        torch_writer.View(np.ones(4, "f4"), 0, (2, 2), (-1, 1)),
        torch_writer.View(np.ones(4, "f4"), -1, (1,), (1,)),
        torch_writer.View(np.ones(4, "f4"), 0, (4,), (1,), claimed=1 << 30),
    ],
    ids=["end", "expanded", "stride", "offset", "storage"],
)
def test_tensors_outside_their_storage(view, tmp_path):
    torch_writer.save(tmp_path / "m.pth", {"a": view})
    with pytest.raises(MetanetError, match=r"m\.pth: not a readable PyTorch file"):
        read_arrays(tmp_path / "m.pth")


def zip_of(path: Path, data: bytes, compression: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("m/data.pkl", data)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02}q\x00",
        b"\x80\x02K\x01.",
        b"\x80\x02}r\xff\xff\xff\x7f.",
        # d = {}; d[1] = d
        b"\x80\x02}q\x00K\x01h\x00s.",
        # BUILD on an admitted function
        b"\x80\x02ctorch._utils\n_rebuild_parameter\n}U\x01aK\x01sb.",
    ],
    ids=["empty", "truncated", "not a dict", "memo", "cycle", "build"],
)
def test_damaged_pickles(data, tmp_path):
    zip_of(tmp_path / "m.pth", data)
    with pytest.raises(MetanetError, match=r"m\.pth: not a readable PyTorch file"):
        read_arrays(tmp_path / "m.pth")


@pytest.mark.parametrize("suffix", [".pth", ".npz", ".safetensors"])
def test_truncated_and_foreign_files(suffix, tmp_path):
    path = tmp_path / f"m{suffix}"
    arrays = {"a": np.arange(100, dtype=np.float32)}
    if suffix == ".pth":
        torch_writer.save(path, arrays)
    elif suffix == ".npz":
        np.savez(path, **arrays)
    else:
        save_file(arrays, path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"hello"):
        path.write_bytes(content)
        with pytest.raises(MetanetError, match="not a readable"):
            read_arrays(path)


def test_unreadable_formats_are_explained(tmp_path):
    with pytest.raises(MetanetError, match="no such file"):
        read_arrays(tmp_path / "absent.pth")
    (tmp_path / "m.h5").write_bytes(b"")
    with pytest.raises(MetanetError, match=r"unknown format '\.h5'"):
        read_arrays(tmp_path / "m.h5")
    legacy = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
    (tmp_path / "old.pth").write_bytes(legacy + b"rest")
    with pytest.raises(MetanetError, match=r"before version 1\.6"):
        read_arrays(tmp_path / "old.pth")
    zip_of(tmp_path / "bomb.pth", b"\x80\x02}.", zipfile.ZIP_DEFLATED)
    with pytest.raises(MetanetError, match="compressed"):
        read_arrays(tmp_path / "bomb.pth")
    np.savez(tmp_path / "o.npz", a=np.array([{}], dtype=object))
    with pytest.raises(MetanetError, match=r"a\.npy: Python objects"):
        read_arrays(tmp_path / "o.npz")


def test_npz_header_that_claims_more_than_there_is(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (9999999999,), }\n"
    npy = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    with zipfile.ZipFile(tmp_path / "m.npz", "w") as archive:
        archive.writestr("a.npy", npy)
    with pytest.raises(MetanetError, match=r"m\.npz: a\.npy: shape"):
        read_arrays(tmp_path / "m.npz")
