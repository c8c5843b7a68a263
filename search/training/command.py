"""``irepdeploy train``, ``train finetune`` and ``train compare``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from irepdeploy.cli.default_command import with_default
from irepdeploy.cli.options import JsonOption, NumberedOutOption
from irepdeploy.console import next_step, say
from irepdeploy.errors import counted

from ..execution.arguments import OverridesArgument, OverwriteOption, RecipeArgument, ResumeOption, TensorboardOption

if TYPE_CHECKING:
    from irepdeploy.recipe import Recipe
    from irepdeploy.runs.result import TrainingResult

__all__ = ["train"]

_SETS = {"val": "on the search-validation set, fused", "test": "on the test set, fused"}


def run_train(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    arch: Annotated[
        Path | None,
        typer.Option(
            help="Architecture file of a search, or the name of a published one, such as irep-resnet18. It may cover "
            "only a part of the network, which net.where selects if there are several. Default: every branch of the "
            "recipe's preset."
        ),
    ] = None,
    out: NumberedOutOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    tensorboard: TensorboardOption = False,
    json: JsonOption = False,
) -> None:
    """Train one network, plain or with branches.

    Writes best.pt and last.pt, which `irepdeploy export` takes, and result.json. Every accuracy is that of the fused
    network; the test set is read once, at the end. Examples:
    irepdeploy train digits branches=none --out runs/plain;
    torchrun --nproc-per-node 4 -m irepdeploy train irep_resnet50_imagenet --out runs/imagenet
    """
    from irepdeploy.console import print_json, table
    from irepdeploy.errors import InputError
    from irepdeploy.recipe import load_recipe
    from irepdeploy.reparam.presets import preset_of

    from ..execution.shipped import recipe_path
    from ..supernet.builders import architecture_of
    from .run import run_training

    plan = load_recipe(recipe_path(recipe), overrides or [])
    if arch is not None and not preset_of(plan.branches).branches:
        raise InputError("--arch adds branches, but branches=none excludes them: omit one of the two", where=arch)
    chosen = architecture_of(arch)
    options: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "tensorboard": tensorboard}
    result, place, reports = run_training(plan, out, chosen, show=True, **options)
    if not reports:
        return
    if json:
        print_json(result.to_dict())
        return
    table(_title("Training", plan.net.label, plan, result), ["figure", "value"], _rows(result))
    _say_written(place, plan.net.function)


def finetune(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    source: Annotated[
        Path | None, typer.Option("--from", metavar="CKPT", help="Checkpoint of a plain or fused network.")
    ] = None,
    insert: Annotated[str, typer.Option(help="A preset or a published Architecture: ireps, acnet, dbb, ...")] = "ireps",
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="PACKAGE.MODULE:FACTORY",
            help="Factory of the network, if its class is your own.",
        ),
    ] = None,
    out: NumberedOutOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    tensorboard: TensorboardOption = False,
    json: JsonOption = False,
) -> None:
    """Fine-tune a pre-trained plain network with branches, and fuse it back.

    The branches start at zero, so training starts from the accuracy of the given network. Data and settings come
    from the recipe, whose network is ignored. Choose a small learning rate. Example:
    irepdeploy train finetune digits train.weights.lr=0.01 --from runs/plain/best.pt --insert ireps --out runs/tuned
    """
    from irepdeploy.console import print_json, progress, table
    from irepdeploy.errors import InputError
    from irepdeploy.network.factory import load_model_factory
    from irepdeploy.recipe import load_recipe

    from ..execution.device import ranks_of
    from ..execution.numbered import folder_for
    from ..execution.run_folder import own_folder
    from ..execution.shipped import recipe_path
    from .finetune import Finetuning

    if source is None:
        raise InputError("no checkpoint to fine-tune", hint="add --from CKPT")
    plan = load_recipe(recipe_path(recipe), overrides or [])
    factory = None if model is None else load_model_factory(model)
    with (
        ranks_of(plan) as ranks,
        own_folder(folder_for(out, "finetune", ranks, again=resume or overwrite), ranks) as place,
    ):
        run = Finetuning(
            plan,
            place,
            source,
            insert,
            model=factory,
            resume=resume,
            overwrite=overwrite,
            tensorboard=tensorboard,
            ranks=ranks,
        )
        with progress(silent=not ranks.first) as display:
            task = display.task(
                f"fine-tune {run.label}, {run.training.branches} branches, into {place}", plan.train.epochs
            )
            result = run.run(task.advance)
        run.training.draw()
    if not ranks.first:
        return
    if json:
        print_json(result.to_dict())
        return
    metric = result.training.by
    gain = metric.scale * (result.accuracy_after - result.accuracy_before)
    before = [
        [f"test {metric.name} before", metric.text(result.accuracy_before)],
        ["change, in points" if metric.unit == "%" else "change", f"{gain:+.2f}"],
    ]
    title = _title("Fine-tuning", run.label, plan, result.training)
    table(title, ["figure", "value"], [*before, *_rows(result.training)])
    _say_written(place, run.factory)


def compare(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    presets: Annotated[
        str, typer.Option(help="Comma-separated names; the first one is the reference.")
    ] = "plain,acnet,dbb,repvgg,ireps",
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Number of seeds, starting with the recipe's.")] = 5,
    out: NumberedOutOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Compare presets under one recipe, by test accuracy over several seeds.

    Each training has its own folder. Writes compare.json and compare.png. Example:
    irepdeploy train compare digits scale=smoke --presets plain,ireps --seeds 2 --out runs/presets
    """
    # Fail now rather than after hours of work.
    import matplotlib  # noqa: F401

    from irepdeploy.console import print_json, progress, table
    from irepdeploy.plots.comparison import draw_presets
    from irepdeploy.plots.figure import save_figure
    from irepdeploy.recipe import load_recipe

    from ..execution.device import ranks_of
    from ..execution.numbered import folder_for
    from ..execution.run_folder import own_folder
    from ..execution.shipped import recipe_path
    from .training_compare import compare_presets

    plan = load_recipe(recipe_path(recipe), overrides or [])
    names = [name.strip() for name in presets.split(",") if name.strip()]
    with (
        ranks_of(plan) as ranks,
        own_folder(folder_for(out, "presets", ranks, again=resume or overwrite), ranks) as place,
        progress(silent=not ranks.first) as display,
    ):
        task = display.task("compare", plan.train.epochs * len(names) * seeds)
        found = compare_presets(
            plan, names, seeds, place, resume=resume, overwrite=overwrite, advance=task.advance, ranks=ranks
        )
        if ranks.first:
            picture = save_figure(draw_presets(found), place / "compare.png")
    if not ranks.first:
        return
    if json:
        print_json(found.to_dict())
        return
    table(
        f"Training of {plan.net.label} on {plan.data.label}: {counted(seeds, 'seed')}, mean and standard"
        f" deviation; differences from {names[0]}, seed by seed",
        found.columns,
        found.rows,
    )
    for note in found.notes:
        say(note)
    say(f"wrote {place / 'compare.json'}, {picture}")
    next_step("report", place)


