"""Reports: what a run wrote comes out complete, escaped, and in one file."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from helpers.html_pages import parse

from metanet.cli import main
from metanet.errors import MetanetError
from metanet.report import compare, figures, page
from metanet.report.files import duration, metric_series, number
from metanet.training import RunResult


def fake_run(root: Path, name: str, accuracy: float, **settings) -> Path:
    workdir = root / name
    workdir.mkdir(parents=True)
    config = {"seed": 0, "model": {"name": "product_gmn", "dim": 64}, **settings}
    (workdir / "config.json").write_text(json.dumps({"config": config}))
    result = RunResult(
        test={"accuracy": accuracy, "loss": 1 - accuracy},
        validation={"accuracy": accuracy + 0.01},
        best_step=900,
        steps=1000,
        parameters=182_000,
        networks_per_second=581.2,
        wall_seconds=212.0,
        seed=config["seed"],
    )
    (workdir / "result.json").write_text(json.dumps(asdict(result)))
    return workdir


def test_compare_groups_seeds_and_sorts_by_accuracy(tmp_path):
    runs = [fake_run(tmp_path, f"stat-{s}", 0.5 + s / 100, seed=s) for s in range(3)]
    model = {"name": "product_gmn", "dim": 128}
    runs.append(fake_run(tmp_path, "wide<b>", 0.9, model=model))
    table = compare(runs)
    assert table.path == tmp_path / "comparison.html"
    assert table.header[:4] == ("run", "model.dim", "seeds", "test accuracy")
    assert [row[:4] for row in table.rows] == [
        ("wide<b>", "128", "1", "0.9000"),
        ("stat", "64", "3", "0.5100 ± 0.0100"),
    ]
    assert "3 min 32 s" in table.rows[0]
    text = parse(table.path)
    assert "wide<b>" in text and "0.5100 ± 0.0100" in text


def test_predictors_without_weights_stand_beside_the_models(tmp_path):
    """Once for all runs on the same data, with that data's settings."""
    told = {"all": 0.6, "tenth": 0.3}
    runs = [
        fake_run(
            tmp_path,
            f"{share}-{model}",
            0.5,
            seed=0,
            data={"share": share},
            model={"name": model},
        )
        for share in told
        for model in ("gmn", "statnn")
    ]
    for run in runs:
        file = run / "result.json"
        result = json.loads(file.read_text())
        value = told[run.name.partition("-")[0]]
        result["references"] = {"settings": {"accuracy": value}}
        file.write_text(json.dumps(result))

    def cells(*by):
        return [row[: len(by) + 2] for row in compare(runs, by=by).rows]

    assert cells("model.name", "data.share")[::5] == [
        ("no weights: settings", "all", "1", "0.6000"),
        ("no weights: settings", "tenth", "1", "0.3000"),
    ]
    both = next(row for row in cells("model.name") if "settings" in row[0])
    assert both[1:] == ("2", "0.4500 ± 0.2121")
    assert len(cells("data.share")) == 2


def test_a_sweep_that_goes_on_is_compared(tmp_path, capsys):
    """Of all that ``runs/*`` names: finished runs, others, files."""
    fake_run(tmp_path, "a", 0.5)
    (fake_run(tmp_path, "b", 0.6) / "result.json").unlink()
    (tmp_path / "log.txt").write_text("")
    assert main(["report", *map(str, sorted(tmp_path.iterdir()))]) == 0
    out = capsys.readouterr().out
    assert "not finished, left out: b" in out and "0.5000" in out
    assert main(["report", str(tmp_path / "b"), str(tmp_path / "log.txt")]) == 1
    assert "result.json: no such file" in capsys.readouterr().err


def test_compare_names_what_is_no_run(tmp_path):
    run = fake_run(tmp_path, "a", 0.5)
    with pytest.raises(MetanetError, match="absent: no such run directory"):
        compare([run, tmp_path / "absent"])
    (run / "result.json").unlink()
    with pytest.raises(MetanetError, match=r"result\.json: no such file"):
        compare([run])
    (run / "result.json").write_text('{"te')
    with pytest.raises(MetanetError, match=r"result\.json: not valid JSON"):
        compare([run])
    assert not (tmp_path / "comparison.html").exists()


def test_metric_series(tmp_path):
    lines = [
        '{"step": 1, "train/loss": 3.0}',
        '{"step": 2, "train/loss": 2.5, "validation/accuracy": 0.5}',
        '{"step": 3, "train/l',
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert metric_series(tmp_path) == {
        "train/loss": ([1, 2], [3.0, 2.5]),
        "validation/accuracy": ([2], [0.5]),
    }


def test_page_escapes_everything(tmp_path):
    evil = '<script>alert("x")</script>'
    parts = [
        page.section(evil, page.table([evil], [[evil]]), note=evil),
        page.tiles([(evil, evil)]),
        page.heat([[1, 0], [2, 3]], [evil, "b"]),
        page.image(b"png", evil, css=evil),
        page.folded(evil, evil),
        figures.curves({"loss": {evil: ([1, 2], [0.5, 0.4])}}),
        figures.bars([evil, "a$b_{c$"], [0.5, 0.1], [0.0, 0.1]),
    ]
    text = parse(page.write_page(tmp_path / "a.html", evil, evil, parts))
    assert text.count(evil) >= 9
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]


def test_a_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    path = page.write_page(tmp_path / "a.html", "old", "", [])

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(MetanetError, match="No space left"):
        page.write_page(path, "new", "", [])
    assert "old" in path.read_text() and list(tmp_path.iterdir()) == [path]


def test_images_are_rounded_and_clipped():
    import io

    from matplotlib import image

    values = np.array([[0.0, 0.5, 1.0], [-3.0, 2.0, np.nan]])
    read = image.imread(io.BytesIO(figures.png(values)))[:, :, 0]
    np.testing.assert_allclose(read, [[0, 0.5, 1], [0, 1, 0]], atol=1 / 255)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (12345, "12,345"),
        (0.93125, "0.9313"),
        (1.25e-5, "1.25e-05"),
        (581.23, "581.2"),
        (float("nan"), "-"),
    ],
)
def test_numbers(value, shown):
    assert number(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(3.21, "3.2 s"), (42, "42 s"), (185, "3 min 5 s"), (4320, "1 h 12 min")],
)
def test_durations(seconds, shown):
    assert duration(seconds) == shown
