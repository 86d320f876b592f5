"""Zoos by what makes them."""

from __future__ import annotations

from pathlib import Path

from metanet.zoos.fit import FitConfig, fit_inrs
from metanet.zoos.population import PopulationConfig, train_population
from metanet.zoos.store import Zoo, completed

Recipe = FitConfig | PopulationConfig


def open_or_make(path: str | Path, recipe: Recipe, *, progress: bool = True) -> Zoo:
    """Opens a zoo; makes it first where it is missing, unfinished or damaged.

    A complete zoo needs no image files.

    Raises:
        MetanetError: when the directory holds a zoo of another configuration.
    """
    held = completed(path, recipe.identity())
    if held is not None:
        return held
    if isinstance(recipe, FitConfig):
        return fit_inrs(recipe, path, progress=progress)
    return train_population(recipe, path, progress=progress)
