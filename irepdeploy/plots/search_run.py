"""How a search went, drawn from its journal."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from irepdeploy.errors import InputError
from irepdeploy.files import read_lines
from irepdeploy.plots.figure import BLUE, ORANGE, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SearchRun", "draw_fitness", "read_search"]


@dataclass(frozen=True)
class SearchRun:
    """What the pictures need of a search's journal.

    Args:
        start: the first line: recipe, layers, branches, positions (possible branches), budget.
        evolutions: one line each: index, best, mean, accuracy of every candidate.
    """

    start: Mapping[str, Any]
    evolutions: Sequence[Mapping[str, Any]]

    @property
    def possible(self) -> set[tuple[int, int]]:
        """(layer, branch) indices of the possible branches."""
        return {(row, column) for row, column in self.start["positions"]}

    @property
    def strategy(self) -> str:
        """ "des" or "random"."""
        return str(self.start["recipe"]["search"]["strategy"])


def read_search(path: str | os.PathLike[str]) -> SearchRun:
    """Read a search's journal.jsonl.

    Raises:
        InputError: no such file, not the journal of a search, or no evolution in it yet.
    """
    events = [value for _, value in read_lines(path, "journal of a search") if isinstance(value, dict)]
    starts = [event for event in events if event.get("event") == "start"]
    if not starts or "positions" not in starts[0]:
        raise InputError("not the journal of a search", where=path, hint="`irepdeploy search` writes journal.jsonl")
    evolutions = [event for event in events if event.get("event") == "evolution"]
    if not evolutions:
        raise InputError("the search has not finished an evolution yet", where=path, hint="let it run on")
    return SearchRun(starts[0], evolutions)


def draw_fitness(runs: Mapping[str, SearchRun]) -> Figure:
    """Best and mean accuracy of the population by evolution, with every candidate as a dot, a colour a run.

    Args:
        runs: label -> run; at most two are told apart by colour.
    """
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(6.4, 3.8)
    axes = figure.add_subplot()
    for (label, run), colour in zip(runs.items(), (BLUE, ORANGE), strict=False):
        indices = [event["index"] + 1 for event in run.evolutions]
        for index, event in zip(indices, run.evolutions, strict=True):
            accuracy = [100 * value for value in event["accuracy"]]
            axes.plot([index] * len(accuracy), accuracy, ".", color=colour, alpha=0.25, markersize=5)
        best = [100 * event["best"] for event in run.evolutions]
        mean = [100 * event["mean"] for event in run.evolutions]
        axes.plot(indices, best, "-o", color=colour, label=f"{label}: best")
        axes.plot(indices, mean, "--s", color=colour, markersize=4, label=f"{label}: mean")
    axes.set_xlabel("evolution")
    axes.set_ylabel("accuracy, search-validation set (%)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    return figure
