"""Charts as SVG: accuracy against latency, and the spread of samples."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from irepdeploy.board.protocol import percentile
from irepdeploy.runs.pareto_front import pareto_front

from .columns import digits
from .row import Row
from .scale import latency_scale, linear_scale
from .templates import Markup, macro

__all__ = ["box_plots", "scatter"]

_TEMPLATE = "charts.html"
# Width of a character of the page's small type, on average.
_CHARACTER = 7.0
_LONGEST = 26


class _Frame(NamedTuple):
    """The drawing area of a chart, in pixels."""

    height: int
    left: int
    right: int
    top: int
    bottom: int


def scatter(rows: Sequence[Row], title: str) -> Markup | None:
    """Draw accuracy against median latency, the Pareto front joined.

    Returns:
        One SVG element, or None if fewer than two models have a known accuracy.
    """
    shown = [row for row in rows if row.top1 is not None]
    if len({row.model for row in shown}) < 2:
        return None
    values = [(row.summary.median_ms, row.top1 or 0.0) for row in shown]
    front = pareto_front(values)
    frame = _Frame(height=384, left=56, right=700, top=26, bottom=338)
    x = latency_scale([value[0] for value in values], frame.left, frame.right)
    y = linear_scale([value[1] for value in values], frame.bottom, frame.top)
    places = [(x(latency), y(accuracy)) for latency, accuracy in values]
    steps = "".join(
        f"M{places[a][0]} {places[a][1]}H{places[b][0]}V{places[b][1]}" for a, b in itertools.pairwise(front)
    )
    labels = _labels(places, [_short(row.model) for row in shown], frame)
    points = [
        {"x": px, "y": py, "on_front": index in front, "tip": _point_tip(row, index in front)}
        for index, (row, (px, py)) in enumerate(zip(shown, places, strict=True))
    ]
    return macro(_TEMPLATE, "scatter")(title, frame, x, y, steps, labels, points)


def box_plots(rows: Sequence[Row], title: str) -> Markup:
    """Draw the samples of each row: quartiles, whiskers to the last within 1.5 box lengths, and all beyond as dots."""
    boxes = [_Box.of(row) for row in rows]
    bottom = 10 + 26 * len(boxes)
    frame = _Frame(height=bottom + 44, left=226, right=700, top=10, bottom=bottom)
    x = latency_scale([value for box in boxes for value in (box.low, box.high)], frame.left, frame.right)
    return macro(_TEMPLATE, "box_plots")(title, frame, x, boxes)


@dataclass(frozen=True)
class _Box:
    """Five numbers and the outliers of a row's samples, in milliseconds; each is a sample that was taken."""

    row: Row
    low: float
    whisker_low: float
    q1: float
    median: float
    q3: float
    whisker_high: float
    high: float
    beyond: tuple[float, ...]

    @classmethod
    def of(cls, row: Row) -> _Box:
        samples = sorted(value / 1e6 for value in row.record.samples_ns)
        q1, median, q3 = (percentile(samples, p) for p in (25, 50, 75))
        reach = 1.5 * (q3 - q1)
        within = [value for value in samples if q1 - reach <= value <= q3 + reach]
        beyond = tuple(value for value in samples if not within[0] <= value <= within[-1])
        return cls(row, samples[0], within[0], q1, median, q3, within[-1], samples[-1], beyond)

    @property
    def name(self) -> str:
        return _short(self.row.model, 34)

    @property
    def tip(self) -> str:
        return "\n".join(
            [
                _name(self.row),
                f"median {digits(self.median)} ms",
                f"quartiles {digits(self.q1)} and {digits(self.q3)} ms",
                f"least {digits(self.low)}, most {digits(self.high)} ms",
                f"{len(self.row.record.samples_ns)} samples, {len(self.beyond)} beyond the whiskers",
            ]
        )


def _point_tip(row: Row, on_front: bool) -> str:
    source = f" ({row.top1_source})" if row.top1_source else ""
    return "\n".join(
        [
            _name(row),
            f"median {digits(row.summary.median_ms)} ms",
            f"top-1 {row.top1:.2f} %{source}",
            "on the Pareto front" if on_front else "not on the Pareto front",
        ]
    )


def _name(row: Row) -> str:
    batch = f", batch {row.record.batch}" if row.record.batch > 1 else ""
    return f"{_short(row.model, 80)}{batch}{'' if row.steady else ' (unsteady)'}"


def _labels(places: Sequence[tuple[float, float]], names: Sequence[str], frame: _Frame) -> list[dict[str, Any]]:
    """Place a name beside each point if there is room; the tooltip has the others."""
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
            inside = space[0] > 58 and space[2] < frame.right and space[1] > 12 and space[3] < frame.bottom
            if inside and not any(
                a < space[2] and space[0] < c and b < space[3] and space[1] < d for a, b, c, d in taken
            ):
                taken.append(space)
                found.append({"text": name, "anchor": anchor, "x": round(place, 1), "y": round(baseline, 1)})
                break
    return found


def _short(name: str, longest: int = _LONGEST) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"
