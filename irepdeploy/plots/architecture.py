"""An Architecture as a matrix: layers by branches."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from irepdeploy.arch import Architecture
from irepdeploy.plots.figure import BLUE, GREY, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["draw_architecture"]


def draw_architecture(
    architecture: Architecture, *, possible: Collection[tuple[int, int]] | None = None, title: str = ""
) -> Figure:
    """Rows are layers from first to last, columns candidate operations; a filled square is a kept branch.

    Args:
        possible: (layer, branch) indices that can be kept; the others are crossed out. None: all of them.
    """
    from matplotlib.patches import Rectangle

    rows, columns = len(architecture.layers), len(architecture.branches)
    names = max((len(name) for name in architecture.layers), default=0)
    figure = new_figure(1.6 + 0.55 * columns + 0.07 * names, 1.9 + 0.34 * rows)
    axes = figure.add_subplot()
    for row in range(rows):
        for column in range(columns):
            kept = bool(architecture.matrix[row][column])
            square = Rectangle((column - 0.42, row - 0.42), 0.84, 0.84, facecolor=BLUE if kept else "white")
            square.set_edgecolor(BLUE if kept else GREY)
            axes.add_patch(square)
            if possible is not None and (row, column) not in possible:
                axes.text(column, row, "\N{MULTIPLICATION SIGN}", ha="center", va="center", color=GREY)
    axes.set_xlim(-0.6, columns - 0.4)
    axes.set_ylim(rows - 0.4, -0.6)
    # Names come from a file: a dollar sign in one is no formula.
    plain: dict[str, Any] = {"parse_math": False}
    axes.set_xticks(range(columns), architecture.branches, rotation=40, ha="right", rotation_mode="anchor", **plain)
    axes.set_yticks(range(rows), architecture.layers, **plain)
    axes.set_aspect("equal")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    total = rows * columns if possible is None else len(possible)
    axes.set_title(f"{title or 'Architecture'}: {architecture.count} of {total} branches", fontsize=10, loc="left")
    if possible is not None and len(possible) < rows * columns:
        axes.set_xlabel("\N{MULTIPLICATION SIGN}: not possible at this layer", fontsize=8, color=GREY)
    return figure