def _title(what: str, net: str, plan: Recipe, result: TrainingResult) -> str:
    return f"{what} of {net} on {plan.data.label}: {counted(result.branches, 'branch', 'branches')}, seed {plan.seed}"


def _rows(result: TrainingResult) -> list[list[object]]:
    from ..execution.top_5 import top_5_rows

    metric = result.by
    test = "-" if result.test_accuracy is None else metric.text(result.test_accuracy)
    return [
        [f"test {metric.name}, fused, read once", test],
        [f"search-validation {metric.name}, fused", f"{metric.text(result.val_accuracy)} (epoch {result.best_epoch})"],
        *top_5_rows({_SETS.get(name, name): each.figures for name, each in result.sets.items()}),
        ["seconds per epoch, median", f"{result.seconds_per_epoch:.2f} on {result.devices} x {result.device}"],
    ]


def _say_written(out: Path, factory: str | None) -> None:
    pictures = sorted(path.name for path in out.glob("*.png"))
    names = ("best.pt", "last.pt", "journal.jsonl", "result.json", *pictures)
    say("wrote " + ", ".join(str(out / name) for name in names))
    model = () if factory is None else ("--model", factory)
    next_step("export", out / "best.pt", *model, "--out", "build")


train = with_default(run_train, finetune=finetune, compare=compare)
