"""Drawings of fused kernels: energy by tap, and the share of each branch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from irepdeploy.plots.figure import (
    GREY,
    ORANGE,
    SEQUENTIAL,
    draw_matrix,
    new_figure,
    picture,
    row_height,
    shown,
    shown_rows,
)
from irepdeploy.plots.kernel_energy import FIXED, NetworkKernels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_kernels"]

_CELL = 0.52
# Height of a kernel's picture as a share of the row.
_SIDE = 0.9


@picture
def draw_kernels(found: NetworkKernels) -> Figure:
    """Draw one row per layer with the energy by tap, the share of the cross, and the share of each branch."""
    rows, operations = len(found.layers), found.operations
    height = row_height(rows, _CELL)
    names = 0.35 + 0.078 * max(min(len(name), 48) for name in found.layers)
    # Keep a minimum width for the heading.
    left = height + 1.0 if operations else max(height + 1.0, 4.4 - names)
    right = 0.62 * len(operations) + 1.3 if operations else 0.0
    figure = new_figure(names + left + right, 1.3 + bool(operations) * 0.8 + height * rows)
    if operations:
        taps, shares = figure.subplots(1, 2, width_ratios=(left, right))
        _shares(shares, found, height)
    else:
        taps = figure.add_subplot()
    _taps(taps, found, height)
    figure.suptitle(f"{shown(found.label)}: energy of the fused kernels", fontsize=10)
    if found.untrained:
        figure.supxlabel(f"UNTRAINED: {found.untrained}", fontsize=10, color=ORANGE, fontweight="bold")
    elif not operations:
        figure.supxlabel("a fused network: the share of each branch is not known", fontsize=8, color=GREY)
    # The squares can be drawn as squares only when the panel has its final size.
    figure.draw_without_rendering()
    box = taps.get_window_extent()
    taps.set_xlim(0, rows * box.width / box.height)
    return figure


def _shares(axes: Axes, found: NetworkKernels, height: float) -> None:
    import numpy as np

    operations = found.operations
    shares = np.array([[layer.shares.get(name, np.nan) for name in operations] for layer in found.layers.values()])
    # Scale colours without the fixed operation, whose large share would hide the differences between branches.
    of_branches = shares[:, [name != FIXED for name in operations]]
    limit = max(0.05, float(np.nanmax(np.abs(of_branches), initial=0)))
    form = ".0%" if height > 0.1 else None
    image = draw_matrix(axes, shares, cmap="PuOr_r", limits=(-limit, limit), form=form, size=min(8, 50 * height))
    labels = [shown(name) for name in operations]
    axes.set_xticks(range(len(operations)), labels, rotation=40, ha="left", rotation_mode="anchor", fontsize=8)
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.set_yticks(())
    axes.spines[:].set_visible(False)
    axes.set_xlabel("share of each operation in the fused kernel;\nthose below 0 work against the others", fontsize=8)
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.03, pad=0.02, format="{x:.0%}", extend="both")
    bar.ax.tick_params(labelsize=7)


def _taps(axes: Axes, found: NetworkKernels, height: float) -> None:
    """Draw each kernel as a square of its taps, on a common scale, with the share of the cross next to it."""
    import numpy as np

    highest = max(float(layer.taps.max()) for layer in found.layers.values()) or 1.0
    for row, layer in enumerate(found.layers.values()):
        top, bottom = row - _SIDE / 2, row + _SIDE / 2
        place = (0.0, _SIDE, bottom, top)
        axes.imshow(layer.taps, cmap=SEQUENTIAL, vmin=0, vmax=highest, extent=place, interpolation="none")
        size = len(layer.taps)
        if height > 0.4 and size == 3:
            for (y, x), share in np.ndenumerate(layer.taps):
                colour = "white" if share > 0.55 * highest else "black"
                spot = _SIDE * (x + 0.5) / size, top + _SIDE * (y + 0.5) / size
                axes.text(*spot, f"{100 * share:.0f}", ha="center", va="center", fontsize=6, color=colour)
        axes.plot((0, _SIDE, _SIDE, 0, 0), (top, top, bottom, bottom, top), color=GREY, linewidth=0.5)
        axes.text(1, row, f"cross {layer.cross:.0%}", va="center", fontsize=min(8, 55 * height))
    axes.set_ylim(len(found.layers) - 0.5, -0.5)
    axes.set_aspect("auto")
    shown_rows(axes, list(found.layers), height)
    axes.set_xticks(())
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    even = " (even: 56 %)" if all(len(layer.taps) == 3 for layer in found.layers.values()) else ""
    axes.set_xlabel(f"energy by tap, %;\ncross{even}", fontsize=8, loc="left")
