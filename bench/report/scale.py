"""Scales: positions of values and ticks on an axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Scale", "latency_scale", "linear_scale"]

# Ticks are rounded to ten decimals; a narrower range counts as a single value.
_NARROWEST = 1e-8
# Beyond this ratio of the largest to the smallest value, the small ones would coincide.
_LINEAR_UP_TO = 6.0


@dataclass(frozen=True)
class Scale:
    """An axis from `low` to `high`, drawn from `begin` to `end` in pixels."""

    low: float
    high: float
    begin: float
    end: float
    log: bool
    ticks: tuple[float, ...]

    def __call__(self, value: float) -> float:
        """Return the position of `value`, rounded to a tenth of a pixel."""
        share = (
            math.log(value / self.low) / math.log(self.high / self.low)
            if self.log
            else (value - self.low) / (self.high - self.low)
        )
        return round(self.begin + share * (self.end - self.begin), 1)


def linear_scale(
    values: Sequence[float], begin: float, end: float, *, zero: bool = False, whole: bool = False
) -> Scale:
    """Return a linear scale with round ends around all values, starting at 0 if `zero`.

    A scale of `whole` numbers has integer ticks, and ends at the smallest and largest value.
    """
    low, high = (0.0 if zero else min(values)), max(values)
    if high - low <= _NARROWEST:
        low, high = low - 0.5, high + 0.5
    step = _step((high - low) / 5)
    if whole:
        step = max(1.0, math.ceil(step))
        ticks = tuple(step * index for index in range(math.ceil(low / step), math.floor(high / step) + 1))
        return Scale(low, high, begin, end, False, ticks)
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = tuple(round(index * step, 10) for index in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], begin, end, False, ticks)


def latency_scale(values: Sequence[float], begin: float, end: float, *, log: bool = False) -> Scale:
    """Return a linear scale from 0 if the values, all above 0, are close to each other, else a logarithmic one.

    `log` forces a logarithmic scale that ends at whole powers of 10.
    """
    low, high = min(values), max(values)
    if high / low <= _LINEAR_UP_TO and not log:
        return linear_scale(values, begin, end, zero=True)
    steps = (1, 2, 5) if high / low < 2_000 and not log else (1,)
    powers = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    marks = [step * 10.0**power for power in powers for step in steps]
    first = max(mark for mark in marks if mark <= low)
    last = min((mark for mark in marks if mark >= high), default=marks[-1])
    ticks = tuple(mark for mark in marks if first <= mark <= last)
    if first == last:
        first, last = first / 10, last * 10
        ticks = (first, *ticks, last)
    return Scale(first, last, begin, end, True, ticks)


def _step(raw: float) -> float:
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= raw * (1 - 1e-9))
