"""Drawing of accuracy over latency (Fig. 1)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from irepdeploy.errors import InputError
from irepdeploy.plots.figure import BLUE, GREEN, GREY, MARKERS, ORANGE, PALETTE, new_figure, picture, shown
from irepdeploy.plots.latency_points import LatencyPoint, by_device, pareto_front

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw_latency"]

_COLUMNS = 2
_PANEL = (5.6, 4.0)
# Ratio of latencies above which the axis is logarithmic.
_WIDE = 5
_POINTS_AN_INCH = 72
_NEAR = ((6, -5), (-6, -5), (6, 4), (-6, 4), (6, -13), (-6, -13), (0, 5), (0, -15))
_FAR = tuple((across, up) for up in (16, -22, 28, -34, 40, -46) for across in (14, -14, 30, -30))
# Looks of the families of networks in the suites; other families follow in their order.
_FAMILIES = {"plain": (ORANGE, "o"), "re-parameterized": (BLUE, "s"), "NAS": (GREEN, "^"), "": ("#000000", "D")}


@picture
def draw_latency(points: Sequence[LatencyPoint]) -> Figure:
    """Draw a panel for each device and conditions, with the Pareto front and bars from the 10th to 90th percentile.

    Networks without an accuracy are listed below their panel.

    Raises:
        InputError: No network has an accuracy.
    """
    groups = by_device(points)
    known = {name: group for name, group in groups.items() if any(point.top1 is not None for point in group)}
    if not known:
        labels = ", ".join(dict.fromkeys(point.label for point in points)) or "none"
        raise InputError(
            f"no record has an accuracy; there are {labels}",
            hint="set one with --top1 LABEL=PERCENT, or run bench --suite fig1, which includes the paper's accuracies",
        )
    columns = min(_COLUMNS, len(known))
    rows = -(-len(known) // columns)
    figure = new_figure(_PANEL[0] * columns, _PANEL[1] * rows + 0.6)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    looks = _looks(points)
    for axes, (name, group) in zip(panels, known.items(), strict=False):
        _panel(axes, name, group, looks)
    for axes in panels[len(known) :]:
        axes.set_axis_off()
    _legend(figure, [point for group in known.values() for point in group if point.top1 is not None], looks)
    silent = [f"{name}: {_named(group)}" for name, group in groups.items() if name not in known]
    if silent:
        text = f"not drawn, because they have no accuracy: {'; '.join(silent)}"
        figure.supxlabel(_wrapped(text, columns), fontsize=7, color="#555555")
    # Place the names after everything else.
    figure.draw_without_rendering()
    for axes, group in zip(panels, known.values(), strict=False):
        _label(axes, [point for point in group if point.top1 is not None])
    return figure


def _looks(points: Sequence[LatencyPoint]) -> dict[str, tuple[str, str]]:
    """Return the colour and marker of each family."""
    others = sorted({point.family for point in points} - set(_FAMILIES))
    free = [(colour, marker) for colour, marker in zip(PALETTE[3:6], MARKERS[4:7], strict=True)]
    return _FAMILIES | {name: free[place % len(free)] for place, name in enumerate(others)}


def _panel(axes: Axes, name: str, group: Sequence[LatencyPoint], looks: dict[str, tuple[str, str]]) -> None:
    drawn = [point for point in group if point.top1 is not None]
    front = pareto_front(drawn)
    axes.plot(*zip(*(point.place for point in front), strict=True), "--", color=GREY, linewidth=1, zorder=1)
    for point in drawn:
        colour, marker = looks[point.family]
        latency, top1 = point.place
        axes.plot((point.low_ms, point.high_ms), (top1, top1), "-", color=colour, linewidth=1, alpha=0.6)
        face = colour if point.measured else "white"
        axes.plot([latency], [top1], marker, color=colour, markerfacecolor=face, markersize=6)
    if drawn[-1].latency_ms > _WIDE * drawn[0].latency_ms > 0:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(0.16, 0.12)
    axes.set_ylabel("top-1 accuracy (%)")
    axes.set_title(shown(name, 90), fontsize=8, loc="left")
    axes.grid(alpha=0.3)
    below = ["latency, median (ms)"]
    without = [point for point in group if point.top1 is None]
    if without:
        below.append(_wrapped(f"no accuracy known: {_named(without)}", 1))
    axes.set_xlabel("\n".join(below), fontsize=8)


def _legend(figure: Figure, drawn: Sequence[LatencyPoint], looks: dict[str, tuple[str, str]]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=marker, color=colour, label=shown(family) or "network")
        for family, (colour, marker) in looks.items()
        if any(point.family == family for point in drawn)
    ]
    handles.append(Line2D([], [], linestyle="--", color=GREY, label="Pareto front"))
    if any(not point.measured for point in drawn):
        hollow: dict[str, Any] = {"linestyle": "", "marker": "o", "color": GREY, "markerfacecolor": "white"}
        handles.append(Line2D([], [], **hollow, label="hollow: accuracy not measured here"))
    figure.legend(handles=handles, loc="outside upper center", ncols=3, fontsize=7)


def _label(axes: Axes, points: Sequence[LatencyPoint]) -> None:
    """Label each point where its label overlaps no other label or point, if possible."""
    scale = axes.figure.dpi / _POINTS_AN_INCH
    spots = [axes.transData.transform(point.place) / scale for point in points]
    ends = [
        axes.transData.transform([(point.low_ms, point.place[1]), (point.high_ms, point.place[1])]) / scale
        for point in points
    ]
    # The areas taken by markers and bars.
    taken = [(x - 4, y - 4, x + 4, y + 4) for x, y in spots]
    taken += [(start, y - 1, end, y + 1) for (start, y), (end, _) in ends]
    (left, low), (right, high) = axes.transAxes.transform(((0, 0), (1, 1))) / scale
    for point, (x, y) in zip(points, spots, strict=True):
        text = shown(point.label, 32)
        width, height = 4.2 * len(text), 9.0
        fewest = None
        for offset in (*_NEAR, *_FAR):
            across, up = offset
            start = x + across - width * (across < 0) - width / 2 * (across == 0)
            box = (start, y + up, start + width, y + up + height)
            outside = box[0] < left or box[2] > right or box[1] < low or box[3] > high
            clashes = sum(_overlap(box, other) for other in taken) + 10 * outside
            if fewest is None or clashes < fewest[0]:
                fewest = clashes, offset, box
        assert fewest is not None
        _, offset, box = fewest
        taken.append(box)
        side = "center" if offset[0] == 0 else "left" if offset[0] > 0 else "right"
        line = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5} if offset in _FAR else None
        name = axes.annotate(
            text, point.place, offset, textcoords="offset points", fontsize=7, ha=side, va="bottom", arrowprops=line
        )
        # Otherwise the label would change the layout again, and its position would be wrong.
        name.set_in_layout(False)


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _named(points: Sequence[LatencyPoint]) -> str:
    return ", ".join(f"{shown(point.label)} ({point.latency_ms:.3g} ms)" for point in points)


def _wrapped(text: str, columns: int) -> str:
    return "\n".join(textwrap.wrap(text, 95 * columns))
