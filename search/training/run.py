"""A training in a folder of its own, on every process of the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from irepdeploy.console import progress
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.runs.result import TrainingResult

from ..execution.device import ranks_of
from ..execution.ranks import Ranks
from ..execution.run_folder import own_folder
from ..supernet.subject import Subject
from .training import Training

__all__ = ["SubjectOf", "run_training"]

SubjectOf = Callable[[Ranks], Subject]


def run_training(
    recipe: Recipe,
    out: Path,
    architecture: Architecture | None = None,
    subject: SubjectOf | None = None,
    *,
    show: bool = False,
    **options: Any,
) -> tuple[TrainingResult, bool]:
    """Train in a folder of its own, on every process; also return whether this process reports.

    Args:
        recipe: Settings of the run.
        out: Folder of the run.
        architecture: Branches that the network gets.
        subject: Makes network, data and task; by default those of the recipe.
        show: Show the progress.
        options: Arguments of `Training`.
    """
    with ranks_of(recipe) as ranks, own_folder(out, ranks):
        found = None if subject is None else subject(ranks)
        model = None if found is None else found.net
        run = Training(recipe, out, architecture, subject=found, model=model, ranks=ranks, **options)
        with progress(silent=not (show and ranks.first)) as display:
            task = display.task(f"train {recipe.net.name}, {run.branches} branches", recipe.train.epochs)
            result = run.run(task.advance)
        return result, ranks.first
