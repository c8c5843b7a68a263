"""Read a recipe file, and apply ``key=value`` overrides and named scales."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from irepdeploy.errors import RecipeError, one_line
from irepdeploy.files import read_bytes
from irepdeploy.limits import DESCRIPTION
from irepdeploy.parsing.overrides import Override, copied, full_key, giving_way, pair, put, scale_of
from irepdeploy.parsing.validation import faults_of
from irepdeploy.parsing.yaml_text import YamlError, parse_yaml
from irepdeploy.recipe.fields import Options
from irepdeploy.recipe.schema import Recipe, keys_of

__all__ = ["load_recipe", "recipe_of"]


def load_recipe(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply ``key=value`` overrides.

    Raises:
        RecipeError: The recipe or an override is not valid. The message lists all faults.
        InputError: The file is missing.
    """
    name = Path(path).name
    try:
        content = parse_yaml(read_bytes(path, "recipe", DESCRIPTION))
    except YamlError as error:
        where = path if error.line is None else f"{path}:{error.line}"
        raise RecipeError(str(error), where=where) from None
    if not isinstance(content, dict):
        raise RecipeError("a recipe is a mapping of keys to values", where=path)
    return recipe_of(content, overrides, name)[0]


def recipe_of(content: dict[str, Any], overrides: Sequence[str], name: str) -> tuple[Recipe, dict[str, Any]]:
    """Apply ``key=value`` overrides to the content of a recipe.

    Args:
        content: Keys and values of the recipe; it is not changed.
        overrides: The overrides.
        name: Name of the recipe in error messages.

    Returns:
        The recipe, and the content with the overrides.

    Raises:
        RecipeError: The recipe or an override is not valid. The message lists all faults.
    """
    # Values that an override replaces are checked too, but an override may supply a missing key.
    faults = _faults(content, values_only=True) if overrides else []
    given = content
    content, wrong = _with_overrides(content, overrides)
    faults += wrong
    try:
        recipe = Recipe.model_validate(content)
    except ValidationError as error:
        faults += [fault for fault in faults_of(error, list(keys_of(Recipe))) if fault not in faults]
    if faults:
        if overrides and not _faults(given):
            name = f"{name} with {one_line(overrides[0], 60) if len(overrides) == 1 else 'these overrides'}"
        raise RecipeError("; ".join(faults), where=name)
    return recipe, content


def _faults(content: dict[str, Any], *, values_only: bool = False) -> list[str]:
    try:
        Recipe.model_validate(content)
    except ValidationError as error:
        return faults_of(error, list(keys_of(Recipe)), values_only=values_only)
    return []


def _with_overrides(content: dict[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return a copy of the content with the overrides applied, and the faults found in the overrides."""
    result, faults = copied(content), []
    scale: list[Override] = []
    single: list[Override] = []
    known = list(keys_of(Recipe))
    for override in overrides:
        try:
            key, value = pair(override)
            if key == "scale":
                given = content.get("scales") or {}
                scales = {"smoke": _SMOKE, **given} if isinstance(given, dict) else given
                scale += [(full_key(each, known, _FREE), item) for each, item in scale_of(scales, value)]
            else:
                single.append((full_key(key, known, _FREE), value))
        except RecipeError as error:
            faults.append(error.line)
    for key, value in [*giving_way(result, scale, single), *single]:
        try:
            put(result, key, value)
        except RecipeError as error:
            faults.append(error.line)
    return result, faults


_FREE = ("net.args.", "data.options.", "scales.")
# Used if a recipe does not define it. It does not limit the data, whose size depends on the data set.
_SMOKE: Options = {
    "search.population": 3,
    "search.warmup_epochs": 1,
    "search.evolutions": 2,
    "search.epochs_per_evolution": 1,
    "train.epochs": 2,
    "train.warmup_epochs": 0,
}
