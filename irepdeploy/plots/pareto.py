"""Drawing of the Pareto set of a search from its pareto.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from irepdeploy.plots.figure import BLUE, GREY, new_figure, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from irepdeploy.runs.pareto import ParetoSet

__all__ = ["draw_pareto"]

_AXES = (("macs", 1e6, "MACs of a forward pass, train state (millions)"), ("memory_bytes", 1e6, "training memory (MB)"))


@picture
def draw_pareto(found: ParetoSet) -> Figure:
    """Draw the score over MACs and memory; candidates on the Pareto front are filled and labelled with their rank."""
    figure = new_figure(9.2, 3.8)
    looks: list[tuple[Any, dict[str, Any]]] = [
        (found.candidates, {"color": GREY, "markerfacecolor": "none", "markersize": 5, "label": "population"}),
        (found.front, {"color": BLUE, "markersize": 6, "label": "Pareto set"}),
    ]
    for axes, (key, unit, label) in zip(figure.subplots(1, 2, sharey=True), _AXES, strict=True):
        for candidates, look in looks:
            costs = [getattr(candidate, key) / unit for candidate in candidates]
            axes.plot(costs, [found.by.scale * candidate.val_accuracy for candidate in candidates], "o", **look)
        for candidate in found.front:
            place = getattr(candidate, key) / unit, found.by.scale * candidate.val_accuracy
            axes.annotate(str(candidate.rank), place, (4, 4), textcoords="offset points", fontsize=7)
        batch = f", batch {found.batch_size}" if key == "memory_bytes" else ""
        axes.set_xlabel(label.replace(")", f"{batch})") if batch else label)
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel(f"{found.by.name}, search-validation set{found.by.marked}")
    figure.axes[0].legend(fontsize=8)
    return figure
