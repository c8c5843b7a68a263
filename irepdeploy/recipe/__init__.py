"""Recipes: all settings of a search and a training, in one YAML file."""

from __future__ import annotations

from irepdeploy.recipe.reading import load_recipe, recipe_of
from irepdeploy.recipe.schema import Recipe, keys_of
from irepdeploy.recipe.sections import (
    AdamSection,
    AugmentSection,
    FreezeSection,
    SearchSection,
    SgdSection,
    TrainSection,
)

__all__ = [
    "AdamSection", "AugmentSection", "FreezeSection", "Recipe", "SearchSection", "SgdSection", "TrainSection",
    "keys_of", "load_recipe", "recipe_of",
]  # fmt: skip
