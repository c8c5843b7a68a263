"""Mean and standard deviation of a figure over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spread"]


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds; the latter is None for a single seed."""

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
