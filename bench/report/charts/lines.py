"""Line charts of figures of several runs over their steps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from ..columns import digits
from ..scale import latency_scale, linear_scale
from ..templates import Markup, macro
from .frame import NARROW, TEMPLATE, Frame, short

__all__ = ["COLOURS", "Series", "lines"]

# Classes of the style sheet; further series reuse the colours with dashes.
COLOURS = 8
# There is no use for more points than pixels, and each point is a stop for the arrow keys.
_MOST_STEPS = 200
_DOTS_UP_TO = 30
_DECADES = 100.0


@dataclass(frozen=True)
class Series:
    """A line of (step, value) pairs in ascending order of steps. Lines of a `group` are shown and hidden together.

    Args:
        dashed: Draw dashes, for a second figure of the same run.
    """

    name: str
    points: tuple[tuple[float, float], ...]
    group: int
    dashed: bool = False


def lines(series: Sequence[Series], title: str, step: str, value: str, unit: str = "", *, whole: bool = True) -> Markup:
    """Draw one line for each series; `step` and `value` name the axes, and steps may be `whole` numbers.

    Hovering over a step shows the values of all series there.
    """
    frame = Frame(height=270, left=58, right=NARROW - 12, top=26, bottom=226, width=NARROW)
    steps = sorted({at for each in series for at, _ in each.points})
    x = linear_scale([*steps, *([steps[0] + 1] if whole else [])], frame.left, frame.right, whole=whole)
    values = [found for each in series for _, found in each.points]
    # A loss falls by orders of magnitude; scores by a metric with a unit do not.
    falls = not unit and min(values) > 0 and max(values) / min(values) > _DECADES
    y = (latency_scale if falls else linear_scale)(values, frame.bottom, frame.top)
    drawn = [
        {
            "path": "M" + "L".join(f"{x(at)} {y(found)}" for at, found in each.points),
            "dots": [(x(at), y(found)) for at, found in each.points] if len(each.points) <= _DOTS_UP_TO else [],
            "group": each.group,
            "look": f"s{each.group % COLOURS}" + (" dashed" if each.dashed or each.group >= COLOURS else ""),
        }
        for each in series
    ]
    known = [dict(each.points) for each in series]
    told = steps[:: -(-len(steps) // _MOST_STEPS)]
    told += steps[-1:] if told[-1] != steps[-1] else []
    edges = [frame.left, *(round((x(a) + x(b)) / 2, 1) for a, b in itertools.pairwise(told)), frame.right]
    slices = [
        {
            "left": left,
            "width": round(max(right - left, 1.0), 1),
            "x": x(at),
            "tip": "\n".join(
                [
                    f"{step} {at:g}",
                    *(
                        f"{short(each.name, 40)}: {digits(values[at])}{unit}"
                        for each, values in zip(series, known, strict=True)
                        if at in values
                    ),
                ]
            ),
        }
        for at, left, right in zip(told, edges, edges[1:], strict=False)
    ]
    return macro(TEMPLATE, "lines")(title, frame, x, y, step, f"{value}{unit and f',{unit}'}", drawn, slices)
