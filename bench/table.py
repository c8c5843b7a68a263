"""Tables on the terminal, derived from the raw samples of records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from irepdeploy.board.protocol import Ratio, Summary, summary
from irepdeploy.errors import InputError
from irepdeploy.runs.record import Record

__all__ = ["BATCH_COLUMNS", "COLUMNS", "BatchRow", "Row", "batch_cells", "cells", "optimum", "rows"]

COLUMNS = ["model", "runner", "median ms", "p90 ms", "spread", "x reference"]
# Rows with a larger spread are unreliable, even if the warm-up settled.
_WIDE = 0.25
BATCH_COLUMNS = ["model", "runner", "best batch", "images/s", "ms per batch", "images/s by batch"]


@dataclass(frozen=True)
class Row:
    """A record in a table.

    Attributes:
        ratio: Ratio to the reference; None in the reference's own row.
    """

    model: str
    runner: str
    batch: int
    summary: Summary
    ratio: Ratio | None
    steady: bool
    device: Summary | None = None

    @property
    def images_per_second(self) -> float:
        """Throughput at the median latency."""
        return self.batch / self.summary.median_ms * 1000

    def to_json(self) -> dict[str, Any]:
        """Return a flat JSON object with units in its names."""
        shown = {"model": self.model, "runner": self.runner, "batch": self.batch, **self.summary._asdict()}
        return {
            **shown,
            "images_per_second": self.images_per_second,
            "device_median_ms": None if self.device is None else self.device.median_ms,
            "steady": self.steady,
            "ratio": None if self.ratio is None else self.ratio._asdict(),
        }


@dataclass(frozen=True)
class BatchRow:
    """A model on one runner over a sweep of batch sizes; `best` is the record with the highest throughput."""

    best: Row
    sweep: Sequence[Row]


def rows(records: Sequence[Record]) -> list[Row]:
    """Return one row per record, in order. Ratios are relative to the first record of the same batch size."""
    versions = sorted({record.protocol_version for record in records})
    if len(versions) > 1:
        raise InputError(
            f"records of protocol versions {' and '.join(map(str, versions))} cannot be in one table",
            where="table",
            hint="measure the older ones again",
        )
    references: dict[int, Record] = {}
    for record in records:
        references.setdefault(record.batch, record)
    return [
        Row(
            model=record.model,
            runner=str(record.runner.get("runner", "unknown")),
            batch=record.batch,
            summary=summary(record.samples_ns),
            ratio=None if record is references[record.batch] else record.ratio_to(references[record.batch]),
            steady=bool(record.warmup.get("steady")),
            device=summary(record.device_samples_ns) if record.device_samples_ns else None,
        )
        for record in records
    ]


def optimum(records: Sequence[Record]) -> list[BatchRow]:
    """Return the sweep of each model on each runner; `best` is the smallest batch size of highest throughput."""
    sweeps: dict[tuple[str, str], list[Row]] = {}
    for row in rows(records):
        sweeps.setdefault((row.model, row.runner), []).append(row)
    return [
        BatchRow(max(sweep, key=lambda row: (row.images_per_second, -row.batch)), sweep) for sweep in sweeps.values()
    ]


def cells(row: Row) -> list[object]:
    """Return the row as text, in the order of `COLUMNS`."""
    numbers = row.summary
    return [
        row.model,
        row.runner,
        f"{numbers.median_ms:.3f}",
        f"n={numbers.n} < 64" if numbers.p90_ms is None else f"{numbers.p90_ms:.3f}",
        ("-" if numbers.cov is None else f"{numbers.cov:.1%}") + _unsteady(row),
        _ratio_text(row.ratio),
    ]


def batch_cells(row: BatchRow) -> list[object]:
    """Return the row as text, in the order of `BATCH_COLUMNS`."""
    best = row.best
    return [
        best.model,
        best.runner,
        best.batch,
        f"{best.images_per_second:.1f}",
        f"{best.summary.median_ms:.3f}" + _unsteady(best),
        ", ".join(f"{each.batch}: {each.images_per_second:.1f}" for each in row.sweep),
    ]


def _unsteady(row: Row) -> str:
    return "" if row.steady and (row.summary.cov or 0) <= _WIDE else " unsteady"


def _ratio_text(value: Ratio | None) -> str:
    if value is None:
        return "1 (reference)"
    if value.low is None or value.high is None:
        return f"{_digits(value.value)} (too few samples)"
    return f"{_digits(value.value)} [{_digits(value.low)}, {_digits(value.high)}]"


def _digits(value: float) -> str:
    return f"{value:#.3g}".rstrip(".")
