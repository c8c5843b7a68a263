"""A metric and its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Interval", "Metric"]


@dataclass(frozen=True)
class Metric:
    """Name and unit of a score; higher is better.

    Args:
        name: such as "accuracy" or "mIoU".
        unit: "%" for a share in [0, 1], which is shown in percent; otherwise the score is shown as it is.
    """

    name: str
    unit: str = ""

    def text(self, value: float) -> str:
        """Return a score as text, such as 93.80% or 0.8731."""
        # Here, because the suites that time a step on a bare machine have no pydantic.
        from irepdeploy.runs.schema import MetricFacts

        return MetricFacts(name=self.name, unit=self.unit).text(value)


@dataclass(frozen=True)
class Interval:
    """A 95 % interval of a score over the choice of samples, and how it was computed."""

    low: float
    high: float
    method: str
