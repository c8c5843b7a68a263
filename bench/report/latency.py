"""A latency table on the page: rows, claims, charts and conditions."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from typing import Any

from .charts.boxes import box_plots
from .charts.scatter import Point, scatter
from .claims import claims_of
from .columns import columns_of, digits, when
from .row import Row
from .tables import Table
from .templates import Markup

__all__ = ["accuracy_chart", "latency_section"]

_UNSTEADY = "unsteady: the warm-up reached its limit before the spread of a window fell below 2.5 %; read with care."
_UNPAIRED = "*: compared with another run; its samples and the reference's were drawn independently."
_GRAPH = "graph: rows of one number are one and the same graph, and were measured once."


def latency_section(table: Table) -> dict[str, Any]:
    """Return a table and everything below it as values of the template."""
    rows = table.rows
    sources = sorted({row.top1_source for row in rows if row.top1 is not None} - {""})
    marks = {_UNSTEADY: "steady", _UNPAIRED: "paired", _GRAPH: "measured"}
    return {
        "table": table,
        "columns": columns_of(table),
        "fastest": [row.record for row in table.fastest],
        "notes": list(dict.fromkeys(note for row in rows for note in row.notes)),
        "legend": [text for text, name in marks.items() if not all(getattr(row, name) for row in rows)],
        "claims": claims_of(table),
        "scatter": accuracy_chart(rows, f"Accuracy against latency, table {table.number}"),
        "accuracies": f" Accuracy: {'; '.join(sources)}." if sources else "",
        "boxes": box_plots([row for row in rows if row.measured], f"Spread of the samples, table {table.number}"),
        "conditions": _conditions(table),
    }


def accuracy_chart(rows: Sequence[Row], title: str) -> Markup | None:
    """Draw accuracy against median latency, with the Pareto front connected.

    Returns:
        One SVG element, or None if fewer than two models have a known accuracy.
    """
    shown = [row for row in rows if row.top1 is not None]
    if len({row.model for row in shown}) < 2:
        return None
    points = []
    for row in shown:
        source = f" ({row.top1_source})" if row.top1_source else ""
        tip = f"{row.full_name}\nmedian {digits(row.summary.median_ms)} ms\ntop-1 {row.top1:.2f} %{source}"
        points.append(Point(row.model, row.summary.median_ms, row.top1 or 0.0, tip, costs=row.span))
    return scatter(points, title, "median latency, ms", "top-1, %", narrow=False)


def _conditions(table: Table) -> list[tuple[str, str]]:
    records = table.records
    known = dict(table.conditions)
    keys = dict.fromkeys(str(key) for record in records for key in record.conditions)
    limits = {key.replace("_", " "): _values(record.conditions.get(key) for record in records) for key in keys}
    facts = {
        **known,
        **{key: value for key, value in limits.items() if key not in known},
        "made from": _values(record.source for record in records),
        "provider": _values(record.runner.get("provider") for record in records),
        "taken, UTC": ", ".join(map(when, table.runs)),
    }
    commands = dict.fromkeys(shlex.join(map(str, record.argv)) for record in records)
    return [*((name, value) for name, value in facts.items() if value), *(("command", each) for each in commands)]


def _values(found: Iterable[object]) -> str:
    return " | ".join(dict.fromkeys(str(value) for value in found if isinstance(value, str | int | float)))
