"""``irepdeploy search`` and ``irepdeploy train``."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from irepdeploy.options import JsonOption, OutOption

__all__ = ["search", "train"]

RecipeArgument = Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped recipe (digits).")]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Changes to the recipe: search.population=8, scale=smoke, seed=1."),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with the run in --out; same result as uninterrupted.")
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Begin anew although a run is in --out.")]


def search(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    out: OutOption = Path("runs/search"),
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Search which branches to keep.

    Writes best.json, the last population, and journal.jsonl with everything that was seen on the way. Example:
    irepdeploy search digits scale=smoke --out runs/smoke
    """
    from irepdeploy.console import print_json, progress, table
    from irepdeploy.recipe import load_recipe

    from .engine import Search
    from .shipped import recipe_path

    plan = load_recipe(recipe_path(recipe), overrides or [])
    run = Search(plan, out, resume=resume, overwrite=overwrite)
    with progress() as display:
        result = run.run(display.task(f"search ({plan.search.strategy})", run.epochs).advance)
    if json:
        print_json(result.to_dict())
        return
    table(
        f"Search of {plan.net.name} on {plan.data.name}: {plan.search.strategy}, seed {plan.seed}",
        ["figure", "value"],
        [
            ["accuracy of the best, search-validation set, shared weights", f"{result.fitness.accuracy:.2%}"],
            ["branches kept", f"{result.best.count} of {run.space.size} (budget {run.strategy.budget})"],
            ["candidates scored", result.evaluations],
            ["spread of sigmoid(alpha)", f"{result.alpha_spread:.4f}"],
            ["spread of sigmoid(beta)", f"{result.beta_spread:.4f}"],
            ["time", f"{result.seconds:.1f} s ({result.seconds / 86400:.5f} days)"],
        ],
    )
    print(f"wrote {out / 'best.json'}, {out / 'population'}, {out / 'journal.jsonl'}, {out / 'result.json'}")
    again = shlex.join([recipe, *(overrides or []), "--arch", str(out / "best.json")])
    print(f"next: irepdeploy train {again} --out runs/train")


def train(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    arch: Annotated[
        Path | None,
        typer.Option(help="Architecture file of a search. Default: every branch of the recipe (branches=none: none)."),
    ] = None,
    out: OutOption = Path("runs/train"),
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Train one network, plain or with branches.

    Writes best.pt and last.pt, which `irepdeploy export` takes, and result.json. Every accuracy is of the fused
    network; the test set is read once, at the end. Example:
    irepdeploy train digits branches=none --out runs/plain
    """
    from dataclasses import asdict

    from irepdeploy.arch import Architecture
    from irepdeploy.console import print_json, progress, table
    from irepdeploy.errors import InputError
    from irepdeploy.recipe import load_recipe
    from irepdeploy.reparam.presets import preset_of

    from .shipped import recipe_path
    from .training import Training, architecture_of

    plan = load_recipe(recipe_path(recipe), overrides or [])
    if arch is not None and not preset_of(plan.branches).branches:
        raise InputError("--arch names branches and branches=none asks for none: leave one out", where=arch)
    chosen = architecture_of(plan) if arch is None else Architecture.load(arch)
    run = Training(plan, out, chosen, resume=resume, overwrite=overwrite)
    with progress() as display:
        result = run.run(display.task(f"train {plan.net.name}, {run.branches} branches", plan.train.epochs).advance)
    if json:
        print_json(asdict(result))
        return
    table(
        f"Training of {plan.net.name} on {plan.data.name}: {run.branches} branches, seed {plan.seed}",
        ["figure", "value"],
        [
            ["test accuracy, fused, read once", f"{result.test_accuracy:.2%}"],
            ["search-validation accuracy, fused", f"{result.val_accuracy:.2%} (epoch {result.best_epoch})"],
            ["seconds an epoch, median", f"{result.seconds_per_epoch:.2f}"],
        ],
    )
    print(f"wrote {out / 'best.pt'}, {out / 'last.pt'}, {out / 'journal.jsonl'}, {out / 'result.json'}")
    print(f"next: irepdeploy export {shlex.quote(str(out / 'best.pt'))} --out build")
