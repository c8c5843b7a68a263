"""Drawings of comparisons of strategies (``irepdeploy search compare``) and presets (``irepdeploy train compare``)."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from irepdeploy.errors import counted
from irepdeploy.plots.figure import BLUE, GREY, MARKERS, ORANGE, PALETTE, new_figure, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from irepdeploy.runs.comparison import ComparedSearch, SearchComparison, TrainingComparison

__all__ = ["draw_comparison", "draw_presets"]

# A colour and a marker.
Look = tuple[str, str]


@picture
def draw_comparison(found: SearchComparison) -> Figure:
    """Draw the best score so far and the diversity over evaluations, and retrained accuracies if there are any.

    A line is the mean over seeds, and a band the range from the lowest to the highest seed.
    """
    retrained = found.retrained
    figure = new_figure(12.4 if retrained else 9.2, 3.8)
    panels = list(figure.subplots(1, 3 if retrained else 2))
    looks = {
        name: (PALETTE[place % len(PALETTE)], MARKERS[place % len(MARKERS)])
        for place, name in enumerate(found.strategies)
    }
    for name, look in looks.items():
        _band(panels[0], found.of(name), "best_so_far", found.by.scale, look, name)
        _band(panels[1], found.of(name), "diversity", 1, look, name)
    panels[0].set_ylabel(f"best {found.by.name} so far, search-validation set,\nshared weights{found.by.marked}")
    panels[1].set_ylabel("mean Hamming distance / possible branches")
    panels[1].set_ylim(bottom=0)
    for axes in panels[:2]:
        axes.set_xlabel("candidates scored")
        axes.grid(axis="y", alpha=0.3)
    panels[0].legend(loc="lower right", fontsize=8, title=_seeds(len(found.seeds)), title_fontsize=8)
    if retrained:
        _dots(panels[2], found, looks)
    return figure


@picture
def draw_presets(found: TrainingComparison) -> Figure:
    """Draw the test scores of each preset as a box plot over seeds, with a dot per seed."""
    presets = found.presets
    values = {preset: [found.by.scale * run.test_accuracy for run in found.of(preset)] for preset in presets}
    figure = new_figure(1.8 + 1.1 * len(presets), 4)
    axes = figure.add_subplot()
    drawn = axes.boxplot(
        list(values.values()), showfliers=False, widths=0.5, patch_artist=True, medianprops={"color": ORANGE}
    )
    for box in drawn["boxes"]:
        box.set(facecolor="white", edgecolor=BLUE)
    for place, accuracies in enumerate(values.values(), start=1):
        # Draw equal accuracies side by side.
        shift = [0.08 * (index - (len(accuracies) - 1) / 2) for index in range(len(accuracies))]
        axes.plot([place + each for each in shift], accuracies, "o", ms=4, color=GREY, alpha=0.8)
    axes.set_xticks(range(1, len(presets) + 1), [textwrap.fill(preset, 14) for preset in presets])
    axes.set_ylabel(f"test {found.by.name}, fused{found.by.marked}")
    axes.grid(axis="y", alpha=0.3)
    seeds = len(found.seeds)
    axes.set_title(f"{found.network} on {found.dataset}, {counted(seeds, 'seed')}", fontsize=10, loc="left")
    return figure


def _band(axes: Axes, runs: Sequence[ComparedSearch], key: str, unit: float, look: Look, label: str) -> None:
    colour, marker = look
    evaluations = runs[0].evaluations
    columns = [[unit * value for value in column] for column in zip(*(getattr(run, key) for run in runs), strict=True)]
    axes.plot(
        evaluations, [sum(column) / len(column) for column in columns], f"-{marker}", ms=4, color=colour, label=label
    )
    axes.fill_between(
        evaluations, [min(column) for column in columns], [max(column) for column in columns], color=colour, alpha=0.12
    )


def _dots(axes: Axes, found: SearchComparison, looks: Mapping[str, Look]) -> None:
    for place, (name, (colour, _)) in enumerate(looks.items()):
        values = [found.by.scale * (run.retrained_test or 0) for run in found.of(name)]
        axes.plot([place] * len(values), values, "o", color=colour, markerfacecolor="none")
        axes.plot([place - 0.25, place + 0.25], [sum(values) / len(values)] * 2, color=colour, linewidth=2)
    axes.set_xticks(range(len(looks)), list(looks))
    axes.set_xlim(-0.6, len(looks) - 0.4)
    axes.set_ylabel(f"test {found.by.name}, retrained and fused{found.by.marked}")
    axes.set_title("one dot per seed, the bar is their mean", fontsize=8, color=GREY)
    axes.grid(axis="y", alpha=0.3)


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds: mean, lowest, highest"
