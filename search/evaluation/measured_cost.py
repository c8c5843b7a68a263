"""Measure the training cost of the Pareto set of a finished search on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from irepdeploy.console import ProgressDisplay
from irepdeploy.errors import InputError
from irepdeploy.network.checkpoint import save
from irepdeploy.parsing.validation import validated
from irepdeploy.profiling.training_cost import peak_memory, step_times
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.reparam.origin import origin_of
from irepdeploy.runs.journal import JOURNAL, SearchJournal
from irepdeploy.runs.pareto import ParetoSet

from ..execution.device import choose_device
from ..supernet.builders import with_branches
from ..supernet.subject import GIVEN, subject_of

__all__ = ["MeasuredCost", "measure_front"]


@dataclass(frozen=True)
class MeasuredCost:
    """Training cost of a rank of pareto.json: median seconds of forward, backward and SGD on one batch.

    The peak is measured in a process of its own by `PeakMemory`; None where the system does not report it.
    """

    rank: int
    seconds_per_step: float
    peak_memory_bytes: int | None


def measure_front(folder: Path, display: ProgressDisplay) -> list[MeasuredCost]:
    """Train each network of the Pareto set of the search in `folder` for a few steps, in turn (A B A B).

    The batch size is that of pareto.json and the device that of the recipe; the weights are random, since they do not
    matter.
    """
    found = ParetoSet.read(folder / "pareto.json")
    recipe = validated(
        Recipe, SearchJournal.read(folder).start.recipe, "the recipe of a search", where=folder / JOURNAL
    )
    if recipe.data.name == GIVEN:
        raise InputError(
            f"--measure builds networks by a recipe, and {recipe.net.name} was given to ird.search in Python",
            where=folder,
            hint="the counted costs stand without --measure; irepdeploy.profiling.training_cost measures any network",
        )
    device = choose_device(recipe.device)
    subject = subject_of(recipe)
    plain = subject.net
    ranks = {str(candidate.rank): candidate.digest for candidate in found.front}
    nets = {}
    for rank, digest in ranks.items():
        path = folder / "population" / f"{int(rank):03d}.json"
        architecture = Architecture.load(path)
        if architecture.digest != digest:
            raise InputError("not the Architecture that pareto.json names", where=path, hint="run the search again")
        nets[rank] = with_branches(plain, architecture, where=subject.where)
    memory = display.task("peak memory", len(nets))
    peaks = {}
    with tempfile.TemporaryDirectory(prefix="irepdeploy-") as temporary:
        for rank, net in nets.items():
            checkpoint = save(net, Path(temporary) / "network.pt")
            peaks[rank] = peak_memory(checkpoint, found.batch_size, device=device, factory=origin_of(plain).factory)
            memory.advance(note=f"rank {rank}")
    times = step_times(nets, found.batch_size, device=device, on_round=_percent(display))
    return [MeasuredCost(int(rank), times[rank].seconds, peaks[rank].peak_bytes) for rank in nets]


def _percent(display: ProgressDisplay) -> Callable[[float], None]:
    task, done = display.task("seconds a step", 100), 0

    def on_round(share: float) -> None:
        nonlocal done
        task.advance(int(share * 100) - done)
        done = int(share * 100)

    return on_round
