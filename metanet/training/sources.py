"""Selects the batch source of an experiment."""

from __future__ import annotations

from collections.abc import Mapping

from metanet.tasks import Targets
from metanet.training.batches import BatchSource
from metanet.training.dense import DenseSource
from metanet.training.experiment import Experiment, Metanetwork
from metanet.training.packed import PackedSource
from metanet.zoos import ZooTable


def make_source(
    experiment: Experiment,
    tables: Mapping[str, ZooTable],
    targets: Mapping[str, Targets],
    net: Metanetwork,
    *,
    mixed: bool | None = None,
) -> BatchSource:
    """Returns a `DenseSource` for one architecture, a `PackedSource` for several.

    Args:
        experiment: The experiment.
        tables: Networks by split.
        targets: Targets by split.
        net: The metanetwork, or its shapes alone.
        mixed: Packs networks of one architecture too (True); None: as the experiment.
    """
    packed = experiment.mixed if mixed is None else mixed
    return (PackedSource if packed else DenseSource)(experiment, tables, targets, net)
