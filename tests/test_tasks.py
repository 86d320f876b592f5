"""Tasks: losses and metrics against their definitions, intervals that hold."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from scipy.special import expit
from scipy.stats import kendalltau
from sklearn.metrics import r2_score

from metanet.errors import MetanetError
from metanet.models import Features
from metanet.tasks import (
    TASKS,
    AccuracyConfig,
    AccuracyPrediction,
    Classification,
    ClassificationConfig,
    TaskBatch,
)
from metanet.zoos import SETTING_COLUMNS, ZooTable

NAMES = ("a", "b", "c", "d")


@pytest.fixture
def batch():
    """Logits, labels and a mask of 30 networks."""
    keys = jax.random.split(jax.random.key(0), 3)
    return (
        3 * jax.random.normal(keys[0], (30, 4)),
        jax.random.randint(keys[1], (30,), 0, 4),
        jax.random.bernoulli(keys[2], 0.7, (30,)).astype(jnp.float32),
    )


class Widths(NamedTuple):
    """The only thing that pooled heads ask of a model."""

    dim: int


def passed(mask: jax.Array, **targets: jax.Array) -> TaskBatch:
    """A batch without graphs, for losses that read targets alone."""
    return TaskBatch(None, targets, mask)


def truth(values: np.ndarray) -> dict[str, np.ndarray]:
    return {"test_accuracy": values}


def targets_of(tables: dict[str, ZooTable]) -> dict[str, dict[str, np.ndarray]]:
    return {split: truth(table["test_accuracy"]) for split, table in tables.items()}


def task(**options) -> Classification:
    return Classification(ClassificationConfig(**options), NAMES)


def log_probabilities(outputs) -> np.ndarray:
    x = np.asarray(outputs, np.float64)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def test_metrics_of_classification(batch):
    outputs, labels, _ = map(np.asarray, batch)
    found = task().metrics(outputs, {"label": labels}, {})
    logp = log_probabilities(outputs)
    guess = logp.argmax(1)
    assert found["accuracy"] == pytest.approx((guess == labels).mean())
    assert found["loss"] == pytest.approx(-logp[np.arange(30), labels].mean())
    confusion = np.zeros((4, 4), int)
    np.add.at(confusion, (labels, guess), 1)
    assert found["confusion"] == confusion.tolist()


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_loss_is_a_masked_sum(batch, smoothing):
    outputs, labels, mask = batch
    logp = log_probabilities(outputs)
    wanted = np.eye(4)[np.asarray(labels)] * (1 - smoothing) + smoothing / 4
    expected = (-(wanted * logp).sum(1) * np.asarray(mask)).sum()
    found = task(label_smoothing=smoothing).loss(outputs, passed(mask, label=labels))
    assert float(found) == pytest.approx(expected, rel=1e-5)
    # What is masked has no influence, however wrong.
    spoilt = jnp.where(mask[:, None] > 0, outputs, 1e3 * outputs)
    again = task(label_smoothing=smoothing).loss(spoilt, passed(mask, label=labels))
    assert float(again) == pytest.approx(expected, rel=1e-5)


def test_head_and_predictions(batch):
    head = task(hidden=5).head(Widths(7), rngs=nnx.Rngs(0))
    outputs = head(Features(None, None, jnp.ones((3, 7))), None)
    assert outputs.shape == (3, 4)
    probabilities = task().predictions(np.asarray(batch[0]))
    assert np.allclose(probabilities.sum(1), 1, atol=1e-6)
    assert (probabilities.argmax(1) == batch[0].argmax(1)).all()


def test_tasks_by_name():
    assert TASKS["classification"] is Classification
    assert TASKS.configure("classification", {}) == ClassificationConfig()
    with pytest.raises(MetanetError, match="'clasification'.*\"classification\""):
        TASKS["clasification"]


@pytest.fixture
def accuracies():
    """Outputs for 400 networks whose values scatter around their logits."""
    rng = np.random.default_rng(0)
    logit = rng.normal(0, 1.5, 400)
    values = np.clip(expit(logit) + rng.normal(0, 0.08, 400), 0, 1)
    outputs = np.stack([logit, np.full(400, 0.2), np.full(400, 0.2)], -1)
    return outputs.astype(np.float32), values.astype(np.float32)


def accuracy(**options) -> AccuracyPrediction:
    return AccuracyPrediction(AccuracyConfig(**options))


def test_metrics_of_accuracy(accuracies):
    outputs, values = accuracies
    found = accuracy().metrics(outputs, truth(values))
    guess = expit(outputs[:, 0].astype(np.float64))
    assert found["r2"] == pytest.approx(r2_score(values, guess), rel=1e-5)
    assert found["mae"] == pytest.approx(np.abs(guess - values).mean(), rel=1e-5)
    assert found["kendall_tau"] == pytest.approx(kendalltau(guess, values)[0])
    entropy = -(values * np.log(guess) + (1 - values) * np.log(1 - guess))
    assert found["loss"] == pytest.approx(entropy.mean(), rel=1e-5)
    # An order-preserving error changes R2 alone.
    worse = outputs * np.asarray([0.3, 1, 1], np.float32)
    again = accuracy().metrics(worse, truth(values))
    assert again["kendall_tau"] == pytest.approx(found["kendall_tau"], abs=1e-3)
    assert again["r2"] < found["r2"] - 0.1


@pytest.mark.parametrize("coverage", [0.5, 0.9])
def test_intervals_hold_their_share(accuracies, coverage):
    """However wrong the quantiles were; on networks that did not calibrate."""
    outputs, values = accuracies
    task = accuracy(coverage=coverage)
    for apart in (0.01, 0.2, 3.0):
        wide = outputs * np.asarray([1, 0, 0]) + np.asarray([0, apart, apart])
        learned = task.calibrate(wide[:200], truth(values[:200]), np.arange(200))
        found = task.metrics(wide[200:], truth(values[200:]), learned)
        assert found["coverage"] > coverage - 0.08
        if apart < 1:  # an interval always holds the predicted value
            assert found["coverage"] < coverage + 0.08
        low, high = task.predictions(wide, learned)[:, 1:].T
        assert (0 <= low).all() and (low <= high).all() and (high <= 1).all()


def test_few_runs_are_calibrated_with_care(accuracies):
    """Many checkpoints of few runs count as few."""
    outputs, values = accuracies

    def margin(groups: np.ndarray) -> float:
        return accuracy().calibrate(outputs, truth(values), groups)["margin"]

    assert margin(np.arange(400) // 20) > margin(np.arange(400))
    assert margin(np.zeros(400)) >= margin(np.arange(400) // 20)


def test_bootstrap_draws_whole_runs(accuracies):
    """Checkpoints that repeat one another are no further evidence."""
    outputs, values = accuracies
    alone = accuracy().metrics(outputs, truth(values), groups=np.arange(400))[
        "intervals"
    ]
    five = (np.repeat(outputs, 5, 0), truth(np.repeat(values, 5)))
    together = np.repeat(np.arange(400), 5)
    again = accuracy().metrics(*five, groups=together)["intervals"]
    exact = accuracy().metrics(outputs, truth(values))
    for name, (low, high) in alone.items():
        assert low < exact[name] < high
        ratio = (again[name][1] - again[name][0]) / (high - low)
        assert 0.7 < ratio < 1.4


def runs_of(
    seed: int, runs: int = 200, epochs: tuple[int, ...] = (0, 1, 4)
) -> ZooTable:
    """Runs whose learning rate tells their accuracy in part, their first epoch wholly."""
    rng = np.random.default_rng(seed)
    rate, luck = rng.uniform(0.1, 0.3, (2, runs))
    good = np.outer(rate + luck, np.log1p(epochs))
    text = np.full(good.size, "same")
    columns = {
        name: text if kind == "string" else np.ones(good.size)
        for name, kind in SETTING_COLUMNS.items()
    }
    columns |= {
        "learning_rate": np.repeat(rate, len(epochs)),
        "run": np.repeat(np.arange(runs), len(epochs)),
        "epoch": np.tile(epochs, runs),
        "test_accuracy": good.ravel(),
    }
    nothing = np.zeros(good.size, np.int64)
    return ZooTable(np.zeros(0, np.float32), nothing, nothing, columns)


def test_references_answer_what_they_are_asked():
    """The first epoch's accuracy is not asked for itself; the model neither, beside it."""
    tables = {"train": runs_of(0), "test": runs_of(1)}
    truth, epoch = tables["test"]["test_accuracy"], tables["test"]["epoch"]
    told = np.where(epoch == 4, np.clip(truth, 1e-6, 1 - 1e-6), 0.5)
    outputs = np.stack([np.log(told / (1 - told)), *np.ones((2, len(told)))], -1)
    found = accuracy().references(tables, targets_of(tables), outputs)
    first = found.pop("accuracy of the first epoch, of later ones")
    own = first["model"]
    assert own["r2"] == pytest.approx(1.0) and own["mae"] < 1e-6
    assert first["r2"] > 0.95 and set(found) == {
        "settings, linear",
        "settings, boosting",
    }
    later = {name: table.take(table["epoch"] == 4) for name, table in tables.items()}
    alone = accuracy().references(later, targets_of(later), outputs[epoch == 4])
    assert set(alone) == set(found)  # no earlier epoch is known
    assert alone["settings, boosting"]["r2"] < 0.7 < found["settings, boosting"]["r2"]


