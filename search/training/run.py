"""A training in its own folder, on every process of the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from irepdeploy.console import progress
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.runs.result import TrainingResult

from ..execution.device import ranks_of
from ..execution.numbered import folder_for
from ..execution.ranks import Ranks
from ..execution.run_folder import own_folder
from ..supernet.subject import Subject
from .training import Training

__all__ = ["SubjectOf", "run_training"]

SubjectOf = Callable[[Ranks], Subject]


def run_training(
    recipe: Recipe,
    out: Path | None = None,
    architecture: Architecture | None = None,
    subject: SubjectOf | None = None,
    *,
    show: bool = False,
    **options: Any,
) -> tuple[TrainingResult, Path, bool]:
    """Train in a separate folder, on every process; also return the folder and whether this process is to report.

    Args:
        recipe: Settings of the run.
        out: Folder of the run. Default: the first free one of runs/train, runs/train-2, ...
        architecture: Branches of the network. None: every branch of the recipe's preset.
        subject: Function that makes network, data and task. Default: those of the recipe.
        show: Show a progress bar.
        options: Arguments of `Training`.
    """
    again = bool(options.get("resume") or options.get("overwrite"))
    with ranks_of(recipe) as ranks:
        place = folder_for(out, "train", ranks, again=again)
        with own_folder(place, ranks):
            found = None if subject is None else subject(ranks)
            model = None if found is None else found.net
            run = Training(recipe, place, architecture, subject=found, model=model, ranks=ranks, **options)
            with progress(silent=not (show and ranks.first)) as display:
                task = display.task(
                    f"train {recipe.net.label}, {run.branches} branches, into {place}", recipe.train.epochs
                )
                result = run.run(task.advance)
            run.draw()
        return result, place, ranks.first
