"""A section of the report, independent of its format."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..charts.frame import Chart
from ..others import PlainTable

__all__ = ["Section"]


@dataclass(frozen=True)
class Section:
    """A section: its text, then its charts, then its tables.

    Args:
        key: Id in the page.
        text: Explanation for readers.
        claims: Results as sentences, each derived from the figures.
        pictures: (name, PNG) of the pictures of the section.
    """

    key: str
    title: str
    text: str = ""
    claims: tuple[str, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[PlainTable, ...] = ()
    pictures: tuple[tuple[str, bytes], ...] = ()

    def without(self, chart: Chart | None) -> Section:
        """Return the section without a chart that the page shows elsewhere."""
        return self if chart is None else replace(self, charts=tuple(each for each in self.charts if each != chart))
