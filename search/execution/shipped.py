"""Recipes shipped with the package, by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from irepdeploy.errors import RecipeError, choices

__all__ = ["recipe_path", "shipped_recipes"]


def shipped_recipes() -> dict[str, Path]:
    """Return every shipped recipe by its name."""
    folder = Path(str(files("irepdeploy.search"))) / "recipes"
    return {path.stem: path for path in sorted(folder.rglob("*.yaml"))}


def recipe_path(name: str) -> Path:
    """Return the file of a recipe, given by path or by the name of a shipped recipe."""
    if name.endswith((".yaml", ".yml")) or Path(name).is_file():
        return Path(name)
    shipped = shipped_recipes()
    if name not in shipped:
        hint = choices(name, shipped)
        raise RecipeError(
            f"unknown recipe {name!r}", hint=f"a YAML file, or {hint}" if hint.startswith("one") else hint
        )
    return shipped[name]
