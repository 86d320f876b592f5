"""Zoos by their configurations."""

from __future__ import annotations

from pathlib import Path

from metanet.zoos.fit import FitConfig, fit_inrs
from metanet.zoos.population import PopulationConfig, train_population
from metanet.zoos.store import Zoo, completed

Recipe = FitConfig | PopulationConfig


def open_or_make(path: str | Path, recipe: Recipe, *, progress: bool = True) -> Zoo:
    """Opens a zoo; makes it first if it is missing, unfinished or damaged.

    A complete zoo needs no image files.

    Args:
        path: Directory of the zoo.
        recipe: Its configuration.
        progress: Show a progress bar.

    Raises:
        MetanetError: when the directory holds a zoo of another configuration.
    """
    zoo = completed(path, recipe.identity())
    if zoo is not None:
        return zoo
    if isinstance(recipe, FitConfig):
        return fit_inrs(recipe, path, progress=progress)
    return train_population(recipe, path, progress=progress)
