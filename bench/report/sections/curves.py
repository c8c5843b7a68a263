"""Curves of trainings and searches, with several runs per chart."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from irepdeploy.errors import counted

from ..charts.frame import Chart
from ..charts.lines import COLOURS, Series, lines
from ..run import Run
from .section import Section

__all__ = ["curves", "progress_chart"]

Points = tuple[tuple[float, float], ...]


def curves(runs: Sequence[Run]) -> Section | None:
    """Return a section with the curves of the first runs of each kind and metric."""
    charts: list[Chart] = []
    more = 0
    for group in _groups(runs):
        shown = group[:COLOURS]
        more += len(group) - len(shown)
        charts += _of_searches(shown) if shown[0].is_search else _of_trainings(shown)
    if not charts:
        return None
    text = "Buttons hide and show runs."
    text += f" {counted(more, 'more run')} are in the table of runs only." if more else ""
    return Section("curves", "Curves", text, charts=tuple(charts))


def progress_chart(runs: Sequence[Run]) -> Chart | None:
    """Draw the scores of the first group of runs, for the top of the page."""
    for group in _groups(runs):
        chart = _best(group[:COLOURS]) if group[0].is_search else _scores(group[:COLOURS])
        if chart is not None:
            return chart
    return None


def _groups(runs: Sequence[Run]) -> list[list[Run]]:
    found: dict[object, list[Run]] = {}
    for run in runs:
        found.setdefault((run.is_search, run.metric), []).append(run)
    return list(found.values())


def _of_trainings(runs: Sequence[Run]) -> list[Chart]:
    loss = _chart(
        runs,
        f"Loss in training, runs by {runs[0].metric.name}",
        "Mean over the batches of an epoch.",
        ("epoch", "loss", ""),
        lambda run: tuple((float(each.epoch + 1), each.loss) for each in run.epochs if each.loss is not None),
    )
    return [chart for chart in (_scores(runs), loss) if chart is not None]


def _scores(runs: Sequence[Run]) -> Chart | None:
    metric = runs[0].metric
    return _chart(
        runs,
        f"{metric.name} by epoch",
        "Of the fused network on the search-validation set.",
        ("epoch", metric.name, metric.unit and f" {metric.unit}"),
        lambda run: tuple(
            (float(each.epoch + 1), metric.scale * each.val_accuracy)
            for each in run.epochs
            if each.val_accuracy is not None
        ),
    )


def _of_searches(runs: Sequence[Run]) -> list[Chart]:
    diversity = _chart(
        runs,
        "Diversity of the population",
        "Mean Hamming distance of two candidates, as a share of the possible branches.",
        ("evolution", "share", ""),
        lambda run: tuple((each.index + 1.0, each.diversity) for each in run.evolutions if each.population),
    )
    loss = _chart(
        [run for run in runs if not run.evolutions],
        f"Loss before the first evolution, runs by {runs[0].metric.name}",
        "Mean over the batches of an epoch.",
        ("epoch", "loss", ""),
        lambda run: tuple((float(each.epoch + 1), each.loss) for each in run.epochs if each.loss is not None),
    )
    return [chart for chart in (_best(runs), diversity, loss) if chart is not None]


def _best(runs: Sequence[Run]) -> Chart | None:
    metric = runs[0].metric
    series = []
    for index, run in enumerate(runs):
        found = sorted(run.evolutions, key=lambda each: each.index)
        for name, figure in (("best", "best"), ("mean", "mean")):
            points = tuple((each.index + 1.0, metric.scale * getattr(each, figure)) for each in found)
            if points:
                series.append(Series(f"{run.label}, {name}", points, index, dashed=name == "mean"))
    if not series:
        return None
    title = f"{metric.name} by evolution"
    svg = lines(series, title, "evolution", metric.name, metric.unit and f" {metric.unit}")
    text = "Of the population by shared weights, on the search-validation set; full: the best, dashed: the mean."
    return Chart(title, text, svg, tuple(run.label for run in runs))


def _chart(
    runs: Sequence[Run], title: str, text: str, axes: tuple[str, str, str], points: Callable[[Run], Points]
) -> Chart | None:
    series = [Series(run.label, found, index) for index, run in enumerate(runs) if (found := points(run))]
    if not series:
        return None
    step, value, unit = axes
    return Chart(title, text, lines(series, title, step, value, unit), tuple(run.label for run in runs))
