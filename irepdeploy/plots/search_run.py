"""Drawings of the progress of searches: fitness, diversity, alpha and beta, and the branches kept at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from irepdeploy.errors import InputError
from irepdeploy.plots.figure import (
    GREY,
    MARKERS,
    PALETTE,
    SEQUENTIAL,
    draw_matrix,
    new_figure,
    picture,
    row_height,
    shown,
    shown_rows,
)
from irepdeploy.plots.search_history import SearchRun

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_fitness", "draw_search"]

_WIDTH = 11.0
_ROW = 0.2
# The minimum range of the importance axis, so that tiny differences are not magnified.
_LEAST_SPAN = 0.02
# The maximum number of layers in a legend.
_MOST_NAMED = 10


@picture
def draw_fitness(runs: Mapping[str, SearchRun]) -> Figure:
    """Draw the best and mean score of the population by evolution, with a dot per candidate and a colour per run."""
    _check(runs)
    figure = new_figure(6.4, 3.8)
    _fitness(figure.add_subplot(), runs)
    return figure


@picture
def draw_search(runs: Mapping[str, SearchRun]) -> Figure:
    """Draw the fitness and diversity of all runs, then the importances and the surviving branches of each run.

    Survival is the share of the last population that keeps a branch. A panel says so if the journal lacks its data.
    """
    _check(runs)
    heights = [_ROW if not run.layers else row_height(len(run.layers), _ROW) for run in runs.values()]
    parts = [3.2, *(max(4.0, 1.6 + row * len(run.layers)) for row, run in zip(heights, runs.values(), strict=True))]
    figure = new_figure(_WIDTH, sum(parts))
    sections = figure.subfigures(len(parts), 1, height_ratios=parts, squeeze=False)[:, 0]
    left, right = sections[0].subplots(1, 2)
    _fitness(left, runs)
    _diversity(right, runs)
    for section, height, (label, run) in zip(sections[1:], heights, runs.items(), strict=True):
        section.suptitle(
            f"{shown(label)}: {len(run.layers)} layer{'s' * (len(run.layers) > 1)}, {_state(run)}", fontsize=10
        )
        beta, alpha, survival = section.subplots(1, 3)
        _beta(beta, run)
        _alpha_means(alpha, run)
        _spanned([axes for axes in (beta, alpha) if axes.lines])
        _survival(survival, run, height)
    return figure


def _check(runs: Mapping[str, SearchRun]) -> None:
    if not runs:
        raise InputError("no search to draw", hint="name its folder")
    metrics = list(dict.fromkeys(run.start.by.name for run in runs.values()))
    if len(metrics) > 1:
        raise InputError(f"the searches have different metrics: {', '.join(metrics)}", hint="draw them one by one")


def _looks(runs: Mapping[str, SearchRun]) -> list[tuple[str, SearchRun, str, str]]:
    """Return the label, run, colour and marker of each run."""
    return [
        (shown(label), run, PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)])
        for place, (label, run) in enumerate(runs.items())
    ]


def _evolutions(run: SearchRun) -> list[int]:
    return [event.index + 1 for event in run.evolutions]


def _fitness(axes: Axes, runs: Mapping[str, SearchRun]) -> None:
    metric = next(iter(runs.values())).start.by
    for label, run, colour, marker in _looks(runs):
        indices = _evolutions(run)
        for index, event in zip(indices, run.evolutions, strict=True):
            scores = [metric.scale * value for value in event.accuracy]
            axes.plot([index] * len(scores), scores, ".", color=colour, alpha=0.25, markersize=5)
        best = [metric.scale * event.best for event in run.evolutions]
        mean = [metric.scale * event.mean for event in run.evolutions]
        every = max(1, len(indices) // 12)
        axes.plot(indices, best, f"-{marker}", color=colour, label=f"{label}: best", markevery=every)
        axes.plot(
            indices, mean, f"--{marker}", color=colour, markerfacecolor="white", label=f"{label}: mean", markevery=every
        )
    axes.set_ylabel(f"{metric.name}, search-validation set{metric.marked}")
    axes.set_title(f"fitness{_answer(runs)}; one dot per candidate", fontsize=9, loc="left")
    _by_evolution(axes)
    axes.legend(fontsize=8)


def _answer(runs: Mapping[str, SearchRun]) -> str:
    """Return the result of a single search as text, or "" for several, which are shown by their lines."""
    if len(runs) > 1:
        return ""
    (run,) = runs.values()
    best = max(run.evolutions, key=lambda event: event.best)
    return f": best {run.start.by.text(best.best)}, evolution {best.index + 1}"


def _diversity(axes: Axes, runs: Mapping[str, SearchRun]) -> None:
    drawn = False
    for label, run, colour, marker in _looks(runs):
        values = run.diversity()
        if values is not None:
            drawn = True
            every = max(1, len(values) // 12)
            axes.plot(_evolutions(run), values, f"-{marker}", color=colour, label=label, markevery=every)
    axes.set_title("diversity: mean Hamming distance between two candidates", fontsize=9, loc="left")
    if not drawn:
        _absent(axes, "the population")
        return
    axes.set_ylabel("share of the possible branches")
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    _by_evolution(axes)
    axes.legend(fontsize=8)


def _state(run: SearchRun) -> str:
    budget = "" if run.start.budget is None else f", at most {run.start.budget}"
    end = "" if run.finished else f"; not finished: evolution {len(run.evolutions)}"
    return f"{len(run.positions)} possible branches{budget}{end}"


def _beta(axes: Axes, run: SearchRun) -> None:
    axes.set_title("importance of a block", fontsize=9, loc="left")
    values = run.beta()
    if values is None:
        _absent(axes, "beta")
        return
    count = len(run.layers)
    named = set(range(count)) if count <= _MOST_NAMED else {0, count - 1}
    for layer in range(count):
        marker: dict[str, Any] = {"markersize": 4, "markevery": max(1, len(values) // 8)}
        if len(named) == count:
            marker["marker"] = MARKERS[layer % len(MARKERS)]
        label = shown(run.layers[layer], 28) if layer in named else None
        axes.plot(_evolutions(run), values[:, layer], **_look(layer, count), **marker, label=label)
    axes.set_ylabel("sigmoid(beta)")
    _by_evolution(axes)
    _legend(axes, "layer" if len(named) == count else "first and last layer")


def _alpha_means(axes: Axes, run: SearchRun) -> None:
    import numpy as np

    axes.set_title("importance of a branch, mean over layers", fontsize=9, loc="left")
    values = run.alpha()
    if values is None:
        _absent(axes, "alpha")
        return
    for column, branch in enumerate(run.branches):
        mine = values[:, :, column]
        mine = mine[:, ~np.isnan(mine).any(axis=0)]
        if mine.size:
            look: dict[str, Any] = {"color": PALETTE[column % len(PALETTE)], "marker": MARKERS[column % len(MARKERS)]}
            look |= {"markersize": 4, "markevery": max(1, len(values) // 8), "linewidth": 1.2}
            axes.plot(_evolutions(run), mine.mean(axis=1), **look, label=shown(branch, 28))
    axes.set_ylabel("sigmoid(alpha)")
    _by_evolution(axes)
    _legend(axes, "branch")


def _look(layer: int, count: int) -> dict[str, Any]:
    """Return line settings that range from dark for the first layer to bright for the last."""
    from matplotlib import colormaps

    return {"color": colormaps["viridis"](0.9 * layer / max(count - 1, 1)), "linewidth": 1}


def _survival(axes: Axes, run: SearchRun, height: float) -> None:
    values = run.kept()
    axes.set_title("kept by the last population", fontsize=9, loc="left")
    if values is None:
        _absent(axes, "the population")
        return
    draw_matrix(axes, values[-1], cmap=SEQUENTIAL, limits=(0, 1), form=".0%", size=min(6.0, 34 * height))
    shown_rows(axes, run.layers, height)
    axes.set_xticks(range(len(run.branches)), [shown(branch, 20) for branch in run.branches], fontsize=7, rotation=90)


def _by_evolution(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlabel("evolution")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y", alpha=0.3)


def _spanned(panels: Sequence[Axes]) -> None:
    """Give all panels of a quantity the same range, so that their lines can be compared."""
    if panels:
        low = min(axes.get_ylim()[0] for axes in panels)
        high = max(axes.get_ylim()[1] for axes in panels)
        missing = max(0.0, _LEAST_SPAN - (high - low)) / 2
        for axes in panels:
            axes.set_ylim(low - missing, high + missing)


def _legend(axes: Axes, title: str) -> None:
    axes.legend(
        fontsize=6,
        title=title,
        title_fontsize=6,
        loc="upper center",
        bbox_to_anchor=(0.5, -0.2),
        ncols=3,
        frameon=False,
    )


def _absent(axes: Any, what: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, f"this journal does not contain {what}", ha="center", va="center", color=GREY)
