"""Recipe of a run with a user's network, data and task."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError
from torch import nn

from irepdeploy.errors import RecipeError
from irepdeploy.parsing.validation import faults_of
from irepdeploy.recipe import Recipe, keys_of

from .supernet.factories import Net
from .supernet.subject import GIVEN

__all__ = ["given_recipe"]


def given_recipe(net: Net, section: str, settings: dict[str, Any], **others: Any) -> Recipe:
    """Return the recipe of a run with a user's network: `settings` are keys of `section`, `others` top-level keys.

    Raises:
        RecipeError: A key is unknown or has an invalid value.
    """
    name = type(net).__name__ if isinstance(net, nn.Module) else getattr(net, "__name__", type(net).__name__)
    try:
        return Recipe.model_validate({"net": {"name": name}, "data": {"name": GIVEN}, section: settings, **others})
    except ValidationError as error:
        known = [key for key in keys_of(Recipe) if key.startswith(f"{section}.")]
        faults = [fault.removeprefix(f"{section}.") for fault in faults_of(error, known)]
        raise RecipeError("; ".join(faults), where=f"ird.{section}") from None
