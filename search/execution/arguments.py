"""Arguments and options shared by the commands of the search."""

from __future__ import annotations

from typing import Annotated

import typer

from irepdeploy.cli.completion import names

from .shipped import shipped_recipes

__all__ = ["OverridesArgument", "OverwriteOption", "RecipeArgument", "ResumeOption", "TensorboardOption"]

RecipeArgument = Annotated[
    str,
    typer.Argument(
        help="Recipe file, or the name of a shipped recipe such as digits.", autocompletion=names(shipped_recipes)
    ),
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Changes to the recipe, such as search.population=8, scale=smoke or seed=1; the last value of a key wins.",
    ),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Continue the run in --out; the result is the same as without interruption.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Start over even if --out holds a run.")]
TensorboardOption = Annotated[
    bool, typer.Option("--tensorboard", help="Also write the journal's numbers for TensorBoard.")
]
