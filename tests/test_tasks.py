"""Tasks: losses and metrics against their definitions, intervals that hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from metanet.errors import MetanetError
from metanet.tasks import TASKS, Classification, ClassificationConfig

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


def task(**options) -> Classification:
    return Classification(ClassificationConfig(**options), NAMES)


def log_probabilities(outputs) -> np.ndarray:
    x = np.asarray(outputs, np.float64)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def test_metrics_of_classification(batch):
    outputs, labels, _ = map(np.asarray, batch)
    found = task().metrics(outputs, labels, task().calibrate(outputs, labels))
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
    found = task(label_smoothing=smoothing).loss(outputs, labels, mask)
    assert float(found) == pytest.approx(expected, rel=1e-5)
    # What is masked has no influence, however wrong.
    spoilt = jnp.where(mask[:, None] > 0, outputs, 1e3 * outputs)
    again = task(label_smoothing=smoothing).loss(spoilt, labels, mask)
    assert float(again) == pytest.approx(expected, rel=1e-5)


def test_head_and_predictions(batch):
    head = task(hidden=5).head(7, rngs=nnx.Rngs(0))
    outputs = head(jnp.ones((3, 7)))
    assert outputs.shape == (3, 4)
    probabilities = task().predictions(np.asarray(batch[0]))
    assert np.allclose(probabilities.sum(1), 1, atol=1e-6)
    assert (probabilities.argmax(1) == batch[0].argmax(1)).all()


def test_tasks_by_name():
    assert TASKS["classification"] == (ClassificationConfig, Classification)
    with pytest.raises(MetanetError, match="'clasification'.*\"classification\""):
        TASKS["clasification"]
