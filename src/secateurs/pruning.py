"""Pruning: choose masks and zero the weights in place, once."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from secateurs.masks import Masks
from secateurs.recipe import Recipe


def prune(module: nn.Module, recipe: Recipe, *, evidence: Mapping[str, Mapping[str, Any]] | None = None) -> Masks:
    """Zero the weights that the recipe's final budget does not keep; returns the masks, with their report.

    The schedule is for training (`Pruner`); here the whole budget applies at once. Raises what `Masks.make` raises,
    before anything is changed.
    """
    masks = Masks.make(module, recipe, evidence=evidence)
    masks.apply(module)
    return masks
