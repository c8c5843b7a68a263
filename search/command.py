"""``irepdeploy search``, ``search compare`` and ``search pareto``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from irepdeploy.cli.default_command import with_default
from irepdeploy.cli.options import JsonOption, NumberedOutOption
from irepdeploy.console import log, next_step, say
from irepdeploy.errors import counted

from .execution.arguments import OverridesArgument, OverwriteOption, RecipeArgument, ResumeOption, TensorboardOption

if TYPE_CHECKING:
    from irepdeploy.runs.comparison import SearchComparison

__all__ = ["search"]


def search_recipe(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    out: NumberedOutOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    tensorboard: TensorboardOption = False,
    json: JsonOption = False,
) -> None:
    """Search for the branches to keep.

    Writes best.json, the last population, and journal.jsonl, a log of the whole run. Examples:
    irepdeploy search digits scale=smoke --out runs/smoke;
    torchrun --nproc-per-node 4 -m irepdeploy search irep_vgg16_cifar10 --out runs/vgg16
    """
    from irepdeploy.console import print_json, table
    from irepdeploy.recipe import load_recipe

    from .execution.shipped import recipe_path
    from .execution.top_5 import top_5_rows
    from .functions import run_search

    plan = load_recipe(recipe_path(recipe), overrides or [])
    options: dict[str, Any] = {"resume": resume, "overwrite": overwrite, "tensorboard": tensorboard}
    result, reports = run_search(plan, out, show=True, **options)
    if not reports:
        return
    figures, start, place = result.figures, result.journal.start, result.folder
    if json:
        print_json(figures.to_dict())
        return
    device = f"{figures.devices} x {figures.device}"
    # The paper states the cost of a search in GPU-days.
    days = f" ({figures.device_days:.2f} device-days)" if figures.device_days >= 0.01 else ""
    table(
        f"Search of {plan.net.label} on {plan.data.label}: {plan.search.strategy}, seed {plan.seed}",
        ["figure", "value"],
        [
            [
                f"{figures.by.name} of the best, search-validation set, shared weights",
                figures.by.text(figures.val_accuracy),
            ],
            *top_5_rows({"of the best on the search-validation set": figures.figures}),
            ["branches kept", f"{figures.branches} of {len(start.positions)} (budget {start.budget})"],
            ["candidates scored", figures.evaluations],
            ["spread of sigmoid(alpha)", f"{figures.alpha_spread:.4f}"],
            ["spread of sigmoid(beta)", f"{figures.beta_spread:.4f}"],
            ["time", f"{figures.seconds:.1f} s on {device}{days}"],
        ],
    )
    written = ("best.json", "population", "pareto.json", "journal.jsonl", "result.json")
    pictures = sorted(path.name for path in place.glob("*.png"))
    say("wrote " + ", ".join(str(place / name) for name in (*written, *pictures)))
    next_step("train", recipe, *(overrides or []), "--arch", place / "best.json")


def compare_strategies(
    recipe: RecipeArgument,
    overrides: OverridesArgument = None,
    strategies: Annotated[
        str, typer.Option(help="Comma-separated names; the first one is the reference.")
    ] = "des,random,evolution,topk",
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Number of seeds, starting with the recipe's.")] = 5,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Also train the Architecture that each run chose, and test it once.")
    ] = False,
    job: Annotated[
        str | None,
        typer.Option(
            metavar="K/N", help="For clusters: do the K-th of N shares of the runs; each share needs its own --out."
        ),
    ] = None,
    join: Annotated[
        bool, typer.Option("--join", help="Compare the runs of finished jobs; pass their folders instead of a recipe.")
    ] = False,
    out: NumberedOutOption = None,
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Compare search strategies: best so far, diversity, and what retraining gives.

    All runs score the same number of candidates, each in its own folder. Writes compare.json and compare.png.
    Examples: irepdeploy search compare digits scale=smoke --strategies des,random --seeds 2 --out runs/compare;
    irepdeploy search compare digits --job 3/20 --out runs/jobs/3; irepdeploy search compare --join runs/jobs/*
    """
    if join:
        _join([Path(recipe), *map(Path, overrides or [])], out, json=json, given=job is not None or resume or retrain)
        return
    # Fail now rather than after hours of work.
    import matplotlib  # noqa: F401

    from irepdeploy.console import progress
    from irepdeploy.recipe import load_recipe

    from .compare import compare, epochs_of, runs_of
    from .execution.device import ranks_of
    from .execution.numbered import folder_for
    from .execution.run_folder import own_folder
    from .execution.shipped import recipe_path
    from .jobs import JOB, Job, run_job

    plan = load_recipe(recipe_path(recipe), overrides or [])
    names = [name.strip() for name in strategies.split(",")]
    mine = None if job is None else Job.of(job)
    runs = len(runs_of(plan, names, seeds) if mine is None else mine.share(runs_of(plan, names, seeds)))
    with (
        ranks_of(plan) as ranks,
        own_folder(folder_for(out, "compare", ranks, again=resume or overwrite), ranks) as place,
        progress(silent=not ranks.first) as display,
    ):
        task = display.task("compare", epochs_of(plan, retrain) * runs)
        options: dict[str, Any] = {
            "retrain": retrain,
            "resume": resume,
            "overwrite": overwrite,
            "advance": task.advance,
            "ranks": ranks,
        }
        if mine is not None:
            run_job(plan, place, names, seeds, mine, **options)
            if ranks.first:
                say(f"wrote {place / JOB}")
                log(f"next, once all {mine.count} jobs have ended: irepdeploy search compare --join FOLDER...")
            return
        found = compare(plan, place, names, seeds, **options)
        picture = _draw(found, place) if ranks.first else None
    if picture is not None:
        _show(found, f"{plan.net.label} on {plan.data.label}", place, picture, json=json)


