"""`ird.search` and `ird.train`: search and train a user's network. The commands use the same functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from irepdeploy.console import progress
from irepdeploy.errors import InputError
from irepdeploy.network.checkpoint import load
from irepdeploy.plots.run_pictures import save_run_pictures
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.reparam.insert import Where
from irepdeploy.runs.journal import Event
from irepdeploy.runs.result import ScoreSet, TrainingResult
from irepdeploy.tasks import Task, task_of

from .engine import Search
from .execution.device import ranks_of
from .execution.numbered import folder_for
from .execution.ranks import Ranks
from .execution.run_folder import own_folder
from .given import given_recipe
from .result import SearchResult
from .supernet.builders import architecture_of
from .supernet.factories import GivenData, Net
from .supernet.subject import Subject, given_subject
from .training.run import SubjectOf, run_training
from .training.steps import OptimizerFactory, SchedulerFactory

__all__ = ["Trained", "run_search", "search", "train"]

Callback = Callable[[Event], None]
_Path = str | os.PathLike[str]


def search(
    net: Net,
    *,
    train: Any,
    val: Any,
    task: str | Task = "classification",
    out: _Path | None = None,
    branches: str = "ireps",
    where: Where = "*",
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    deterministic: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    allow_shared: bool = False,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> SearchResult:
    """Search for the branches to keep next to the convolutions of a network, for any data and task.

    This is the same run as `irepdeploy search`: it writes journal.jsonl, best.json, population/, pareto.json and
    result.json, can be killed and resumed, and can be divided among processes with torchrun.

    Args:
        net: Plain network, or a function that builds it. The network is not changed.
        train: Training samples: a pair of tensors (N, C, H, W) and targets, a Dataset, a DataLoader, or another
            iterable of batches. A Dataset is shuffled; a DataLoader is iterated as it is. At the start of each epoch,
            the generators of torch, Python, numpy and the DataLoader are seeded from `seed`.
        val: Search-validation samples in the same form, on which candidates are scored. They are kept on the device if
            they fit.
        task: "classification", "segmentation", "regression", "detection", or a Task.
        out: Folder of the run. Default: the first free one of runs/search, runs/search-2, ...
        branches: Preset such as "ireps" or "acnet".
        where: Layers that take part, as in `insert_branches`.
        seed: Seed of all random numbers.
        device: "auto", "cpu" or "cuda".
        threads: Number of CPU threads. Default: torch's choice.
        deterministic: Make CUDA runs reproducible to the bit.
        resume: Continue the run in `out`; the result is the same as without interruption.
        overwrite: Start over even if `out` holds a run.
        tensorboard: Mirror the journal's numbers for TensorBoard.
        allow_shared: Accept search-validation images that are also training images.
        callbacks: Functions called with every event of the journal: `SearchStart`, `Epoch`, `Evolution`.
        settings: Keys of the recipe's section "search": budget="1/2", population=64, evolutions=20, batch_size=64,
            weights={"lr": 0.1}, ...

    Returns:
        The result, with `best` (an Architecture), `population`, `fitnesses`, `pareto`, `journal` and `figures`.

    Raises:
        InputError: The network, data, task and settings do not fit together, or `out` holds a run.
        RunError: The run failed.
    """
    place = _checked(out, callbacks)
    with_task = task_of(task)
    top = {"branches": branches, "seed": seed, "device": device, "threads": threads, "deterministic": deterministic}
    recipe = given_recipe(net, "search", settings, **top)
    size = recipe.search.evaluation.batch_size

    def subject(ranks: Ranks) -> Subject:
        data = GivenData(train, val)
        return given_subject(net, data, with_task, recipe, ranks.device, size, where=where, allow_shared=allow_shared)

    options: dict[str, Any] = {
        "resume": resume,
        "overwrite": overwrite,
        "tensorboard": tensorboard,
        "callbacks": callbacks,
    }
    return run_search(recipe, place, subject, **options)[0]


@dataclass(frozen=True)
class Trained:
    """Result of a training.

    Args:
        model: Network of the best epoch in eval mode, with its branches; pass it to `fuse` or `export_model`.
        scores: Figures of the task and the interval of its score for the fused network, under "val" and "test".
        result: Contents of result.json.
        folder: Folder of the run.
    """

    model: nn.Module
    scores: dict[str, ScoreSet]
    result: TrainingResult
    folder: Path


def train(
    net: Net,
    *,
    train: Any,
    val: Any,
    test: Any = None,
    task: str | Task = "classification",
    architecture: Architecture | _Path | None = None,
    out: _Path | None = None,
    branches: str = "ireps",
    where: Where = "*",
    optimizer: OptimizerFactory | None = None,
    scheduler: SchedulerFactory | None = None,
    seed: int = 0,
    device: str = "auto",
    threads: int | None = None,
    deterministic: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    tensorboard: bool = False,
    allow_shared: bool = False,
    callbacks: Sequence[Callback] = (),
    **settings: Any,
) -> Trained:
    """Train a network with the branches of an Architecture, for any data and task.

    This is the same run as `irepdeploy train`: every score is that of the fused network, and `test` is read once, at
    the end.

    Args:
        net: Plain network, or a function that builds it. The network is not changed.
        train: Training samples, as in `search`.
        val: Validation samples in the same form, by which the best epoch is chosen.
        test: Test samples in the same form, scored once at the end. None: no test scores.
        task: "classification", "segmentation", "regression", "detection", or a Task.
        architecture: Architecture, its file, or the name of a published one; it may describe only a part of the
            network, such as its backbone. Default: every branch of `branches` wherever possible.
        out: Folder of the run. Default: the first free one of runs/train, runs/train-2, ...
        branches: Preset such as "ireps"; "none" trains the plain network.
        where: Layers that get branches, as in `insert_branches`.
        optimizer: Function from the parameters to an optimizer, whose rates follow `schedule`. Default: SGD with the
            settings of `weights`.
        scheduler: Function from the optimizer to a learning-rate scheduler, which replaces `schedule` and is stepped
            after each epoch.
        seed: Seed of all random numbers.
        device: "auto", "cpu" or "cuda".
        threads: Number of CPU threads. Default: torch's choice.
        deterministic: Make CUDA runs reproducible to the bit.
        resume: Continue the run in `out`; the result is the same as without interruption.
        overwrite: Start over even if `out` holds a run.
        tensorboard: Mirror the journal's numbers for TensorBoard.
        allow_shared: Accept validation images that are also training images.
        callbacks: Functions called with every event of the journal: `Start` and `Epoch`.
        settings: Keys of the recipe's section "train": epochs=100, batch_size=64, schedule="cosine", amp=True, ...

    Returns:
        The trained network with its scores, the figures of result.json and the folder of the run.

    Raises:
        InputError: The network, data, task and settings do not fit together, or `out` holds a run.
        RunError: The run failed.
    """
    place = _checked(out, callbacks)
    top = {"branches": branches, "seed": seed, "device": device, "threads": threads, "deterministic": deterministic}
    recipe = given_recipe(net, "train", settings, **top)
    smoothing = recipe.train.label_smoothing
    with_task = task_of(task, **({"label_smoothing": smoothing} if smoothing else {}))
    chosen = architecture_of(architecture)
    plain: list[nn.Module] = []

    def subject(ranks: Ranks) -> Subject:
        size = recipe.train.batch_size
        data = GivenData(train, val, lambda: test)
        found = given_subject(net, data, with_task, recipe, ranks.device, size, where=where, allow_shared=allow_shared)
        plain.append(found.net)
        return found

    options: dict[str, Any] = {
        "resume": resume,
        "overwrite": overwrite,
        "tensorboard": tensorboard,
        "callbacks": callbacks,
    }
    steps: dict[str, Any] = {"optimizer": optimizer, "scheduler": scheduler}
    result, folder, _ = run_training(recipe, place, chosen, subject, **steps, **options)
    return Trained(load(folder / "best.pt", model=plain[0]), result.sets, result, folder)


def run_search(
    recipe: Recipe, out: Path | None = None, subject: SubjectOf | None = None, *, show: bool = False, **options: Any
) -> tuple[SearchResult, bool]:
    """Run a search in its own folder, on every process; also return whether this process is the one that reports.

    Args:
        recipe: Settings of the run.
        out: Folder of the run. Default: the first free one of runs/search, runs/search-2, ...
        subject: Function that makes network, data and task. Default: those of the recipe.
        show: Show a progress bar.
        options: Arguments of `Search`.
    """
    again = bool(options.get("resume") or options.get("overwrite"))
    with ranks_of(recipe) as ranks:
        place = folder_for(out, "search", ranks, again=again)
        with own_folder(place, ranks):
            found = None if subject is None else subject(ranks)
            run = Search(recipe, place, subject=found, ranks=ranks, **options)
            with progress(silent=not (show and ranks.first)) as display:
                result = run.run(display.task(f"search ({recipe.search.strategy}) into {place}", run.epochs).advance)
            if ranks.first:
                save_run_pictures(place)
        return result, ranks.first


def _checked(out: Any, callbacks: Any) -> Path | None:
    """Return the folder of a run, if given; raise InputError if it is not a path or a callback is not callable."""
    if out is not None and not isinstance(out, str | os.PathLike):
        raise InputError(f"expected a path, got {type(out).__name__}", where="out")
    if not isinstance(callbacks, Sequence) or not all(callable(each) for each in callbacks):
        raise InputError("expected a list of functions of one event", where="callbacks")
    return None if out is None else Path(out)
