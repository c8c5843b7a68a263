"""Drawings of Architectures as matrices of layers by branches (Fig. A1 and A2), and of the difference of two."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from irepdeploy.errors import InputError
from irepdeploy.plots.architecture_view import ArchitectureView, difference, stages_of
from irepdeploy.plots.figure import BLUE, GREY, ORANGE, new_figure, picture, row_height, shown, shown_rows
from irepdeploy.reparam.architecture import Architecture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_architecture", "draw_architectures", "draw_difference"]

_CELL = 0.34
_SIDE = 0.84


def draw_architecture(
    architecture: Architecture, *, possible: Collection[tuple[int, int]] | None = None, title: str = ""
) -> Figure:
    """Draw an Architecture with layers as rows and branches as columns; a filled square is a kept branch.

    Args:
        architecture: Architecture to draw.
        possible: Indices (layer, branch) of the possible branches; all others are crossed out. Default: all.
        title: Title of the figure.
    """
    view = ArchitectureView(title or "Architecture", architecture, None if possible is None else frozenset(possible))
    return draw_architectures([view])


@picture
def draw_architectures(views: Sequence[ArchitectureView]) -> Figure:
    """Draw Architectures side by side, with the channels of each layer and a line between stages."""
    if not views:
        raise InputError("no Architecture to draw", hint="name a file, a folder or a published one")
    rows = max(len(view.architecture.layers) for view in views)
    height = row_height(rows, _CELL)
    titles = [f"{shown(view.label)}: {view.architecture.count} of {view.total} branches" for view in views]
    widths = [
        _width(view.architecture.layers, view.architecture.branches, height, title)
        for view, title in zip(views, titles, strict=True)
    ]
    figure = new_figure(sum(widths) + 0.2, 1.7 + height * rows)
    panels = figure.subplots(1, len(views), squeeze=False, width_ratios=widths)[0]
    crossed = False
    for axes, view, title in zip(panels, views, titles, strict=True):
        architecture = view.architecture
        for row, bits in enumerate(architecture.matrix):
            for column, bit in enumerate(bits):
                impossible = view.possible is not None and (row, column) not in view.possible
                crossed |= impossible
                _square(axes, row, column, facecolor=BLUE if bit else "white", edgecolor=BLUE if bit else GREY)
                if impossible:
                    look = {"ha": "center", "va": "center", "color": GREY, "fontsize": 10 * height / _CELL}
                    axes.text(column, row, "\N{MULTIPLICATION SIGN}", **look)
        _frame(axes, architecture.layers, architecture.branches, view.stages, rows, height)
        _channels(axes, architecture.layers, len(architecture.branches), view.channels, height)
        axes.set_title(title, fontsize=10, loc="left")
    if crossed:
        panels[0].set_xlabel("\N{MULTIPLICATION SIGN}: not possible at this layer", fontsize=8, color=GREY)
    return figure


@picture
def draw_difference(first: ArchitectureView, second: ArchitectureView) -> Figure:
    """Draw two Architectures in one matrix: the branches that both keep, and those that only one of them keeps."""
    from matplotlib.patches import Patch

    found = difference(first.architecture, second.architecture)
    rows = len(found.layers)
    height = row_height(rows, _CELL)
    one, two = shown(first.label), shown(second.label)
    looks: dict[tuple[int, int], dict[str, Any]] = {
        (1, 1): {"facecolor": BLUE, "edgecolor": BLUE, "label": "both"},
        (1, 0): {"facecolor": "white", "edgecolor": ORANGE, "hatch": "//////", "label": f"only {one}"},
        (0, 1): {"facecolor": "#56B4E9", "edgecolor": "black", "hatch": "....", "label": f"only {two}"},
        (0, 0): {"facecolor": "white", "edgecolor": GREY, "label": "neither"},
    }
    notes: list[str] = []
    title = f"{one} and {two}: {found.distance} branch{'es' * (found.distance != 1)} differ"
    figure = new_figure(_width(found.layers, found.branches, height, title), 2.1 + height * rows)
    axes = figure.add_subplot()
    for row, (bits, others) in enumerate(zip(found.first, found.second, strict=True)):
        for column, pair in enumerate(zip(bits, others, strict=True)):
            _square(axes, row, column, **looks[pair])
    channels = {**second.channels, **first.channels}
    _frame(axes, found.layers, found.branches, stages_of(found.layers, channels), rows, height)
    _channels(axes, found.layers, len(found.branches), channels, height)
    axes.set_title(title, fontsize=10, loc="left")
    figure.legend(handles=[Patch(**look) for look in looks.values()], loc="outside lower left", ncols=2, fontsize=8)
    for place, name in enumerate((one, two)):
        alone = [shown(layer) for layer, owner in found.only.items() if owner == place]
        if alone:
            notes.append(f"only {name} has {_listed(alone)}")
    if notes:
        width = int(11 * figure.get_size_inches()[0])
        axes.set_xlabel("\n".join(textwrap.wrap("; ".join(notes), width)), fontsize=7, loc="left")
    return figure


def _width(layers: Iterable[str], branches: Sequence[str], height: float, title: str) -> float:
    """Return the width of a panel in inches: names, squares and channels, or the title above the squares."""
    names = 0.078 * max((min(len(name), 48) for name in layers), default=0) * min(1, height / 0.15)
    # The slanted name of the last branch extends beyond the edge.
    lean = 0.06 * min(len(branches[-1]), 48) if branches else 0
    return 0.35 + names + max(height * len(branches) + max(0.8, lean), 0.085 * len(title))


def _square(axes: Axes, row: int, column: int, **look: Any) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((column - _SIDE / 2, row - _SIDE / 2), _SIDE, _SIDE, linewidth=0.8, **look))


def _frame(
    axes: Axes, layers: Sequence[str], branches: Sequence[str], stages: Sequence[int], rows: int, height: float
) -> None:
    """Label a panel and draw a line before each stage but the first; all panels are `rows` high, so that they align."""
    columns = len(branches)
    axes.set_xlim(-0.6, columns - 0.4)
    axes.set_ylim(rows - 0.4, -0.6)
    names = [shown(name) for name in branches]
    size = max(6.0, min(9.0, 26 * height))
    axes.set_xticks(range(columns), names, rotation=40, ha="left", rotation_mode="anchor", fontsize=size)
    axes.xaxis.tick_top()
    shown_rows(axes, layers, height)
    for start in stages[1:]:
        axes.plot((-0.6, columns - 0.4), (start - 0.5, start - 0.5), color="black", linewidth=0.9)
    axes.set_aspect("equal", anchor="NW")
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _channels(
    axes: Axes, layers: Sequence[str], columns: int, channels: Mapping[str, tuple[int, int, int]], height: float
) -> None:
    """Write the input and output channels after each layer, and its stride unless it is 1, if rows are high enough."""
    if height < 0.1:
        return
    for row, layer in enumerate(layers):
        if layer in channels:
            inner, outer, stride = channels[layer]
            text = f"{inner}\N{RIGHTWARDS ARROW}{outer}{f' /{stride}' if stride > 1 else ''}"
            axes.text(columns - 0.35, row, text, va="center", fontsize=min(7, 45 * height), color="#555555")


def _listed(names: Sequence[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
