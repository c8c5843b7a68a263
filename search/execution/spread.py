"""The spread of a figure over seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Spread"]


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation over seeds, the latter None of a single one."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of these values, one a seed."""
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)

    @property
    def text(self) -> str:
        """ "93.1 +- 0.4"."""
        return f"{self.mean:.2f}" + ("" if self.deviation is None else f" +- {self.deviation:.2f}")

    @property
    def signed(self) -> str:
        """ "+0.3 +- 0.4"."""
        return f"{self.mean:+.2f}" + ("" if self.deviation is None else f" +- {self.deviation:.2f}")
