"""Mean, standard deviation and interval of a figure over seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spread", "student_interval"]


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds; the deviation is None for a single seed."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of one value per seed."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    @property
    def text(self) -> str:
        """Format as "93.10 +- 0.40"."""
        return f"{self.mean:.2f}" + ("" if self.deviation is None else f" +- {self.deviation:.2f}")

    @property
    def signed(self) -> str:
        """Format as "+0.30 +- 0.40"."""
        return f"{self.mean:+.2f}" + ("" if self.deviation is None else f" +- {self.deviation:.2f}")


def student_interval(values: Sequence[float], level: float = 0.95) -> tuple[float, float] | None:
    """Return the confidence interval of the mean by Student's t; None for fewer than two values.

    Args:
        values: One value per seed, independent and approximately normally distributed, such as paired differences.
        level: Confidence level of the two-sided interval.
    """
    if len(values) < 2:
        return None
    from scipy.special import stdtrit

    half = float(stdtrit(len(values) - 1, 0.5 + level / 2)) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - half, mean + half
