"""The recipe of a run including all defaults, as a file in the run's folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import yaml

from irepdeploy.files import write_bytes
from irepdeploy.recipe import Recipe
from irepdeploy.runs.journal import Event, Start

__all__ = ["FULL_RECIPE", "recipe_writer"]

FULL_RECIPE = "full-recipe.yaml"
_HEADER = "# All settings of this run, including defaults.\n"


def recipe_writer(recipe: Recipe, folder: Path) -> Callable[[Event], None]:
    """Return a callback that writes the full recipe next to the journal when the run starts."""

    def write(event: Event) -> None:
        if isinstance(event, Start):
            content = recipe.model_dump(mode="json", exclude={"scales"}, exclude_none=True, context={"whole": True})
            text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
            write_bytes(folder / FULL_RECIPE, f"{_HEADER}{text}".encode())

    return write
