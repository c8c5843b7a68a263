"""The content of a report, independent of its format."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from irepdeploy.errors import counted

from .columns import when
from .devices import Comparison, comparisons_of
from .figures import Figure, figures
from .gather import Certified, gather
from .others import PlainTable, plain_tables
from .scores import score_table
from .tables import Table, tables_of

__all__ = ["Content", "content_of"]


@dataclass(frozen=True)
class Content:
    """Everything that a report says. `lede` is one sentence on what it contains."""

    title: str
    lede: str
    notes: list[str]
    tables: list[Table]
    comparisons: list[Comparison]
    others: list[PlainTable]
    scores: PlainTable | None
    figures: list[Figure]
    certificates: list[Certified]


def content_of(places: Sequence[str | os.PathLike[str]], title: str = "Latency report") -> Content:
    """Read folders and files and return the content of their report."""
    found = gather(places)
    tables = tables_of(found.records)
    others, left = plain_tables(found.others)
    if left:
        found.notes.append(f"Not shown, since they hold neither samples nor figures: {', '.join(left)}.")
    pictures = figures(found.folders, found.note)
    scores = score_table(found.folders, found.note)
    return Content(
        title=title,
        lede=_lede(tables, len(others), len(found.certificates), 0 if scores is None else len(scores.rows)),
        notes=[*_notes(tables), *found.notes],
        tables=tables,
        comparisons=comparisons_of(tables),
        others=others,
        scores=scores,
        figures=pictures,
        certificates=found.certificates,
    )


def _lede(tables: Sequence[Table], others: int, certificates: int, scores: int) -> str:
    records = [record for table in tables for record in table.records]
    parts = []
    if records:
        times = sorted(when(record.created) for record in records)
        same_day = times[0][:10] == times[-1][:10]
        last = times[-1][11:] if same_day else times[-1]
        span = times[0] if times[0] == times[-1] else f"{times[0]} to {last}"
        models = len({row.model for table in tables for row in table.rows})
        devices = len({table.device for table in tables})
        parts.append(
            f"{counted(len(records), 'measurement')} of {counted(models, 'model')} on {counted(devices, 'device')}, "
            f"taken {span} UTC"
        )
    parts += [counted(others, "other table")] if others else []
    parts += [counted(certificates, "certificate")] if certificates else []
    parts += [counted(scores, "score")] if scores else []
    return "; ".join(parts) + "."


def _notes(tables: Sequence[Table]) -> list[str]:
    rows = [row for table in tables for row in table.rows]
    versions = sorted({table.protocol for table in tables})
    notes = []
    if len(versions) > 1:
        notes.append(
            f"The records are of protocol versions {' and '.join(map(str, versions))}: they stand apart, and nothing "
            "here compares figures of one with figures of another."
        )
    unsteady = sum(not row.steady for row in rows)
    if unsteady:
        notes.append(f"{unsteady} of {counted(len(rows), 'row')} are marked unsteady: the device was not quiet enough.")
    throttled = sum(bool(row.throttled) for row in rows)
    if throttled:
        notes.append(f"{throttled} of {counted(len(rows), 'row')} were measured while the device throttled.")
    if any("not measured" in row.top1_source for row in rows):
        notes.append("Accuracies labelled 'paper, not measured' are published figures; nothing here repeats them.")
    if any("random weights" in row.record.source for row in rows):
        notes.append(
            "Some networks have random weights: this does not change latencies, but their outputs mean nothing."
        )
    return notes
