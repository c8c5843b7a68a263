"""A row of a latency table: the figures of the paper and our measurement under each condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from irepdeploy.board.protocol import Ratio, Summary, summary
from irepdeploy.runs.record import Record

from .condition import Condition

__all__ = ["LatencyRow", "Measured", "Taken", "columns"]

# Keyed by label and title of the condition.
Taken = Mapping[tuple[str, str], Record]


@dataclass(frozen=True)
class Measured:
    """A latency and its ratio to the reference under the same condition; None in the reference's own row."""

    summary: Summary
    ratio: Ratio | None
    steady: bool

    @classmethod
    def of(cls, record: Record, reference: Record | None) -> Measured:
        """Compare a record with the reference of the same run."""
        against = None if reference is None or reference is record else record.ratio_to(reference)
        return cls(summary(record.samples_ns), against, bool(record.warmup.get("steady")))

    @property
    def cells(self) -> list[str]:
        """The median and the ratio as text."""
        value = self.ratio
        if value is None:
            text = "1"
        elif value.low is None or value.high is None:
            text = f"{value.value:.2f}"
        else:
            text = f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"
        return [f"{self.summary.median_ms:.3f}{'' if self.steady else ' u'}", text]


@dataclass(frozen=True)
class LatencyRow:
    """A variant of a row of the paper, or a user's network.

    Attributes:
        family: Family of the paper's row, or "yours".
        graph: Mark of the graph; rows with the same mark were measured once. "" if unknown.
        top1: Accuracy in percent.
        paper_ms: Latency in the paper, if it belongs to this variant.
        paper_ratio: `paper_ms` relative to the reference's.
    """

    label: str
    family: str
    graph: str = ""
    params: int | None = None
    top1: float | None = None
    top1_source: str = ""
    paper_ms: float | None = None
    paper_ratio: float | None = None
    measured: Mapping[str, Measured] = field(default_factory=dict)

    def cells(self, conditions: Sequence[Condition]) -> list[str]:
        """Return the row as text, in the order of `columns`."""
        found = [
            self.label,
            self.graph or "-",
            "-" if self.params is None else f"{self.params / 1e6:.2f}",
            "-" if self.top1 is None else f"{self.top1:.2f}",
            "-" if self.paper_ms is None else f"{self.paper_ms:g}",
            "-" if self.paper_ratio is None else f"{self.paper_ratio:.2f}",
        ]
        for condition in conditions:
            here = self.measured.get(condition.title)
            found += ["-", "-"] if here is None else here.cells
        return found

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object with units in its names."""
        figures = {name: value for name, value in vars(self).items() if name not in ("label", "measured")}
        return {
            "name": self.label,
            **figures,
            "measured": {
                title: {
                    **here.summary._asdict(),
                    "ratio": None if here.ratio is None else here.ratio._asdict(),
                    "steady": here.steady,
                }
                for title, here in self.measured.items()
            },
        }


def columns(conditions: Sequence[Condition]) -> list[str]:
    """Return the headings of `LatencyRow.cells`."""
    heads = ["network", "graph", "params M", "top-1 %", "paper ms", "paper x"]
    return [*heads, *(text for each in conditions for text in (f"{each.title} ms", "x"))]
