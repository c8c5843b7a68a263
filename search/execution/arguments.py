"""Arguments and options that several commands of the search share."""

from __future__ import annotations

from typing import Annotated

import typer

from irepdeploy.cli.completion import names

from .shipped import shipped_recipes

__all__ = ["OverridesArgument", "OverwriteOption", "RecipeArgument", "ResumeOption", "TensorboardOption"]

RecipeArgument = Annotated[
    str,
    typer.Argument(
        help="A recipe file, or the name of a shipped recipe, such as digits.", autocompletion=names(shipped_recipes)
    ),
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Changes to the recipe: search.population=8, scale=smoke, seed=1; the last of two wins.",
    ),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue the run in --out; same result as uninterrupted.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Start over although --out holds a run.")]
TensorboardOption = Annotated[bool, typer.Option("--tensorboard", help="Mirror the journal's numbers for TensorBoard.")]
