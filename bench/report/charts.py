"""Charts, drawn as SVG that takes its colours from the page: latency against accuracy, and the spread of samples."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from irepdeploy.board.protocol import percentile
from irepdeploy.runs.pareto_front import pareto_front

from .columns import digits
from .markup import Html, join, tag
from .row import Row
from .scale import Scale, latency_scale, linear_scale

__all__ = ["box_plots", "scatter"]

_WIDTH = 720
# Of the page's small type, on average.
_CHARACTER = 7.0
_LONGEST = 26


def scatter(rows: Sequence[Row], title: str) -> Html | None:
    """Accuracy against median latency, the Pareto front joined; None below two models whose accuracy is known."""
    shown = [row for row in rows if row.top1 is not None]
    if len({row.model for row in shown}) < 2:
        return None
    points = [(row.summary.median_ms, row.top1 or 0.0) for row in shown]
    front = pareto_front(points)
    height, left, right, top, bottom = 384, 56, 20, 26, 46
    x = latency_scale([point[0] for point in points], left, _WIDTH - right)
    y = linear_scale([point[1] for point in points], height - bottom, top)
    steps = "".join(
        f"M{x(points[a][0])} {y(points[a][1])}H{x(points[b][0])}V{y(points[b][1])}"
        for a, b in itertools.pairwise(front)
    )
    places = [(x(a), y(b)) for a, b in points]
    labels = _labels(places, [_short(row.model) for row in shown], _WIDTH - right, height - bottom)
    marks = [
        _mark(
            tag("circle", cx=px, cy=py, r=11, class_="hit"),
            tag("circle", cx=px, cy=py, r=5.5, class_="dot front" if index in front else "dot"),
            tip=_point_tip(row, index in front),
        )
        for index, (row, (px, py)) in enumerate(zip(shown, places, strict=True))
    ]
    return _svg(
        height,
        title,
        _horizontal(y, left, _WIDTH - right),
        _vertical(x, top, height - bottom),
        tag(
            "text",
            "median latency, ms" + (" (logarithmic)" if x.log else ""),
            x=_WIDTH - right,
            y=height - 8,
            class_="axis end",
        ),
        tag("text", "top-1, %", x=left - 44, y=11, class_="axis"),
        tag("path", d=steps, class_="pareto") if steps else Html(""),
        *labels,
        *marks,
    )


def box_plots(rows: Sequence[Row], title: str) -> Html:
    """The samples of each row: quartiles, whiskers to the last within 1.5 box lengths, and all beyond as dots."""
    boxes = [_Box.of(row) for row in rows]
    left, right, top, step = 226, 20, 10, 26
    height = top + step * len(boxes) + 44
    x = latency_scale([value for box in boxes for value in (box.low, box.high)], left, _WIDTH - right)
    lines = [
        _vertical(x, top, top + step * len(boxes)),
        tag("text", "ms" + (" (logarithmic)" if x.log else ""), x=_WIDTH - right, y=height - 6, class_="axis end"),
    ]
    for index, box in enumerate(boxes):
        middle = top + step * index + step / 2
        dots = dict.fromkeys(x(value) for value in box.beyond)
        lines.append(
            _mark(
                tag("rect", x=0, y=middle - step / 2, width=_WIDTH, height=step, class_="hit"),
                tag("text", _short(box.row.model, 34), x=left - 12, y=middle + 4, class_="label end"),
                tag("path", d=f"M{x(box.whisker_low)} {middle}H{x(box.whisker_high)}", class_="whisker"),
                tag(
                    "rect",
                    x=x(box.q1),
                    y=middle - 7,
                    width=max(1.0, round(x(box.q3) - x(box.q1), 1)),
                    height=14,
                    class_="box",
                ),
                tag("path", d=f"M{x(box.median)} {middle - 9}V{middle + 9}", class_="median"),
                *(tag("circle", cx=place, cy=middle, r=1.8, class_="beyond") for place in dots),
                tip=box.tip(),
            )
        )
    return _svg(height, title, *lines)


@dataclass(frozen=True)
class _Box:
    """Milliseconds; every one of them but the whiskers' reach is a sample that was taken."""

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


def _mark(*shapes: Html, tip: str) -> Html:
    """Something with a tooltip, by pointer and by keyboard."""
    return tag("g", *shapes, class_="mark", tabindex="0", role="img", aria_label=tip.replace("\n", ", "), data_tip=tip)


def _svg(height: float, title: str, *children: Html) -> Html:
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {_WIDTH} {height}",
        width=_WIDTH,
        height=height,
        role="group",
        aria_label=title,
        class_="chart",
    )


def _horizontal(y: Scale, left: float, right: float) -> Html:
    return join(
        [
            join(
                [
                    tag("path", d=f"M{left} {y(mark)}H{right}", class_="grid"),
                    tag("text", f"{mark:g}", x=left - 8, y=y(mark) + 4, class_="tick end"),
                ]
            )
            for mark in y.ticks
        ]
    )


def _vertical(x: Scale, top: float, bottom: float) -> Html:
    return join(
        [
            join(
                [
                    tag("path", d=f"M{x(mark)} {top}V{bottom}", class_="grid"),
                    tag("text", f"{mark:g}", x=x(mark), y=bottom + 16, class_="tick middle"),
                ]
            )
            for mark in x.ticks
        ]
    )


def _labels(places: Sequence[tuple[float, float]], names: Sequence[str], right: float, bottom: float) -> list[Html]:
    """A name beside each point where there is room; the tooltip has those for which there is none."""
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
            inside = space[0] > 58 and space[2] < right and space[1] > 12 and space[3] < bottom
            if inside and not any(
                a < space[2] and space[0] < c and b < space[3] and space[1] < d for a, b, c, d in taken
            ):
                taken.append(space)
                where = {"x": round(place, 1), "y": round(baseline, 1)}
                found.append(tag("text", name, **where, class_=f"label {anchor}", aria_hidden="true"))
                break
    return found


def _short(name: str, longest: int = _LONGEST) -> str:
    return name if len(name) <= longest else name[: longest - 1] + "\N{HORIZONTAL ELLIPSIS}"
