"""One table of latencies on the page: rows, what they say in words, charts, conditions."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence

from .charts import box_plots, scatter
from .claims import claims_of
from .columns import Column, columns_of, when
from .grid import definitions, listed, scroll
from .markup import Html, join, tag
from .row import Row
from .tables import Table

__all__ = ["latency_section"]

_UNSTEADY = (
    "unsteady: the warm-up came to its limit before the spread of a window fell below 2.5 %; take the row with care."
)
_UNPAIRED = "*: held against another run; its samples and the reference's were drawn apart."
_GRAPH = "graph: rows of one number are one and the same graph, and were measured once."
_BOXES = (
    "Box: quartiles, the bar is the median. Whiskers: the last sample within 1.5 box lengths. "
    "Circles: every sample beyond."
)


def latency_section(table: Table, certificates: Mapping[str, str]) -> Html:
    """A table with everything below it.

    Args:
        certificates: addresses of certificates by the digest of what they certify.
    """
    name = f"table {table.number}"
    notes = list(dict.fromkeys(note for row in table.rows for note in row.notes))
    legend = [] if all(row.steady for row in table.rows) else [_UNSTEADY]
    legend += [] if all(row.paired for row in table.rows) else [_UNPAIRED]
    legend += [] if all(row.measured for row in table.rows) else [_GRAPH]
    points = scatter(table.rows, f"Accuracy against latency, {name}")
    boxes = box_plots([row for row in table.rows if row.measured], f"Spread of the samples, {name}")
    return join(
        [
            scroll(_grid(table, notes, certificates), f"Table {table.number}"),
            listed(notes, "ol", class_="below"),
            *(tag("p", text, class_="below") for text in legend),
            listed(claims_of(table), class_="claims"),
            Html("") if points is None else _figure(points, f"Accuracy against latency, {name}.", _front(table)),
            _figure(boxes, f"Samples, {name}.", _BOXES),
            tag("details", tag("summary", f"Conditions of {name}"), definitions(_conditions(table))),
        ]
    )


def _grid(table: Table, notes: Sequence[str], certificates: Mapping[str, str]) -> Html:
    columns = columns_of(table)
    heads = [
        tag("th", each.head, scope="col", class_="words" if each.text else "number", title=each.hint or None)
        for each in columns
    ]
    fastest = min(row.summary.median_ms for row in table.rows)
    body = [
        tag("tr", *(_cell(column, index, row, fastest, notes, certificates) for column in columns))
        for index, row in enumerate(table.rows)
    ]
    caption = tag("caption", tag("b", f"Table {table.number}. "), table.title)
    head = tag("thead", tag("tr", *heads))
    return tag("table", caption, head, tag("tbody", *body), class_="sortable", id=table.anchor)


def _cell(
    column: Column, index: int, row: Row, fastest: float, notes: Sequence[str], certificates: Mapping[str, str]
) -> Html:
    value = column.values[index]
    shown = None if value in (None, "") else value
    if column.key == "model":
        return tag("th", *_model(row, notes, certificates), scope="row", data_value=shown)
    best = column.key == "median" and row.summary.median_ms == fastest
    style = "words" if column.text else "number best" if best else "number"
    return tag("td", column.cells[index], class_=style, data_value=shown)


def _model(row: Row, notes: Sequence[str], certificates: Mapping[str, str]) -> list[Html]:
    marks = ", ".join(str(notes.index(note) + 1) for note in row.notes)
    link = certificates.get(row.record.artefact_sha256 or "")
    # Names with rows of their own are told by the number of their graph.
    alone = "rows" not in row.record.facts
    others = tag("bdi", ", ".join(row.same_as))
    return [
        tag("bdi", row.model),
        tag("sup", marks) if marks else Html(""),
        Html("") if row.steady else tag("span", "unsteady", class_="badge"),
        tag("span", f"throttled: {row.throttled}", class_="badge") if row.throttled else Html(""),
        tag("span", "same graph as ", others, class_="aside") if row.same_as and alone else Html(""),
        tag("span", tag("a", "certificate", href=link), class_="aside") if link else Html(""),
    ]


def _front(table: Table) -> str:
    sources = sorted({row.top1_source for row in table.rows if row.top1 is not None} - {""})
    said = f" Accuracy: {'; '.join(sources)}." if sources else ""
    return f"Filled: on the Pareto front, no other model being as good in both and better in one.{said}"


def _figure(chart: Html, title: str, text: str) -> Html:
    return tag("figure", tag("figcaption", tag("b", title), " ", text), scroll(chart, title))


def _conditions(table: Table) -> list[tuple[object, object]]:
    """What whoever measures it again needs to know."""
    records = table.records
    known = dict(table.conditions)
    limits = {key.replace("_", " "): _values(record.conditions.get(key) for record in records) for key in _keys(table)}
    facts = {
        **known,
        **{key: value for key, value in limits.items() if value and key not in known},
        "made from": _values(record.source for record in records),
        "provider": _values(record.runner.get("provider") for record in records),
        "taken, UTC": ", ".join(map(when, table.runs)),
    }
    commands = dict.fromkeys(shlex.join(map(str, record.argv)) for record in records)
    return [
        *((name, value) for name, value in facts.items() if value),
        *(("command", tag("code", command)) for command in commands),
    ]


def _keys(table: Table) -> list[str]:
    return list(dict.fromkeys(str(key) for record in table.records for key in record.conditions))


def _values(found: Iterable[object]) -> str:
    """Each value once."""
    return " | ".join(dict.fromkeys(str(value) for value in found if isinstance(value, str | int | float)))
