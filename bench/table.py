"""What a table shows of records: derived from their raw samples when it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from irepdeploy.errors import InputError
from irepdeploy.record import Record
from irepdeploy.runtime.protocol import Ratio, Summary, ratio, summary

__all__ = ["COLUMNS", "Row", "by_protocol", "cells", "rows"]

COLUMNS = ["model", "runner", "median ms", "p90 ms", "spread", "x reference"]

# Same records, same table.
_SEED = 0


@dataclass(frozen=True)
class Row:
    """One record as a table shows it; `ratio` is None in the reference's own row."""

    model: str
    runner: str
    summary: Summary
    ratio: Ratio | None
    steady: bool

    def to_json(self) -> dict[str, Any]:
        """Flat, units in the names."""
        shown = {"model": self.model, "runner": self.runner, **self.summary._asdict(), "steady": self.steady}
        return {**shown, "ratio": None if self.ratio is None else self.ratio._asdict()}


def by_protocol(records: Sequence[Record]) -> dict[int, list[Record]]:
    """Records grouped by protocol version: those of different ones may not stand in one table."""
    groups: dict[int, list[Record]] = {}
    for record in records:
        groups.setdefault(record.protocol_version, []).append(record)
    return dict(sorted(groups.items()))


def rows(records: Sequence[Record]) -> list[Row]:
    """One row a record, in their order; the first is the reference of the ratios.

    Raises:
        InputError: records of different protocol versions.
    """
    versions = sorted(by_protocol(records))
    if len(versions) > 1:
        raise InputError(
            f"records of protocol versions {' and '.join(map(str, versions))} cannot stand in one table",
            where="table",
            hint="measure the older ones again",
        )
    return [
        Row(
            model=record.model,
            runner=str(record.runner.get("runner", "unknown")),
            summary=summary(record.samples_ns),
            ratio=None if record is records[0] else _ratio(record, records[0]),
            steady=bool(record.warmup.get("steady")),
        )
        for record in records
    ]


def cells(row: Row) -> list[object]:
    """The row as text, under `COLUMNS`."""
    numbers = row.summary
    return [
        row.model,
        row.runner,
        f"{numbers.median_ms:.3f}",
        f"n={numbers.n} < 64" if numbers.p90_ms is None else f"{numbers.p90_ms:.3f}",
        ("-" if numbers.cov is None else f"{numbers.cov:.1%}") + ("" if row.steady else " unsteady"),
        _ratio_text(row.ratio),
    ]


def _ratio(record: Record, reference: Record) -> Ratio:
    # Only samples of one run come from the same rounds.
    paired = record.created == reference.created and len(record.samples_ns) == len(reference.samples_ns)
    return ratio(record.samples_ns, reference.samples_ns, _SEED, paired=paired)


def _ratio_text(value: Ratio | None) -> str:
    if value is None:
        return "1 (reference)"
    if value.low is None or value.high is None:
        return f"{_digits(value.value)} (too few samples)"
    return f"{_digits(value.value)} [{_digits(value.low)}, {_digits(value.high)}]"


def _digits(value: float) -> str:
    return f"{value:#.3g}".rstrip(".")
