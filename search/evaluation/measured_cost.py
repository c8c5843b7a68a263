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
    """Training cost of one candidate of pareto.json: median seconds of forward, backward and SGD on one batch.

    `PeakMemory` measures the peak in a separate process; it is None where the system does not report it.
    """

    rank: int
    seconds_per_step: float
    peak_memory_bytes: int | None


def measure_front(folder: Path, display: ProgressDisplay) -> list[MeasuredCost]:
    """Train each network of the Pareto set of the search in `folder` for a few steps, alternating (A B A B).

    The batch size is taken from pareto.json and the device from the recipe. The weights are random, since the cost does
    not depend on them.
    """
    found = ParetoSet.read(folder / "pareto.json")
    recipe = validated(
        Recipe, SearchJournal.read(folder).start.recipe, "the recipe of a search", where=folder / JOURNAL
    )
    if recipe.data.name == GIVEN:
        raise InputError(
            f"--measure builds networks from a recipe, but {recipe.net.name} was passed to ird.search in Python",
            where=folder,
            hint="without --measure, counted costs are shown; irepdeploy.profiling.training_cost measures any network",
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
            raise InputError("differs from the Architecture in pareto.json", where=path, hint="run the search again")
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
    task, done = display.task("seconds per step", 100), 0

    def on_round(share: float) -> None:
        nonlocal done
        task.advance(int(share * 100) - done)
        done = int(share * 100)

    return on_round
