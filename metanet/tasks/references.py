"""Accuracy predicted without weights: from a run's settings, and from its first epoch."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from metanet.zoos import SETTING_COLUMNS, ZooTable

# What is known of a run beside its settings.
_ABOUT = ("family", "width", "architecture", "epoch", "step")


def references(tables: Mapping[str, ZooTable], column: str) -> dict[str, np.ndarray]:
    """Predictions for the test split by predictors that read no weights.

    Args:
        tables: Networks by split; predictors are fitted on the training split.
        column: Column that is predicted, in [0, 1].

    Returns:
        ``[N]`` by the predictor's name, NaN where it is not asked; {} for zoos without
        settings.
    """
    train, test = tables["train"], tables["test"]
    if not set(SETTING_COLUMNS) <= set(train.columns):
        return {}
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.linear_model import Ridge
    from threadpoolctl import threadpool_limits

    known = train[column]
    seen, asked = _features(train, test)
    scale = np.maximum(seen.std(0), 1e-9)

    def standardized(x: np.ndarray) -> np.ndarray:
        return (x - seen.mean(0)) / scale

    # Threads that wait for one another are slow beside other work.
    with threadpool_limits(1):
        linear = Ridge(1.0).fit(standardized(seen), known)
        boosted = HistGradientBoostingRegressor(random_state=0).fit(seen, known)
        predictions = {
            "settings, linear": linear.predict(standardized(asked)),
            "settings, boosting": boosted.predict(asked),
        }
        early, first = _early(train), _early(test)
        if early is not None and first is not None:
            fit = HistGradientBoostingRegressor(random_state=0)
            (train_early, _), (test_early, later) = early, first
            fit.fit(_with_epoch(train, train_early), known)
            # For the first epoch itself the input would be the target.
            values = fit.predict(_with_epoch(test, test_early))
            name = "accuracy of the first epoch, of later ones"
            predictions[name] = np.where(later, values, np.nan)
    return {name: np.clip(values, 0, 1) for name, values in predictions.items()}


def _with_epoch(table: ZooTable, accuracy: np.ndarray) -> np.ndarray:
    """Returns an early accuracy, its square and the logarithm of the epoch, ``[N, 3]``."""
    return np.stack([accuracy, accuracy**2, np.log1p(table["epoch"])], -1)


def _features(train: ZooTable, test: ZooTable) -> tuple[np.ndarray, np.ndarray]:
    """Settings as numbers ``[N, F]``: logarithms of positive ones, names one by one."""
    columns: list[tuple[np.ndarray, np.ndarray]] = []
    for name in (*SETTING_COLUMNS, *_ABOUT):
        if name not in train.columns:
            continue
        a, b = train[name], test[name]
        if a.dtype.kind not in "fiu":
            for value in np.unique(a):
                columns.append(((a == value) * 1.0, (b == value) * 1.0))
            continue
        columns.append((a, b))
        if min(a.min(), b.min()) > 0:
            columns.append((np.log(a), np.log(b)))
    seen, asked = zip(*columns, strict=True)
    return np.stack(seen, -1), np.stack(asked, -1)


def _early(table: ZooTable) -> tuple[np.ndarray, np.ndarray] | None:
    """After the first stored epoch of training: its test accuracy, which rows are later."""
    epochs = np.unique(table["epoch"][table["epoch"] > 0])
    if len(epochs) < 2:
        return None
    rows = table["epoch"] == epochs[0]
    first = dict(zip(table["run"][rows], table["test_accuracy"][rows], strict=True))
    if set(table["run"]) - set(first):
        return None
    accuracy = np.asarray([first[run] for run in table["run"]])
    return accuracy, table["epoch"] > epochs[0]
