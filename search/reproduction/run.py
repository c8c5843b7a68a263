"""Run the cells of a protocol, each in its own folder. Killed cells are resumed; finished ones are recorded."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import irepdeploy
from irepdeploy.console import log
from irepdeploy.errors import CheckFailed, InputError
from irepdeploy.onnx_graph.structure_digest import structure_digest
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.runs.journal import JOURNAL
from irepdeploy.runs.reproduction import (
    MEASUREMENTS,
    RECORDS,
    Measured,
    ReproducedCell,
    append_cell,
    read_cells,
    read_measured,
)
from irepdeploy.runs.result import TrainingResult

from ..engine import Search
from ..execution.progress import Advance, labelled
from ..execution.ranks import Ranks
from ..execution.run_folder import own_folder
from ..result import SearchResult
from ..supernet.subject import Subject, subject_of
from ..supernet.supernet import Supernet
from ..training.training import Training
from .cells import Cell, Extras, recipe_of_cell, settings_of
from .measure import facts_of, rescored, timed
from .protocol import Settings

__all__ = ["Outcome", "drawn", "measured_in", "records_in", "run_cells"]


@dataclass(frozen=True)
class Outcome:
    """Cells that a job has finished, cells that wait for trials of other jobs, and whether the time was up."""

    made: int
    waiting: tuple[Cell, ...]
    stopped: bool


class _TimeIsUp(Exception):
    pass


class _Records:
    """The records of all jobs in a folder, by cell. They are read again only if a file has changed."""

    def __init__(self, out: Path) -> None:
        self.done: dict[str, ReproducedCell] = {}
        self._out = out
        self._sizes: dict[Path, int] | None = None
        self.refresh()

    def refresh(self) -> None:
        """Add new records; those of a cell that is known are ignored."""
        sizes = _files(self._out, RECORDS)
        if sizes != self._sizes:
            self.done.update({**records_in(self._out), **self.done})
            self._sizes = sizes


def _files(out: Path, name: str) -> dict[Path, int]:
    """Return the files of all jobs, and their sizes in bytes."""
    found = {}
    for path in (out / name, *sorted(out.glob(f"*/{name}"))):
        with contextlib.suppress(FileNotFoundError):
            found[path] = path.stat().st_size
    return found


def records_in(out: Path) -> dict[str, ReproducedCell]:
    """Return the records of all jobs in a folder."""
    return read_cells(_files(out, RECORDS))


def measured_in(out: Path) -> dict[str, Measured]:
    """Return the measurements of all jobs in a folder."""
    return read_measured(_files(out, MEASUREMENTS))


def run_cells(
    cells: Sequence[Cell],
    out: Path,
    job: Path,
    *,
    ranks: Ranks,
    extras: Extras = (),
    hours: float | None = None,
    advance: Advance = lambda cells, note: None,
) -> Outcome:
    """Run the cells that have no record yet, each in a subfolder of `job`, which also holds their records.

    Args:
        cells: Cells of this job, in order.
        out: Folder with the records of all jobs; the parent of `job`.
        job: Folder of this job, locked by the caller.
        ranks: Processes of the run.
        extras: Overrides of each recipe that determine where and how it is computed.
        hours: Time limit. The run stops at the end of the epoch in which it is reached; the same call continues there.
        advance: Function called with the number of cells done since its last call, and a short text.
    """
    until = None if hours is None else time.monotonic() + 3600 * hours
    records, measured, made = _Records(out), set(measured_in(out)), 0
    done = records.done
    advance(sum(cell.key in done or cell.key in measured for cell in cells), "")
    left = [cell for cell in cells if cell.key not in done and cell.key not in measured]
    while True:
        waiting = []
        for cell in left:
            watch = _watch(advance, cell, until, ranks)
            settings = settings_of(cell, done)
            if cell.trains and settings is None:
                # Other jobs may have finished the trials in the meantime.
                records.refresh()
                settings = settings_of(cell, done)
            if cell.trains and not _everywhere(ranks, settings is not None):
                waiting.append(cell)
                continue
            note = ""
            try:
                if settings is None:
                    measurement = _measured(cell, job, ranks, extras, watch)
                    if measurement is not None:
                        append_cell(job / MEASUREMENTS, measurement)
                else:
                    record = _record(cell, settings, job, ranks, extras, watch)
                    if ranks.first:
                        append_cell(job / RECORDS, record)
                    done[cell.key] = record
                    note = f"val {record.result.val_accuracy:.2%}"
            except _TimeIsUp:
                return Outcome(made, (), stopped=True)
            made += 1
            advance(1, f"{cell.key}  {note}")
        records.refresh()
        if _everywhere(ranks, not any(settings_of(cell, done) for cell in waiting)):
            return Outcome(made, tuple(waiting), stopped=False)
        left = waiting


def _everywhere(ranks: Ranks, fact: bool) -> bool:
    """Return whether a fact holds on every rank: a record may appear between the reads of two ranks."""
    return int(ranks.sum(torch.tensor([float(fact)]))) == ranks.size


def _measured(cell: Cell, job: Path, ranks: Ranks, extras: Extras, advance: Advance) -> Measured | None:
    """Return the record of a cell without training, in the first process."""
    found: Measured | None = None
    if cell.stage == "scoring":
        search, _ = _searched(cell.searcher, job, ranks, extras, advance)
        if ranks.first:
            found = rescored(cell, search, lambda note: advance(0, note))
    elif ranks.first:
        plan = recipe_of_cell(cell, None, extras)
        found = timed(cell, plan, _subject(plan, ranks))
    ranks.barrier()
    return found


def _watch(advance: Advance, cell: Cell, until: float | None, ranks: Ranks) -> Advance:
    say = labelled(advance, cell.key)

    def told(epochs: int, note: str) -> None:
        say(0, note)
        # A resumed run first reports earlier epochs, without a note. Stop only after a further epoch.
        if until is None or not epochs or not note:
            return
        # All processes stop at the same epoch.
        if ranks.gather([time.monotonic() >= until] if ranks.first else [], 1)[0]:
            raise _TimeIsUp

    return told


def _record(
    cell: Cell, settings: Settings, job: Path, ranks: Ranks, extras: Extras, advance: Advance
) -> ReproducedCell:
    plan = recipe_of_cell(cell, settings, extras)
    folder = job / cell.folder
    search: SearchResult | None = None
    architecture, score = None, None
    if cell.stage != "trial" and cell.arm.strategy is not None:
        _, search = _searched(cell.searcher, job, ranks, extras, advance)
        if cell.place >= len(search.population):
            raise InputError(f"the population has {len(search.population)} candidates", where=cell.key)
        architecture, score = search.population[cell.place], search.fitnesses[cell.place].value
    elif cell.arm.budget is not None:
        architecture = drawn(plan, ranks)
    with own_folder(folder, ranks):
        result = _trained(cell, plan, folder, architecture, ranks, advance)
        structure = _structure(folder) if ranks.first and cell.stage == "final" else None
    return ReproducedCell(
        **facts_of(cell, plan),
        settings=vars(settings),
        result=result,
        architecture=None if architecture is None else architecture.to_dict(),
        search=None if search is None else search.figures,
        score=score,
        structure=structure,
    )


def _searched(cell: Cell, job: Path, ranks: Ranks, extras: Extras, advance: Advance) -> tuple[Search, SearchResult]:
    plan = recipe_of_cell(cell, None, extras)
    folder = job / f"search-{cell.folder}"
    with own_folder(folder, ranks):
        search = Search(plan, folder, resume=(folder / JOURNAL).exists(), ranks=ranks)
        return search, search.run(advance)


def _trained(
    cell: Cell, plan: Recipe, folder: Path, architecture: Architecture | None, ranks: Ranks, advance: Advance
) -> TrainingResult:
    subject = None
    if cell.stage == "trial":
        # Trials must not see the test set.
        subject = replace(_subject(plan, ranks), load_test=lambda: None)
    begun = (folder / JOURNAL).exists()
    run = Training(plan, folder, architecture, subject=subject, resume=begun, ranks=ranks)
    if cell.stage != "trial":
        run.require_test()
    return run.run(advance)


def _subject(plan: Recipe, ranks: Ranks) -> Subject:
    train = plan.train
    return subject_of(plan, ranks.device, batch_size=train.batch_size, smoothing=train.label_smoothing)


def drawn(plan: Recipe, ranks: Ranks) -> Architecture:
    """Return a random Architecture that spends the whole budget of a recipe, drawn with its seed."""
    subject = _subject(plan, ranks)
    space = Supernet(subject.net, plan.branches, where=subject.where).space
    every = np.ones(space.size, dtype=bool)
    bits = space.budget(plan.search.budget).cut(every, np.zeros(space.size), np.random.default_rng(plan.seed))
    return space.architecture(bits)


def _structure(folder: Path) -> str | None:
    """Export the trained network and return the digest of its structure; None if a check of the export failed."""
    export: Callable[..., object] = irepdeploy.export_model
    try:
        export(folder / "best.pt", out=folder / "export")
    except CheckFailed as error:
        log(f"equal latency is not shown for {folder.name}: {error.line}")
        return None
    return structure_digest(folder / "export" / "model.onnx")
