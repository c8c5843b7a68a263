"""Comparison of devices on the models measured on several of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from irepdeploy.board.protocol import Ratio, ratio, summary
from irepdeploy.runs.record import Record

from .claims import order_claim
from .columns import digits, interval_text
from .gap import tied
from .tables import Table

__all__ = ["Comparison", "comparisons_of"]

_SEED = 0


@dataclass(frozen=True)
class Comparison:
    """Models that were measured alike on at least two devices.

    Attributes:
        title: Suite, scenario, runner, precision and input.
        columns: Device of each column, with further distinguishing conditions.
        rows: (model, median ms by column, ratio to the first column by column); None where not measured.
        claims: The results as sentences.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float | None, ...], tuple[Ratio | None, ...]], ...]
    claims: tuple[str, ...]

    @property
    def heads(self) -> list[tuple[str, bool]]:
        """Names of the columns, and whether they hold words."""
        return [("model", True), *((column, False) for column in self.columns)]

    def cells(self) -> list[list[str]]:
        """Return the model, then the median and the ratio to the first column of each column, as text."""
        return [
            [model, *(_cell(median, found) for median, found in zip(medians, ratios, strict=True))]
            for model, medians, ratios in self.rows
        ]


def comparisons_of(tables: Sequence[Table]) -> list[Comparison]:
    """Compare devices for each protocol version, suite, scenario, runner, precision and input that they share."""
    groups: dict[tuple[object, ...], list[Table]] = {}
    for table in tables:
        key = table.protocol, table.suite, table.scenario, table.runner, table.precision, table.shape
        groups.setdefault(key, []).append(table)
    found = map(_compare, groups.values())
    return [comparison for comparison in found if comparison.rows]


def _compare(group: Sequence[Table]) -> Comparison:
    latest = [{(record.model, record.batch): record for record in table.records} for table in group]
    models = [
        model for model in dict.fromkeys(key for each in latest for key in each) if _devices(model, latest, group) > 1
    ]
    rows, spans = [], []
    for model in models:
        records = [each.get(model) for each in latest]
        medians = tuple(None if record is None else summary(record.samples_ns).median_ms for record in records)
        name = model[0] if not group[0].offline else f"{model[0]}, batch {model[1]}"
        rows.append((name, medians, tuple(_ratio(record, records[0]) for record in records)))
        spans.append([_span(table, record) for table, record in zip(group, records, strict=True)])
    columns = tuple(_name(table, group) for table in group)
    claims = []
    for index in range(1, len(group)):
        shared = [(a, b) for each in spans if (a := each[0]) is not None and (b := each[index]) is not None]
        claims.append(order_claim(shared, f"on {columns[0]}", f"on {columns[index]}") if len(shared) > 1 else "")
    head = group[0]
    title = f"{head.suite}, {head.scenario}, {head.runner}, {head.precision}, input {head.shape}"
    return Comparison(title, columns, tuple(rows), tuple(filter(None, claims)))


def _span(table: Table, record: Record | None) -> tuple[float, float] | None:
    return next((row.span for row in table.rows if row.record is record), None)


def _devices(model: tuple[str, int], latest: Sequence[dict[tuple[str, int], Record]], group: Sequence[Table]) -> int:
    return len({table.device for table, records in zip(group, latest, strict=True) if model in records})


def _ratio(record: Record | None, first: Record | None) -> Ratio | None:
    if record is None or first is None or record is first:
        return None
    return ratio(record.samples_ns, first.samples_ns, _SEED, paired=False)


def _name(table: Table, group: Sequence[Table]) -> str:
    others = [dict(other.conditions) for other in group if other.device == table.device]
    apart = [f"{name} {value}" for name, value in table.conditions if any(each.get(name) != value for each in others)]
    return ", ".join([table.device, *apart])


def _cell(median: float | None, found: Ratio | None) -> str:
    if median is None:
        return "\N{EN DASH}"
    if found is None:
        return f"{digits(median)} ms"
    return f"{digits(median)} ms, {interval_text(found)} \N{MULTIPLICATION SIGN}{', a tie' if tied(found) else ''}"
