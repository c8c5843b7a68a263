"""Interval charts: each row has a figure with its interval, a reference value, and a limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..scale import Scale, latency_scale, linear_scale
from ..templates import Markup, macro
from .frame import NARROW, TEMPLATE, Frame, short

__all__ = ["IntervalRow", "intervals"]

_ROW = 38
# Characters of the name and of the figure that fit into one row.
_BOTH = 50
_MOST_TICKS = 7


@dataclass(frozen=True)
class IntervalRow:
    """A row of the chart.

    Args:
        text: The figure as text, to the right of the name.
        low: Lower end of the interval, if any.
        high: Upper end of the interval, if any.
        limit: Upper limit of the value, drawn as a bar across.
        look: "tie", "better", "worse", or "" for a figure without a verdict.
    """

    name: str
    value: float
    text: str
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    look: str = ""


def intervals(
    rows: Sequence[IntervalRow], title: str, axis: str, *, mark: float | None = None, log: bool = False
) -> Markup:
    """Draw a dot and an interval for each row; `mark` is the reference value."""
    bottom = 8 + _ROW * len(rows)
    frame = Frame(height=bottom + 40, left=10, right=NARROW - 10, top=8, bottom=bottom, width=NARROW)
    values = [value for row in rows for value in (row.low, row.value, row.high, row.limit) if value is not None]
    values += [] if mark is None else [mark]
    x = _scale(values, frame, log=log)
    drawn = [
        {
            "y": frame.top + _ROW * index,
            "name": short(row.name, max(12, _BOTH - len(row.text))),
            "row": row,
            "x": x(row.value),
            "span": None if row.low is None or row.high is None else (x(row.low), x(row.high)),
            "limit": None if row.limit is None else x(row.limit),
            "tip": f"{row.name}\n{row.text}",
        }
        for index, row in enumerate(rows)
    ]
    return macro(TEMPLATE, "intervals")(title, frame, x, axis, drawn, None if mark is None else x(mark))


def _scale(values: Sequence[float], frame: Frame, *, log: bool) -> Scale:
    if log:
        scale = latency_scale(values, frame.left + 14, frame.right - 14, log=True)
        return replace(scale, ticks=scale.ticks[:: -(-len(scale.ticks) // _MOST_TICKS)])
    return linear_scale(values, frame.left + 14, frame.right - 14)
