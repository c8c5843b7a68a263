"""Tables: groups of records whose latencies may be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from irepdeploy.runs.record import Record

from .device import device_of
from .gap import tied
from .row import Row, rows_of

__all__ = ["Table", "tables_of"]

# Conditions that always split tables. Others split them only if they differ between two measurements of one model.
_ALWAYS = ("threads", "transfers", "tf32", "allow_tf32", "condition", "conditions", "scale")
# Entries that are not conditions: settings of the measurement, names, and values shown elsewhere in a table.
_NEVER = {
    "runner", "provider", "device", "precision", "seed", "order", "input", "interleaved_with", "reference",
    "min_samples", "min_seconds", "max_samples", "warmup_min_seconds", "warmup_max_seconds", "warmup_max_runs",
}  # fmt: skip
_OFFLINE = "offline"


@dataclass(frozen=True)
class Table:
    """Rows that may be compared with each other.

    Attributes:
        device: Description of the device.
        conditions: (name, value) of all other conditions, which are the same for all rows.
        apart: Conditions that distinguish the table from others with the same runner and input.
    """

    protocol: int
    device: str
    suite: str
    scenario: str
    runner: str
    precision: str
    shape: str
    conditions: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]
    apart: tuple[tuple[str, str], ...] = ()
    number: int = 0

    @property
    def anchor(self) -> str:
        """The id in the page."""
        return f"table-{self.number}"

    @property
    def title(self) -> str:
        """The title, unique among the tables of its device and suite."""
        return ", ".join([self.runner, self.precision, f"input {self.shape}", *(f"{a} {b}" for a, b in self.apart)])

    @property
    def home(self) -> tuple[object, ...]:
        """Protocol version and device, which share a heading."""
        return self.protocol, self.device

    @property
    def chapter(self) -> tuple[object, ...]:
        """Suite and scenario on a device, which share a heading."""
        return *self.home, self.suite, self.scenario

    @property
    def records(self) -> list[Record]:
        """The records, without duplicates."""
        return [row.record for row in self.rows if row.measured]

    @property
    def reference(self) -> Row:
        """The row that ratios are relative to: the one named by ``facts["reference"]``, else the first."""
        named = (row for row in self.rows if row.record.facts.get("reference") == row.model)
        return next(named, self.rows[0])

    @cached_property
    def fastest(self) -> list[Row]:
        """The row with the smallest median, and those that tie with it (the interval of the ratio contains 1)."""
        rows = [row for row in self.rows if row.measured]
        first = min(rows, key=lambda row: row.summary.median_ms)
        # A ratio needs a bootstrap, so skip it if the intervals to the reference do not overlap.
        near = [row for row in rows if row is not first and row.span[0] <= first.span[1]]
        return [first, *(row for row in near if tied(row.record.ratio_to(first.record)))]

    @property
    def runs(self) -> list[str]:
        """Start times of the runs."""
        return list(dict.fromkeys(record.created for record in self.records))

    @property
    def offline(self) -> bool:
        """Whether the table sweeps over batch sizes."""
        return self.scenario == _OFFLINE


def tables_of(records: Sequence[Record]) -> list[Table]:
    """Group records into tables by protocol version, device, suite, scenario, runner and conditions."""
    groups: dict[tuple[Any, ...], list[Record]] = {}
    for record in records:
        groups.setdefault(_key(record), []).append(record)
    parts = [(key, part) for key, group in groups.items() for part in _split(group)]
    # The latest protocol version first, then devices and suites in the order in which they occur.
    first: dict[object, int] = {}
    for rank, (key, _) in enumerate(parts):
        first.setdefault(key[:1], rank)
        first.setdefault(key[:2], rank)
        first.setdefault(key[:3], rank)
    parts.sort(key=lambda part: (-part[0][0], first[part[0][:2]], first[part[0][:3]]))
    tables = [_table(part) for _, part in parts]
    return [replace(table, number=number, apart=_apart(table, tables)) for number, table in enumerate(tables, start=1)]


def runner_of(record: Record) -> str:
    """Return the name of the runner on the command line."""
    name = record.runner.get("runner")
    return name if isinstance(name, str) else "unknown runner"


def _key(record: Record) -> tuple[Any, ...]:
    fixed = tuple(_facets(record).get(name, "") for name in _ALWAYS)
    return (
        record.protocol_version,
        device_of(record),
        record.suite,
        record.scenario,
        runner_of(record),
        record.precision,
        _shape(record),
        fixed,
    )


def _shape(record: Record) -> str:
    sizes = record.input_shape[1:] if record.scenario == _OFFLINE else record.input_shape
    return "\N{MULTIPLICATION SIGN}".join(map(str, sizes))


def _facets(record: Record) -> dict[str, str]:
    """Return all conditions as text, except those that change nothing or are shown elsewhere."""
    found: dict[str, str] = {}
    for source in (record.conditions, record.runner):
        for name, value in source.items():
            if name not in _NEVER and isinstance(value, str | int | float | bool) and "sha256" not in name:
                found[str(name)] = _text(value)
    return found


def _split(group: list[Record]) -> list[list[Record]]:
    """Split a group into parts in which no model was measured under two conditions."""
    by_model: dict[tuple[str, int], list[dict[str, str]]] = {}
    for record in group:
        by_model.setdefault((record.model, record.batch), []).append(_facets(record))
    names = {name for facets in by_model.values() for each in facets for name in each}
    differing = sorted(
        name for name in names if any(len({each.get(name) for each in facets}) > 1 for facets in by_model.values())
    )
    parts: dict[tuple[str | None, ...], list[Record]] = {}
    for record in group:
        facets = _facets(record)
        parts.setdefault(tuple(facets.get(name) for name in differing), []).append(record)
    return list(parts.values())


def _table(records: list[Record]) -> Table:
    head = next((record for record in records if _is_reference(record)), records[0])
    # References by run and batch; a run without the first model uses that of the first run.
    references: dict[tuple[str, int], Record] = {}
    for record in sorted(records, key=lambda record: record.model != head.model):
        references.setdefault(("", record.batch), record)
        if record.model == head.model:
            references.setdefault((record.created, record.batch), record)
    rows = [
        row
        for record in records
        for row in rows_of(record, references.get((record.created, record.batch), references["", record.batch]))
    ]
    # The reference graph may have several names, some of which the paper has measured.
    papers = {row.model: row.paper_ms for row in rows if row.record is head and row.paper_ms is not None}
    paper_ms = papers.get(str(head.facts.get("reference")), next(iter(papers.values()), None))
    facets = [_facets(record) for record in records]
    common = tuple(
        (name.replace("_", " "), value)
        for name, value in facets[0].items()
        if all(each.get(name) == value for each in facets)
    )
    return Table(
        protocol=head.protocol_version,
        device=device_of(head),
        suite=head.suite,
        scenario=head.scenario,
        runner=runner_of(head),
        precision=head.precision,
        shape=_shape(head),
        conditions=common,
        rows=tuple(replace(row, reference_paper_ms=paper_ms) for row in rows),
    )


def _is_reference(record: Record) -> bool:
    return any(row.model == record.facts.get("reference") for row in rows_of(record, record))


def _apart(table: Table, tables: list[Table]) -> tuple[tuple[str, str], ...]:
    def place(other: Table) -> tuple[object, ...]:
        return other.protocol, other.device, other.suite, other.scenario, other.runner, other.precision, other.shape

    siblings = [dict(other.conditions) for other in tables if place(other) == place(table)]
    return tuple((name, value) for name, value in table.conditions if any(each.get(name) != value for each in siblings))


def _text(value: str | int | float | bool) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
