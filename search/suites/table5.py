"""Table 5: how many branches pay off. Networks are searched, retrained and fused under budgets from 1/6 to 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from irepdeploy.console import ProgressDisplay
from irepdeploy.errors import InputError
from irepdeploy.folders import output_folder
from irepdeploy.recipe import Recipe, load_recipe
from irepdeploy.runs.schema import MetricFacts
from irepdeploy.runs.suite import SuiteReport, SuiteRequest

from ..compare import epochs_of
from ..engine import Search
from ..execution.progress import Advance, labelled
from ..execution.shipped import recipe_path
from ..training.training import Training

__all__ = ["BUDGETS", "PAPER", "table5"]

BUDGETS = ("1/6", "1/3", "1/2", "2/3", "5/6", "1")
# Top-1 on CIFAR-10 in percent, by network and budget.
PAPER = {
    "vgg16": dict(zip(BUDGETS, (94.22, 94.58, 95.21, 95.65, 95.64, 95.64), strict=True)),
    "resnet18": dict(zip(BUDGETS, (96.28, 96.47, 96.47, 96.61, 95.50, 96.52), strict=True)),
}
_NOTES = (
    "Search scores are by the supernet's shared weights, on the search-validation set.",
    "Test scores are of the retrained and fused network; the test set was read once for each row. One seed: rows"
    " differ by chance too.",
)
_DIGITS = "These rows are small networks on other data than the paper's: only the course over the budgets compares."


@dataclass(frozen=True)
class _Subject:
    """A network of the table, the name of its recipe, and its row in the paper."""

    net: str
    recipe: str
    overrides: tuple[str, ...]
    paper: str


_SUBJECTS = {
    "smoke": (_Subject("vgg6", "digits", ("scale=smoke", "train.epochs=3"), "vgg16"),),
    "small": (_Subject("vgg6", "digits", (), "vgg16"),),
    "paper": (
        _Subject("vgg16", "irep_vgg16_cifar10", (), "vgg16"),
        _Subject("resnet18", "irep_resnet18_cifar10", (), "resnet18"),
    ),
}


def table5(request: SuiteRequest, display: ProgressDisplay) -> SuiteReport:
    """Table 5: accuracy under branch budgets of 1/6 to 1, searched, retrained and fused.

    With an output folder, runs are kept there and an interrupted suite resumes. `SuiteRequest.only` takes a network, a
    budget, or both: "vgg16", "2/3", "vgg16 2/3".
    """
    request.refuse("table5", "models", "runners", "seconds")
    rows = _wanted(request)
    plans = [(subject, budget, _plan(request, subject, budget)) for subject, budget in rows]
    epochs = sum(epochs_of(plan, retrain=True) for _, _, plan in plans)
    task = display.task("table5", epochs)
    figures: list[dict[str, Any]] = []
    with request.folder(f"table5-{request.scale}") as folder:
        for subject, budget, plan in plans:
            at = folder / f"{subject.net}-{budget.replace('/', '_')}-seed{request.seed}"
            figure = _row(subject, budget, plan, at, labelled(task.advance, f"{subject.net} {budget}"))
            figures.append(figure)
            # A killed suite may have finished a run without recording it.
            if not request.has_recorded({"suite": "table5", **figure}):
                request.record({"suite": "table5", **figure})
    by = MetricFacts(**figures[0]["metric"])
    return SuiteReport(
        f"Table 5 at scale {request.scale}, seed {request.seed}",
        (
            "network",
            "budget",
            "C",
            "kept",
            f"search, {by.name}{by.marked}",
            f"retrained, test {by.name}{by.marked}",
            "seconds",
            "paper, accuracy (%)",
        ),
        [_cells(figure, by.scale) for figure in figures],
        _NOTES if request.scale == "paper" else (*_NOTES, _DIGITS),
        {"rows": figures},
    )


def _wanted(request: SuiteRequest) -> list[tuple[_Subject, str]]:
    rows = [(subject, budget) for subject in _SUBJECTS[request.scale] for budget in BUDGETS]
    labels = {label for subject, budget in rows for label in (subject.net, budget, f"{subject.net} {budget}")}
    for label in request.only:
        if label not in labels:
            raise InputError(f"unknown row {label!r}", where="--only", hint=f"some of {', '.join(sorted(labels))}")
    only = set(request.only)
    return [
        (subject, budget)
        for subject, budget in rows
        if not only or only & {subject.net, budget, f"{subject.net} {budget}"}
    ]


def _plan(request: SuiteRequest, subject: _Subject, budget: str) -> Recipe:
    changes = [*subject.overrides, f"search.budget={budget}", f"seed={request.seed}", f"device={request.device}"]
    if request.threads is not None:
        changes.append(f"threads={request.threads}")
    return load_recipe(recipe_path(subject.recipe), changes)


def _row(subject: _Subject, budget: str, plan: Recipe, at: Path, advance: Advance) -> dict[str, Any]:
    with output_folder(at):
        search = Search(plan, at, resume=True)
        found = search.run(advance)
        trained = Training(plan, at / "train", found.best, resume=True).run(advance)
    return {
        "net": subject.net,
        "budget": budget,
        "capacity": search.strategy.budget.total,
        "possible": search.space.size,
        "branches": found.best.count,
        "digest": found.best.digest,
        "metric": found.figures.by.model_dump(),
        "search_val_accuracy": found.fitness.value,
        "val_accuracy": trained.val_accuracy,
        "test_accuracy": trained.test_accuracy,
        "search_seconds": found.figures.seconds,
        "train_seconds": trained.seconds,
        "paper_top1": PAPER[subject.paper][budget],
    }


def _cells(figure: dict[str, Any], scale: float) -> Sequence[str]:
    return (
        figure["net"],
        figure["budget"],
        f"{figure['capacity']} of {figure['possible']}",
        str(figure["branches"]),
        f"{scale * figure['search_val_accuracy']:.2f}",
        f"{scale * figure['test_accuracy']:.2f}",
        f"{figure['search_seconds'] + figure['train_seconds']:.0f}",
        f"{figure['paper_top1']:.2f}",
    )
