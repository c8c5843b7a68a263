"""Runs side by side: a row for each search and training, with its score compared to the first of its kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..charts.frame import Chart
from ..charts.intervals import IntervalRow, intervals
from ..gap import Gap
from ..others import PlainTable
from ..run import Run
from .section import Section

__all__ = ["gap_to", "overview", "reference_of", "score_chart"]

_MOST_ROWS = 24
_NOTE = (
    "Differences are from the first run on the same data and set, preferably one without branches. A tie: the 95 % "
    "interval of the difference, by the sampling of the two sets of images, contains 0. One run tells nothing of how "
    "much another seed would change. Scores are by the shared weights of the supernet for a search, of the fused "
    "network for a training, whose test set was read once."
)


def overview(runs: Sequence[Run], scores: PlainTable | None) -> Section | None:
    """Return a section with the table of all runs, `scores` of every set, and a chart of comparable scores."""
    if not runs:
        return None
    columns = ("run", "kind", "state", "network", "data", "branches", "set", "score", "difference")
    rows = []
    for run in runs:
        gap = gap_to(run, reference_of(run, runs))
        rows.append(
            (
                run.label,
                run.kind,
                run.state,
                run.network,
                run.data,
                "" if run.branches is None else str(run.branches),
                _set_of(run),
                "" if run.score is None else f"{run.metric.text(run.score)} {run.metric.name}",
                "" if gap is None else f"{gap.text}: {gap.verdict}",
            )
        )
    width = len(columns) if any(row[-1] for row in rows) else len(columns) - 1
    table = PlainTable("Runs", "", columns[:width], tuple(row[:width] for row in rows))
    chart = score_chart(runs)
    tables = (table,) if scores is None else (table, scores)
    return Section("runs", "Runs side by side", _NOTE, charts=(chart,) if chart else (), tables=tables)


def reference_of(run: Run, runs: Sequence[Run]) -> Run | None:
    """Return the run that a training is compared with; None if it is the first or only one of its kind."""
    alike = [
        other
        for other in runs
        if not other.is_search and other.finished and other.score is not None and other.is_like(run)
    ]
    first = next((other for other in alike if not other.branches), alike[0] if alike else None)
    return None if run.is_search or not run.finished or first is run else first


def gap_to(run: Run, reference: Run | None) -> Gap | None:
    """Return the difference between the scores of a run and its reference, in the metric's unit."""
    if reference is None or run.score is None or reference.score is None:
        return None
    scale = run.metric.scale
    ends = [None if each is None else (scale * each[0], scale * each[1]) for each in (run.interval, reference.interval)]
    unit = " points" if run.metric.unit == "%" else ""
    return Gap.between(scale * run.score, ends[0], scale * reference.score, ends[1], unit)


def score_chart(runs: Sequence[Run]) -> Chart | None:
    """Draw the scores of the largest group of comparable finished trainings, with their intervals."""
    shown = [run for run in runs if run.finished and not run.is_search and run.score is not None]
    kinds = Counter((run.data, run.metric, run.tested) for run in shown)
    if not kinds or max(kinds.values()) < 2:
        return None
    kind = max(kinds, key=lambda each: kinds[each])
    shown = [run for run in shown if (run.data, run.metric, run.tested) == kind]
    rows = []
    metric = shown[0].metric
    for run in shown[:_MOST_ROWS]:
        gap = gap_to(run, reference_of(run, runs))
        ends = run.interval or (None, None)
        low, high = (None if end is None else metric.scale * end for end in ends)
        text = metric.text(run.score or 0.0)
        said = "" if gap is None else f", {gap.look or 'noise not known'}"
        rows.append(
            IntervalRow(run.label, metric.scale * (run.score or 0.0), f"{text}{said}", low, high, look=_look(gap))
        )
    title = f"{metric.name}, {_set_of(shown[0])} set{f' of {kind[0]}' if kind[0] else ''}"
    svg = intervals(rows, title, f"{metric.name}{metric.marked}")
    return Chart(title, "With 95 % intervals by the sampling of the set. Hollow: a tie with the reference.", svg)


def _look(gap: Gap | None) -> str:
    return "" if gap is None else gap.look


def _set_of(run: Run) -> str:
    return "test" if run.tested else "search-validation"
