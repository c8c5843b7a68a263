"""`ird.search` and `ird.train`: a search and a training of a caller's network, and what the commands run."""

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
    """Search which branches to keep beside the convolutions of a network, for any data and task.

    The same run as `irepdeploy search`: it writes journal.jsonl, best.json, population/, pareto.json and result.json,
    it can be killed and resumed, and torchrun divides it among processes.

    Args:
        net: The plain network, or a function that builds it; it is not changed.
        train: Training samples: a pair of tensors, a Dataset, a DataLoader, or another iterable of batches. The order
            of a Dataset is drawn here; a DataLoader is iterated as it is. At the start of each epoch the generators of
            torch, Python, numpy and of the DataLoader are seeded from `seed`.
        val: Search-validation samples, likewise; candidates are scored on them. Kept on the device where they fit.
        task: "classification", "segmentation", "regression", "detection", or a Task.
        out: Folder of the run; by default runs/search, or where that is taken runs/search-2, ...
        branches: A preset such as "ireps" or "acnet".
        where: Layers that take part, as in `insert_branches`.
        seed: Seed of everything random.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads of torch; by default its own choice.
        deterministic: Make runs on CUDA repeatable bit for bit.
        resume: Continue the run in `out`; the result is the same as uninterrupted.
        overwrite: Start over although `out` holds a run.
        tensorboard: Mirror the journal's numbers for TensorBoard.
        allow_shared: Accept search-validation images that are training images too.
        callbacks: Each is called with every event of the journal: `SearchStart`, `Epoch`, `Evolution`.
        settings: Keys of the recipe's section "search": budget="1/2", population=64, evolutions=20, batch_size=64,
            weights={"lr": 0.1}, ...

    Returns:
        The result: `best` (an Architecture), `population`, `fitnesses`, `pareto`, `journal`, `figures`.

    Raises:
        InputError: The network, the data, the task and the settings do not fit together.
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
        model: the network of the best epoch in eval mode, with its branches; `fuse` and `export_model` take it.
        scores: by "val" and "test" all figures of the task and the interval of its score, of the fused network.
        result: the figures of result.json.
        folder: folder of the run.
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

    The same run as `irepdeploy train`: every score is of the fused network, and `test` is read once, at the end.

    Args:
        net: The plain network, or a function that builds it; it is not changed.
        train: Training samples, as in `search`.
        val: Samples that choose the best epoch, likewise.
        test: Samples that are scored at the end.
        task: "classification", "segmentation", "regression", "detection", or a Task.
        architecture: An Architecture, its file, or the name of a published one, which may be of a part of the network
            such as its backbone; by default every branch of `branches` wherever possible.
        out: Folder of the run; by default runs/train, or where that is taken runs/train-2, ...
        branches: A preset; "none" trains the plain network.
        where: Layers that get branches, as in `insert_branches`.
        optimizer: Makes an optimizer of the parameters; its rates follow `schedule`. Default: SGD by `weights`.
        scheduler: Makes a learning-rate scheduler of the optimizer, stepped after each epoch, in place of `schedule`.
        seed: Seed of everything random.
        device: "auto", "cpu" or "cuda".
        threads: CPU threads of torch; by default its own choice.
        deterministic: Make runs on CUDA repeatable bit for bit.
        resume: Continue the run in `out`; the result is the same as uninterrupted.
        overwrite: Start over although `out` holds a run.
        tensorboard: Mirror the journal's numbers for TensorBoard.
        allow_shared: Accept validation images that are training images too.
        callbacks: Each is called with every event of the journal: `Start` and `Epoch`.
        settings: Keys of the recipe's section "train": epochs=100, batch_size=64, schedule="cosine", amp=True, ...

    Raises:
        InputError: The network, the data, the task and the settings do not fit together.
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
    """Search in a folder of its own, on every process; also return whether this process reports.

    Args:
        recipe: Settings of the run.
        out: Folder of the run; by default the next of runs/search, runs/search-2, ...
        subject: Makes network, data and task; by default those of the recipe.
        show: Show the progress.
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
    """Return the folder of a run, if one is given; refuse what is no path, and callbacks that cannot be called."""
    if out is not None and not isinstance(out, str | os.PathLike):
        raise InputError(f"expected a path, got {type(out).__name__}", where="out")
    if not isinstance(callbacks, Sequence) or not all(callable(each) for each in callbacks):
        raise InputError("expected a list of functions that take an event", where="callbacks")
    return None if out is None else Path(out)
