"""The task "edit": what is rendered, how edits move with the parameters, and the files."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers.training_cases import config, shared_zoo, without_discovery
from safetensors.numpy import load_file, save_file

from metanet import symmetry as sym
from metanet.cli import main
from metanet.errors import MetanetError
from metanet.tasks import EditConfig
from metanet.training import Run, load_run, train
from metanet.training.batches import evaluate_split
from metanet.training.sources import make_source
from metanet.training.step import make_eval_step
from metanet.zoos import load_images

TRAIN = {"steps": 6, "batch_size": 16, "log_every": 2, "eval_every": 6}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    """A short run that edits the tiny networks of the shared zoo."""
    workdir = tmp_path_factory.mktemp("edit") / "run"
    with pytest.MonkeyPatch.context() as patch:
        without_discovery(patch)
        chosen = config(
            model={"name": "gmn", "dim": 8, "depth": 2},
            task={"name": "edit"},
            train={**TRAIN, "checkpoint_every": 6},
            optimizer={"learning_rate": 1e-2, "warmup_steps": 1},
        )
        train(chosen, workdir, progress=False)
        return load_run(workdir)


def arrays_of(run: Run, vector: np.ndarray) -> dict[str, np.ndarray]:
    """The parameters of a flat vector by path."""
    arrays, start, spec = {}, 0, run.experiment.single.spec
    for path, shape, size in zip(spec.paths, spec.shapes, spec.sizes, strict=True):
        arrays[path] = np.array(vector[start : start + size].reshape(shape))
        start += size
    return arrays


def render(run: Run, vector: np.ndarray) -> np.ndarray:
    """A SIREN by its definition: sine layers of frequency w0, then a linear layer.

    Outputs lie around 0, images around 0.5 (the convention of DWSNets).
    """
    leaves, w0 = arrays_of(run, vector.astype(np.float64)), 5.0
    line = np.linspace(-1, 1, 8)
    x = np.stack([np.tile(line, 8), np.repeat(line, 8)], -1)
    layers = sorted({path.rpartition("/")[0] for path in leaves})
    for layer in layers:
        x = x @ leaves[f"{layer}/kernel"] + leaves[f"{layer}/bias"]
        if layer != layers[-1]:
            x = np.sin(w0 * x)
    return x.reshape(8, 8, 1) + 0.5


def dilated(image: np.ndarray) -> np.ndarray:
    """The largest value among a pixel and its neighbours, pixel by pixel."""
    out = np.empty_like(image)
    for i, j in np.ndindex(image.shape[:2]):
        rows, columns = slice(max(i - 1, 0), i + 2), slice(max(j - 1, 0), j + 2)
        out[i, j] = image[rows, columns].max()
    return out


def test_errors_are_those_of_rendered_images(run):
    """Loss and references against images rendered and dilated by NumPy."""
    table = run.tables["test"]
    edited = run.outputs(table.weights)
    images = load_images("digits").images[table["image"]] / 255
    targets = np.stack([dilated(image) for image in images])

    def error(weights: np.ndarray) -> float:
        drawn = np.stack([render(run, vector) for vector in weights])
        return float(np.square(drawn - targets).mean())

    stored, changed = error(table.weights), error(edited)
    result = run.result
    assert result is not None and result.test["mse"] == pytest.approx(changed, rel=1e-3)
    identity = result.references["identity (no edit)"]
    assert identity["mse"] == pytest.approx(stored, rel=1e-3)
    train_targets = load_images("digits").images[run.tables["train"]["image"]] / 255
    mean = np.stack([dilated(image) for image in train_targets]).mean(0)
    expected = np.square(targets - mean).mean()
    assert result.references["mean image"]["mse"] == pytest.approx(expected, rel=1e-4)
    assert changed < stored


def test_edits_move_along_with_the_parameters(run):
    """Editing a permuted network gives the permuted edited network."""
    architecture = run.experiment.single
    spec, symmetry = architecture.spec, architecture.symmetry
    element = sym.random_element(
        symmetry, jax.random.key(1), signs=False, scales=False, phases=False
    )
    assert any(g.degree > 1 for g in symmetry.groups)

    def act(vector: np.ndarray) -> np.ndarray:
        params = sym.act(symmetry, element, spec.unflatten(jnp.asarray(vector)))
        return np.asarray(spec.flatten(params))

    weights = run.tables["test"].weights[:4]
    moved = np.stack([act(vector) for vector in weights])
    assert not np.array_equal(moved, weights)
    expected = np.stack([act(vector) for vector in run.outputs(weights)])
    np.testing.assert_allclose(run.outputs(moved), expected, atol=1e-5)


def test_packed_edits_equal_dense_ones(run):
    task, tables = run.experiment.task, run.tables
    targets = {split: task.targets(run.zoo, t) for split, t in tables.items()}
    images = []
    for mixed in (False, True):
        source = make_source(run.experiment, tables, targets, run._shapes, mixed=mixed)
        evaluate = make_eval_step(source.reader, task, run._graphdef)
        state = source.replicate((run._params, run._rest))
        images.append(evaluate_split(source, evaluate, *state, "test"))
    assert np.ptp(images[0]["edited"]) > 0.1
    for name in ("input", "edited"):
        np.testing.assert_allclose(images[0][name], images[1][name], atol=1e-4)


def test_edited_files_keep_their_format(run, tmp_path, capsys):
    zoo = shared_zoo()
    spec, vector = run.experiment.single.spec, run.tables["test"].weights[0]
    arrays = arrays_of(run, vector)
    np.savez(tmp_path / "a.npz", **arrays)
    save_file(arrays, tmp_path / "b.safetensors")
    files = [str(tmp_path / "a.npz"), str(tmp_path / "b.safetensors"), f"{zoo}:1"]
    command = ["edit", str(run.workdir), *files, "--out", str(tmp_path / "out")]
    assert main(command) == 0
    expected = run.outputs(vector[None])[0]
    with np.load(tmp_path / "out" / "a.npz") as content:
        edited = dict(content)
    for written in (edited, load_file(tmp_path / "out" / "b.safetensors")):
        assert set(written) == set(arrays)
        flat = np.concatenate([written[path].ravel() for path in spec.paths])
        np.testing.assert_allclose(flat, expected, atol=1e-6)
    assert not np.allclose(expected, vector)
    assert (tmp_path / "out" / f"{zoo.name}-1.npz").is_file()
    capsys.readouterr()
    # Nothing is overwritten, and a bad file is named and does not stop the others.
    assert main(command) == 1
    assert "would be overwritten" in capsys.readouterr().err
    (tmp_path / "c.npz").write_bytes(b"no archive")
    files = [str(tmp_path / "c.npz"), str(tmp_path / "a.npz")]
    assert main(["edit", str(run.workdir), *files, "--out", str(tmp_path / "d")]) == 1
    assert str(tmp_path / "c.npz") in capsys.readouterr().err
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["a.npz"]


def test_what_cannot_be_edited(run, tmp_path):
    with pytest.raises(MetanetError, match='operation: unknown.*"dilate"'):
        EditConfig(operation="dilat")
    with pytest.raises(MetanetError, match="config.task.convention"):
        chosen = config(
            model={"name": "gmn", "dim": 8}, task={"name": "edit", "convention": "nfn"}
        )
        train(chosen, tmp_path / "a", progress=False)
    with pytest.raises(MetanetError, match="take a graph metanetwork"):
        train(config(task={"name": "edit"}), tmp_path / "b", progress=False)
    assert not list(tmp_path.iterdir())
