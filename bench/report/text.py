"""Tables for other programs: CSV with one line per row, JSON and Markdown."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

from .claims import claims_of
from .columns import columns_of
from .devices import Comparison
from .others import PlainTable
from .row import Row
from .sections.section import Section
from .tables import Table
from .templates import clean

__all__ = ["csv_text", "markdown_grid", "markdown_table", "markdown_text", "row_json"]

_FORMULA = ("=", "+", "-", "@")


def row_json(table: Table, row: Row) -> dict[str, Any]:
    """Return a row as a flat JSON object with units in its names; unknown values are None."""
    numbers, found, device = row.summary, row.ratio, row.device_summary
    return {
        "protocol_version": table.protocol,
        "device": table.device,
        "suite": table.suite,
        "scenario": table.scenario,
        "runner": table.runner,
        "precision": table.precision,
        "input_shape": "x".join(map(str, row.record.input_shape)),
        "batch": row.record.batch,
        "conditions": "; ".join(f"{name} {value}" for name, value in table.conditions),
        "model": row.model,
        "family": row.family or None,
        "same_as": "; ".join(row.same_as) or None,
        "median_ms": numbers.median_ms,
        "mean_ms": numbers.mean_ms,
        "min_ms": numbers.min_ms,
        "p90_ms": numbers.p90_ms,
        "p99_ms": numbers.p99_ms,
        "cov": numbers.cov,
        "n": numbers.n,
        "device_median_ms": None if device is None else device.median_ms,
        "steady": row.steady,
        "throttled": row.throttled or None,
        "reference": table.reference.model,
        "ratio": 1.0 if found is None else found.value,
        "ratio_low": None if found is None else found.low,
        "ratio_high": None if found is None else found.high,
        "ratio_paired": row.paired,
        "paper_ms": row.paper_ms,
        "top1_percent": row.top1,
        "top1_source": row.top1_source or None,
        "params": row.fact("params"),
        "macs": row.fact("macs"),
        "energy_mj_per_inference": row.energy_mj,
        "notes": "; ".join(row.notes) or None,
        "artefact_sha256": row.record.artefact_sha256,
        "created": row.record.created,
    }


def csv_text(tables: Sequence[Table]) -> str:
    """Return CSV (RFC 4180) with a header; text that a spreadsheet could read as a formula is prefixed with '."""
    lines = [row_json(table, row) for table in tables for row in table.rows]
    out = io.StringIO()
    if lines:
        writer = csv.DictWriter(out, list(lines[0]))
        writer.writeheader()
        writer.writerows({key: _cell(value) for key, value in line.items()} for line in lines)
    return out.getvalue()


def markdown_text(
    title: str,
    notes: Sequence[str],
    tables: Sequence[Table],
    comparisons: Sequence[Comparison],
    scores: PlainTable | None = None,
    sections: Sequence[Section] = (),
) -> str:
    """Return a report in Markdown.

    Latency tables come first, with their claims, under headings of device and suite; then the scores of runs, and the
    tables and claims of other `sections`.
    """
    parts = [f"# {_plain(title)}", *(f"- {_plain(note)}" for note in notes)]
    before: Table | None = None
    for table in tables:
        if before is None or before.home != table.home:
            parts.append(f"## {_plain(table.device)}, protocol version {table.protocol}")
        if before is None or before.chapter != table.chapter:
            parts.append(f"### {_plain(table.suite)}, {_plain(table.scenario)}")
        before = table
        parts.append(f"**Table {table.number}.** {_plain(table.title)}")
        parts.append(markdown_table(table))
        parts += [f"- {_plain(claim)}" for claim in claims_of(table)]
    if comparisons:
        parts.append("## Differences between devices")
    for comparison in comparisons:
        parts.append(f"**{_plain(comparison.title)}**")
        parts.append(
            markdown_grid(
                ["model", *comparison.columns], comparison.cells(), [True] + [False] * len(comparison.columns)
            )
        )
        parts += [f"- {_plain(claim)}" for claim in comparison.claims]
    if scores is not None:
        parts.append(f"## {_plain(scores.title)}")
        parts.append(markdown_grid(scores.columns, scores.rows, [True] * len(scores.columns)))
    for section in sections:
        parts += [f"## {_plain(section.title)}", *(f"- {_plain(claim)}" for claim in section.claims)]
        for each in section.tables:
            parts.append(f"**{_plain(each.title)}**")
            parts.append(markdown_grid(each.columns, each.rows, [words for _, words in each.heads]))
    return _spaced(parts)


def markdown_table(table: Table) -> str:
    """Return one table in Markdown."""
    columns = columns_of(table)
    cells = [list(row) for row in zip(*(column.cells for column in columns), strict=True)]
    for index, column in enumerate(columns):
        if column.key == "model":
            for row, line in zip(table.rows, cells, strict=True):
                line[index] += "" if row.steady else " (unsteady)"
    return markdown_grid([column.head for column in columns], cells, [column.text for column in columns])


def markdown_grid(heads: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[bool]) -> str:
    """Return a Markdown table; columns of `words` are left-aligned."""
    marks = [":---" if text else "---:" for text in words]
    lines = [[_plain(head) for head in heads], marks, *([_plain(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _plain(text: str) -> str:
    """Escape text so that Markdown shows it verbatim."""
    escaped = re.sub(r"([\\`*_|~])", r"\\\1", clean(text)).replace("](", "]\\(")
    return escaped.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _spaced(parts: Sequence[str]) -> str:
    """Join parts by blank lines, except between items of a list."""
    text = ""
    for before, part in zip(["", *parts], parts, strict=False):
        text += ("" if not before else "\n" if before.startswith("- ") and part.startswith("- ") else "\n\n") + part
    return text + "\n"


def _cell(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = clean(value)
    return f"'{text}" if text.startswith(_FORMULA) else text
