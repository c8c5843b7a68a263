"""Scatter charts of a score against a cost, with the Pareto front."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..scale import latency_scale, linear_scale
from ..templates import Markup, macro
from .frame import NARROW, TEMPLATE, Frame, short

__all__ = ["Point", "scatter"]

# Average width of a character in the page's small type.
_CHARACTER = 7.0
_WIDE = Frame(height=384, left=56, right=700, top=26, bottom=338)


@dataclass(frozen=True)
class Point:
    """A model or a run: its cost, which is above 0, and its score.

    Args:
        tip: Text of the tooltip, line by line.
        low: Lower end of the score's interval, if any.
        high: Upper end of the score's interval, if any.
        costs: Interval of the cost, if the noise of its measurement is known.
        ties: Names of the points whose scores cannot be distinguished from this one.
    """

    name: str
    cost: float
    score: float
    tip: str
    low: float | None = None
    high: float | None = None
    costs: tuple[float, float] | None = None
    ties: frozenset[str] = frozenset()

    def beats(self, other: Point) -> bool:
        """Return whether this point is at least as good in both figures and better in one, up to noise."""
        mine, others = (each.costs or (each.cost, each.cost) for each in (self, other))
        tie = other.name in self.ties or self.name in other.ties
        cheaper, dearer = mine[1] < others[0], others[1] < mine[0]
        better = self.score > other.score and not tie
        return (cheaper and (better or tie or self.score == other.score)) or (better and not dearer)


def scatter(points: Sequence[Point], title: str, cost: str, score: str, *, narrow: bool = True) -> Markup:
    """Draw scores against costs, with the Pareto front connected; `cost` and `score` name the axes."""
    values = [(point.cost, point.score) for point in points]
    order = sorted(range(len(points)), key=lambda index: values[index])
    front = [index for index in order if not any(other.beats(points[index]) for other in points)]
    frame = Frame(height=300, left=58, right=NARROW - 12, top=26, bottom=254, width=NARROW) if narrow else _WIDE
    x = latency_scale([value[0] for value in values], frame.left, frame.right)
    reach = [value for point in points for value in (point.low, point.score, point.high) if value is not None]
    y = linear_scale(reach, frame.bottom, frame.top)
    places = [(x(value[0]), y(value[1])) for value in values]
    steps = "".join(
        f"M{places[a][0]} {places[a][1]}H{places[b][0]}V{places[b][1]}" for a, b in itertools.pairwise(front)
    )
    marks = [
        {
            "x": px,
            "y": py,
            "on_front": index in front,
            "tip": f"{point.tip}\n{'on' if index in front else 'not on'} the Pareto front",
            "span": None if point.low is None or point.high is None else (y(point.low), y(point.high)),
        }
        for index, (point, (px, py)) in enumerate(zip(points, places, strict=True))
    ]
    labels = _labels(places, [short(point.name) for point in points], frame)
    return macro(TEMPLATE, "scatter")(title, frame, x, y, cost, score, steps, labels, marks)


def _labels(places: Sequence[tuple[float, float]], names: Sequence[str], frame: Frame) -> list[dict[str, Any]]:
    """Place a name next to each point if there is room; the other names are in tooltips."""
    taken = [(x - 6.0, y - 6.0, x + 6.0, y + 6.0) for x, y in places]
    found = []
    for (x, y), name in zip(places, names, strict=True):
        width = _CHARACTER * len(name)
        for anchor, place, baseline in (
            ("start", x + 10, y + 4),
            ("end", x - 10, y + 4),
            ("middle", x, y - 11),
            ("middle", x, y + 20),
            ("start", x + 8, y - 9),
            ("start", x + 8, y + 17),
            ("end", x - 8, y - 9),
            ("end", x - 8, y + 17),
        ):
            left = place - {"start": 0, "middle": width / 2, "end": width}[anchor]
            space = (left, baseline - 11, left + width, baseline + 3)
            inside = space[0] > frame.left + 2 and space[2] < frame.right and space[1] > 12 and space[3] < frame.bottom
            if inside and not any(
                a < space[2] and space[0] < c and b < space[3] and space[1] < d for a, b, c, d in taken
            ):
                taken.append(space)
                found.append({"text": name, "anchor": anchor, "x": round(place, 1), "y": round(baseline, 1)})
                break
    return found
