"""Draw a comparison of presets from the compare.json of ``irepdeploy train compare``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from irepdeploy.plots.figure import BLUE, GREY, ORANGE, new_figure, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from irepdeploy.runs.comparison import TrainingComparison

__all__ = ["draw_presets"]


@picture
def draw_presets(found: TrainingComparison) -> Figure:
    """Draw test accuracy by preset: a box from quartile to quartile over seeds, the median, and a dot per seed."""
    presets = found.presets
    values = {preset: [100 * run.test_accuracy for run in found.of(preset)] for preset in presets}
    figure = new_figure(1.8 + 1.1 * len(presets), 4)
    axes = figure.add_subplot()
    drawn = axes.boxplot(
        list(values.values()), showfliers=False, widths=0.5, patch_artist=True, medianprops={"color": ORANGE}
    )
    for box in drawn["boxes"]:
        box.set(facecolor="white", edgecolor=BLUE)
    for place, accuracies in enumerate(values.values(), start=1):
        # Equal accuracies are drawn side by side.
        shift = [0.08 * (index - (len(accuracies) - 1) / 2) for index in range(len(accuracies))]
        axes.plot([place + each for each in shift], accuracies, "o", ms=4, color=GREY, alpha=0.8)
    axes.set_xticks(range(1, len(presets) + 1), presets)
    axes.set_ylabel("test accuracy, fused (%)")
    axes.grid(axis="y", alpha=0.3)
    seeds = len(found.seeds)
    axes.set_title(
        f"{found.network} on {found.dataset}, {seeds} seed{'' if seeds == 1 else 's'}", fontsize=10, loc="left"
    )
    return figure
