"""Box plots: the spread of samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from irepdeploy.board.protocol import percentile

from ..columns import digits
from ..row import Row
from ..scale import latency_scale
from ..templates import Markup, macro
from .frame import TEMPLATE, Frame, short

__all__ = ["box_plots"]


def box_plots(rows: Sequence[Row], title: str) -> Markup:
    """Draw the samples of each row as quartiles, whiskers up to 1.5 box lengths, and outliers as dots."""
    boxes = [_Box.of(row) for row in rows]
    bottom = 10 + 26 * len(boxes)
    frame = Frame(height=bottom + 44, left=226, right=700, top=10, bottom=bottom)
    x = latency_scale([value for box in boxes for value in (box.low, box.high)], frame.left, frame.right)
    return macro(TEMPLATE, "box_plots")(title, frame, x, boxes)


@dataclass(frozen=True)
class _Box:
    """Five-number summary and outliers of a row's samples, in milliseconds; each number is an actual sample."""

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
        return short(self.row.model, 34)

    @property
    def tip(self) -> str:
        return "\n".join(
            [
                self.row.full_name,
                f"median {digits(self.median)} ms",
                f"quartiles {digits(self.q1)} and {digits(self.q3)} ms",
                f"least {digits(self.low)}, most {digits(self.high)} ms",
                f"{len(self.row.record.samples_ns)} samples, {len(self.beyond)} beyond the whiskers",
            ]
        )
