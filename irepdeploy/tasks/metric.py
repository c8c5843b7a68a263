"""A metric, and the uncertainty of a score."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Interval", "Metric"]


@dataclass(frozen=True)
class Metric:
    """The name and unit of a score; higher is better.

    Args:
        name: Name, such as "accuracy" or "mIoU".
        unit: "%" for a share in [0, 1], which is shown in percent; scores in any other unit are shown unchanged.
    """

    name: str
    unit: str = ""

    def text(self, value: float) -> str:
        """Return a score as text, such as 93.80% or 0.8731."""
        # Imported here because the suites that time a step on a bare machine run without pydantic.
        from irepdeploy.runs.schema import MetricFacts

        return MetricFacts(name=self.name, unit=self.unit).text(value)


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval of a score over the choice of samples, and its method."""

    low: float
    high: float
    method: str
