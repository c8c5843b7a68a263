"""A row of a table, derived from the raw samples of a record."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from irepdeploy.board.protocol import Ratio, Summary, summary
from irepdeploy.runs.record import Record

from .charts.frame import short
from .gap import tied

__all__ = ["Row", "rows_of"]


@dataclass(frozen=True)
class Row:
    """A model in a table. A record has several rows if its network is listed under several names.

    Attributes:
        reference: Record that ratios are relative to, of the same run if possible.
        top1: Accuracy in percent.
        paper_ms: Latency in the paper.
        measured: Whether this is the first row of its record.
    """

    record: Record
    model: str
    reference: Record
    family: str = ""
    top1: float | None = None
    top1_source: str = ""
    paper_ms: float | None = None
    notes: tuple[str, ...] = ()
    same_as: tuple[str, ...] = ()
    measured: bool = True
    reference_paper_ms: float | None = None

    @cached_property
    def summary(self) -> Summary:
        """Statistics of times measured by the host."""
        return summary(self.record.samples_ns)

    @cached_property
    def device_summary(self) -> Summary | None:
        """Statistics of times measured by the device, if available."""
        return summary(self.record.device_samples_ns) if self.record.device_samples_ns else None

    @property
    def paired(self) -> bool:
        """Whether the samples and those of the reference come from the same rounds."""
        return self.record.is_paired_with(self.reference)

    @cached_property
    def ratio(self) -> Ratio | None:
        """The ratio to the reference; None in its own row."""
        return None if self.record is self.reference else self.record.ratio_to(self.reference)

    @property
    def is_tie(self) -> bool:
        """Whether the row ties with the reference; False in the reference's own row."""
        return self.ratio is not None and tied(self.ratio)

    @property
    def span(self) -> tuple[float, float]:
        """Interval of the median in ms, from the ratio to the reference; for the reference itself, just its median."""
        median, found = self.summary.median_ms, self.ratio
        if found is None or found.low is None or found.high is None:
            return median, median
        return median * found.low / found.value, median * found.high / found.value

    @property
    def paper_ratio(self) -> float | None:
        """The same ratio from the paper's latencies."""
        if self.paper_ms is None or not self.reference_paper_ms:
            return None
        return self.paper_ms / self.reference_paper_ms

    @property
    def full_name(self) -> str:
        """The model with its batch size, if that is not 1, and whether it was unsteady, for tooltips."""
        batch = f", batch {self.record.batch}" if self.record.batch > 1 else ""
        return f"{short(self.model, 80)}{batch}{'' if self.steady else ' (unsteady)'}"

    @property
    def steady(self) -> bool:
        """Whether the warm-up reached its limit of spread."""
        return self.record.warmup.get("steady") is True

    @property
    def throttled(self) -> str:
        """The cause of throttling during the measurement, or "" if none is known."""
        value = self.record.system_after.get("throttling", self.record.system_after.get("throttled"))
        if value is True:
            return "yes"
        return (
            value if isinstance(value, str) and value.lower() not in ("", "no", "none", "unknown", "not active") else ""
        )

    @property
    def images_per_second(self) -> float:
        """Throughput at the median latency."""
        return self.record.batch * 1e3 / self.summary.median_ms

    def fact(self, name: str) -> float | None:
        """Return a number from the record's facts."""
        return _number(self.record.facts.get(name))

    @property
    def energy_mj(self) -> float | None:
        """Energy of one inference in millijoules."""
        return _number(self.record.power.get("energy_mj_per_inference"))


def rows_of(record: Record, reference: Record) -> list[Row]:
    """Return the rows of a record, one per entry of ``facts["rows"]``: an object with a name and its figures."""
    entries = record.facts.get("rows")
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) and "name" in entry for entry in entries):
        entries = []
    if not entries:
        row = _row(record, record.model, record.facts, reference)
        names = record.facts.get("names")
        others = [str(name) for name in names if str(name) != record.model] if isinstance(names, list) else []
        return [replace(row, same_as=tuple(others))]
    rows = [_row(record, str(entry["name"]), entry, reference) for entry in entries]
    names = [row.model for row in rows]
    return [
        replace(row, same_as=tuple(name for name in names if name != row.model), measured=index == 0)
        for index, row in enumerate(rows)
    ]


def _row(record: Record, model: str, figures: Mapping[str, Any], reference: Record) -> Row:
    source, family, notes = (figures.get(key) for key in ("top1_source", "family", "notes"))
    return Row(
        record=record,
        model=model,
        reference=reference,
        family=family if isinstance(family, str) else "",
        top1=_number(figures.get("top1")),
        top1_source=source if isinstance(source, str) else "",
        paper_ms=_positive(figures.get("paper_ms")),
        notes=tuple(map(str, notes)) if isinstance(notes, list) else (notes,) if isinstance(notes, str) else (),
    )


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:
        return None


def _positive(value: object) -> float | None:
    number = _number(value)
    return number if number is not None and number > 0 else None
