"""Scores against cost: training time, or operations of the last population of a search."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from irepdeploy.console import log
from irepdeploy.errors import InputError
from irepdeploy.runs.pareto import ParetoSet

from ..charts.frame import Chart
from ..charts.scatter import Point, scatter
from ..columns import digits
from ..contest import Contest
from ..run import Run
from .overview import gap_to
from .section import Section

__all__ = ["costs"]

_TEXT = "Filled: on the Pareto front (no other point is as good in both and better in one; a tie is as good)."


def costs(runs: Sequence[Run], contests: Sequence[Contest], note: Callable[[str], object] = log) -> Section | None:
    """Return a section with the charts of trainings, comparisons and searches with at least two costs."""
    charts = [_of_trainings(runs), *map(_of_contest, contests)]
    for run in runs:
        path = run.folder / "pareto.json"
        if path.is_file():
            try:
                charts.append(_of_population(ParetoSet.read(path), run.label))
            except InputError as error:
                note(f"omitted: {error.line}")
    found = tuple(chart for chart in charts if chart is not None)
    if not found:
        return None
    text = (
        "After fusing, all networks of one structure have the same cost; branches cost training time. Latency is "
        "compared in the tables of measurements."
    )
    return Section("costs", "Accuracy against cost", text, charts=found)


def _of_trainings(runs: Sequence[Run]) -> Chart | None:
    shown = [run for run in runs if run.finished and not run.is_search and run.score is not None and run.seconds]
    first = shown[0] if shown else None
    alike = [run for run in shown if first is not None and run.is_like(first)]
    if first is None or len(alike) < 2:
        return None
    metric = first.metric
    points = []
    for run in alike:
        ends = run.interval or (None, None)
        low, high = (None if end is None else metric.scale * end for end in ends)
        seconds, score = run.seconds or 0.0, run.score or 0.0
        interval = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
        tip = f"{run.label}\n{metric.text(score)} {metric.name}{interval}\n{digits(seconds)} s of training"
        gaps = {other.label: gap_to(run, other) for other in alike if other is not run}
        ties = frozenset(name for name, gap in gaps.items() if gap is not None and gap.is_tie)
        points.append(Point(run.label, seconds, metric.scale * score, tip, low, high, ties=ties))
    title = f"{metric.name} against training time"
    svg = scatter(points, title, "training, s", f"{metric.name}{metric.marked}")
    return Chart(title, f"{_TEXT} Bars: 95 % intervals of the score.", svg)


def _of_contest(contest: Contest) -> Chart | None:
    points = []
    for arm in contest.arms:
        if arm.cost:
            mean = contest.spread(arm).mean
            tip = f"{arm.name}\n{contest.spread(arm).text}{contest.metric.marked}\n{digits(arm.cost)} s on average"
            gap = contest.gaps.get(arm.name)
            ties = frozenset([contest.base.name] if gap is not None and gap.is_tie else [])
            points.append(Point(arm.name, arm.cost, mean, tip, ties=ties))
    if len(points) < 2:
        return None
    title = f"{contest.title}: {contest.figure} against time"
    svg = scatter(points, title, "time of a run, s", f"{contest.metric.name}{contest.metric.marked}")
    return Chart(title, f"Means over seeds. {_TEXT}", svg)


def _of_population(found: ParetoSet, label: str) -> Chart | None:
    metric = found.by
    points = [
        Point(
            f"rank {each.rank}",
            each.macs / 1e6,
            metric.scale * each.val_accuracy,
            f"rank {each.rank}: {each.branches} branches\n{metric.text(each.val_accuracy)} {metric.name}\n"
            f"{each.macs / 1e6:.4g} M MACs, {each.memory_bytes / 1e6:.4g} MB of training memory",
        )
        for each in found.candidates
        if each.macs
    ]
    if len(points) < 2:
        return None
    title = f"{label}: the last population, {metric.name} against MACs"
    svg = scatter(points, title, "MACs in train state, millions", f"{metric.name}{metric.marked}")
    return Chart(title, f"By shared weights on the search-validation set. {_TEXT}", svg)
