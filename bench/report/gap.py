"""Difference of two figures with its interval, and whether it exceeds noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

from irepdeploy.board.protocol import Ratio

__all__ = ["Gap", "tied"]


@dataclass(frozen=True)
class Gap:
    """A difference with its 95 % interval, which is None if a single value gives no estimate of noise.

    Args:
        unit: Suffix of the figures: " points", or "".
        alone: Whether the interval excludes 0, but not at the level corrected for all comparisons of the table.
    """

    value: float
    low: float | None = None
    high: float | None = None
    unit: str = ""
    alone: bool = False

    @classmethod
    def between(
        cls, one: float, ends: tuple[float, float] | None, base: float, base_ends: tuple[float, float] | None, unit: str
    ) -> Gap:
        """Return `one` minus `base`, two independent figures; half-widths of their intervals add in quadrature."""
        if ends is None or base_ends is None:
            return cls(one - base, unit=unit)
        down = math.hypot(one - ends[0], base_ends[1] - base)
        up = math.hypot(ends[1] - one, base - base_ends[0])
        return cls(one - base, one - base - down, one - base + up, unit)

    @property
    def known(self) -> bool:
        """Whether there is an interval."""
        return self.low is not None and self.high is not None

    @property
    def is_tie(self) -> bool:
        """Whether the interval contains 0."""
        return self.low is not None and self.high is not None and self.low <= 0 <= self.high

    @property
    def look(self) -> str:
        """The verdict for charts."""
        return "" if not self.known else "tie" if self.is_tie else "better" if self.value > 0 else "worse"

    @property
    def verdict(self) -> str:
        """The verdict in words."""
        if not self.known:
            return "noise not known"
        return f"{self.look}, before correction" if self.alone and not self.is_tie else self.look

    @property
    def text(self) -> str:
        """The difference with its interval."""
        form = ".2f" if abs(self.value) >= 0.05 or self.unit else ".4f"
        if self.low is None or self.high is None:
            return f"{self.value:+{form}}{self.unit}"
        return f"{self.value:+{form}}{self.unit} [{self.low:+{form}}, {self.high:+{form}}]"


def tied(found: Ratio | None) -> bool:
    """Return whether the interval of a ratio contains 1; a figure always ties with itself."""
    if found is None:
        return True
    return found.low is not None and found.high is not None and found.low <= 1 <= found.high