def _join(folders: list[Path], out: Path | None, *, json: bool, given: bool) -> None:
    from irepdeploy.errors import InputError
    from irepdeploy.folders import output_folder

    from .execution.numbered import folder_for
    from .execution.ranks import Ranks
    from .jobs import join

    if given:
        raise InputError("--join only reads the results of finished jobs: omit --job, --resume and --retrain")
    found, job = join(folders)
    with output_folder(folder_for(out, "compare", Ranks.alone(), again=False)) as place:
        found.write(place / "compare.json")
        picture = _draw(found, place)
    _show(found, f"{job.network} on {job.dataset}", place, picture, json=json)


def _draw(found: SearchComparison, out: Path) -> Path:
    from irepdeploy.plots.comparison import draw_comparison
    from irepdeploy.plots.figure import save_figure

    return save_figure(draw_comparison(found), out / "compare.png")


def _show(found: SearchComparison, what: str, place: Path, picture: Path, *, json: bool) -> None:
    from irepdeploy.console import print_json, table

    if json:
        print_json(found.to_dict())
        return
    seeds = len(found.seeds)
    table(
        f"Search of {what}: {counted(seeds, 'seed')}, mean and standard deviation; in parentheses the difference from"
        f" {found.strategies[0]}, seed by seed",
        found.columns,
        found.rows,
    )
    for note in found.notes:
        say(note)
    say(f"wrote {place / 'compare.json'}, {picture}")
    next_step("report", place)


def show_pareto(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished search.")],
    measure: Annotated[
        bool,
        typer.Option(
            "--measure", help="Also train each network of the set for a few steps and report time and memory."
        ),
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Picture to write; default: pareto.png in FOLDER.")
    ] = None,
    dark: Annotated[bool, typer.Option("--dark", help="Draw it for a dark page.")] = False,
    json: JsonOption = False,
) -> None:
    """Show the Pareto set of accuracy (or the task's metric), training time and training memory.

    Example: irepdeploy search pareto runs/search --measure
    """
    from dataclasses import asdict

    from irepdeploy.console import print_json, progress, table
    from irepdeploy.plots.figure import save_figure
    from irepdeploy.plots.pareto import draw_pareto
    from irepdeploy.runs.pareto import ParetoSet

    from .evaluation.measured_cost import measure_front

    found = ParetoSet.read(folder / "pareto.json")
    picture = save_figure(draw_pareto(found), folder / "pareto.png" if out is None else out, dark=dark)
    costs = {}
    if measure:
        with progress() as display:
            costs = {cost.rank: asdict(cost) for cost in measure_front(folder, display)}
    rows = [candidate.model_dump() | costs.get(candidate.rank, {}) for candidate in found.front]
    if json:
        print_json(rows)
        return
    table(
        f"Pareto set of {counted(len(found.candidates), 'candidate')}, training batch {found.batch_size}",
        [
            "rank",
            found.by.name,
            "branches",
            "MACs, train state",
            "memory MB, counted",
            "seconds per step",
            "peak memory MB",
        ],
        [
            [
                row["rank"],
                found.by.text(row["val_accuracy"]),
                row["branches"],
                f"{row['macs']:,}",
                f"{row['memory_bytes'] / 1e6:.1f}",
                f"{row['seconds_per_step']:.4f}" if "seconds_per_step" in row else "-",
                f"{row['peak_memory_bytes'] / 1e6:.0f}" if row.get("peak_memory_bytes") else "-",
            ]
            for row in rows
        ],
    )
    for note in found.notes:
        say(note)
    say(f"wrote {picture}")


search = with_default(search_recipe, compare=compare_strategies, pareto=show_pareto)
