"""Architectures side by side: the branches chosen by each search and used by each training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from irepdeploy.errors import ArchitectureError, counted
from irepdeploy.plots.architecture_view import difference
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.runs.journal import SearchStart

from ..charts.frame import Chart
from ..charts.matrix import matrix
from ..run import Run
from .section import Section

__all__ = ["architectures"]

_MOST = 8
_MOST_CELLS = 1200


def architectures(runs: Sequence[Run]) -> Section | None:
    """Return the matrix of each distinct Architecture, with the names of its runs."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.architecture is not None and run.architecture.count:
            groups.setdefault(run.architecture.digest, []).append(run)
    shown = [
        group
        for group in groups.values()
        if (found := group[0].architecture) and len(found.layers) * len(found.branches) <= _MOST_CELLS
    ][:_MOST]
    if not shown:
        return None
    text = (
        "Layers by branches; filled: kept. The shade of the other cells is the share of a search's last population "
        "that keeps the branch."
    )
    left = len(groups) - len(shown)
    text += f" {counted(left, 'more Architecture')} {'is' if left == 1 else 'are'} not shown." if left else ""
    pairs = itertools.combinations([(_names(group), group[0].architecture) for group in shown], 2)
    claims = [claim for pair in pairs if (claim := _distance(*pair)) is not None]
    return Section("architectures", "Architectures", text, tuple(claims[:_MOST]), tuple(map(_chart, shown)))


def _chart(group: Sequence[Run]) -> Chart:
    # Prefer a search: it knows the possible branches and their shares in the population.
    run = next((each for each in group if each.history is not None), group[0])
    found = run.architecture
    assert found is not None
    possible, shares = None, None
    total = len(found.layers) * len(found.branches)
    history = run.history
    if isinstance(run.start, SearchStart) and (history is None or found.layers == history.layers):
        possible = frozenset(run.start.positions)
        total = len(possible)
        kept = None if history is None else history.kept()
        if kept is not None and found.branches == run.start.branches:
            shares = {(row, column): float(kept[-1, row, column]) for row, column in possible}
    title = f"{_names(group)}: {found.count} of {counted(total, 'branch', 'branches')}"
    return Chart(title, run.state if not run.finished else "", matrix(found, title, possible, shares))


def _names(group: Sequence[Run]) -> str:
    return ", ".join(run.label for run in group)


def _distance(one: tuple[str, Architecture | None], other: tuple[str, Architecture | None]) -> str | None:
    if one[1] is None or other[1] is None:
        return None
    try:
        found = difference(one[1], other[1])
    except ArchitectureError:
        return None
    branches = counted(found.distance, "branch", "branches")
    return f"{one[0]} and {other[0]} differ in {branches}."