def test_the_loss_of_accuracy_is_least_at_the_truth():
    task, wanted = accuracy(), jnp.asarray([0.2, 0.7])
    outputs = jnp.stack([jnp.log(wanted / (1 - wanted)), *jnp.full((2, 2), 0.5)], -1)
    gradient = jax.grad(
        lambda o: task.loss(o, passed(jnp.ones(2), test_accuracy=wanted))
    )(outputs)
    assert np.abs(gradient[:, 0]).max() < 1e-6
    # Quantiles that are too far out move in, and none moves the logit.
    assert (np.asarray(gradient[:, 1:]) > 0).all()
    masked = task.loss(outputs, passed(jnp.asarray([1.0, 0.0]), test_accuracy=wanted))
    first = task.loss(outputs[:1], passed(jnp.ones(1), test_accuracy=wanted[:1]))
    assert float(masked) == pytest.approx(float(first))


def test_quantiles_do_not_train_the_features():
    module = accuracy(hidden=8).head(Widths(4), rngs=nnx.Rngs(0))
    pooled = jax.random.normal(jax.random.key(0), (3, 4))

    def head(x: jax.Array) -> jax.Array:
        return module(Features(None, None, x), None)

    on_value = jax.grad(lambda x: head(x)[:, 0].sum())(pooled)
    on_quantiles = jax.grad(lambda x: head(x)[:, 1:].sum())(pooled)
    assert np.abs(on_value).max() > 0 and np.abs(on_quantiles).max() == 0
