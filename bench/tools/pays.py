"""Collect the records of ``irepdeploy reproduce``, and generate the tables of docs/does-it-pay.md from them.

``python -m irepdeploy.bench.tools.pays runs/pays`` appends new records from the job folders of ``--out runs/pays`` to
bench/records/pays-DATA-NETWORK.jsonl, one file for each protocol and network, and regenerates the page. Records on
random data (``--smoke``) are skipped. `irepdeploy.bench.tools.readme_tables` only generates and checks the page.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from irepdeploy.errors import InputError, IrepdeployError, counted
from irepdeploy.runs.reproduction import ReproducedRecord, append_cell, read_cells, read_measured
from irepdeploy.search.reproduction.cells import Cell, cells_of
from irepdeploy.search.reproduction.protocol import PROTOCOLS, QUESTIONS, Protocol
from irepdeploy.search.reproduction.run import measured_in, records_in
from irepdeploy.search.reproduction.table import Table, markdown_of
from irepdeploy.search.reproduction.tables import NOTES, tables_of

__all__ = ["keep", "main", "pays_summary", "pays_tables"]

_SUMMARY = (
    "arm", "condition", "test %", "plain's condition", "plain's test %", "plain's training s", "difference from plain",
    "verdict", "training s", "search s",
)  # fmt: skip
_RECORDS, _PAGE = Path("bench/records"), Path("docs/does-it-pay.md")
_STAGES = {
    "trial": "trials",
    "final": "final runs",
    "candidate": "retrained candidates",
    "scoring": "scorings",
    "timing": "times",
}


def keep(out: Path, records: Path) -> dict[Path, int]:
    """Append the records in `out` that are missing in the files in `records`, and return their number by file."""
    kept: Counter[Path] = Counter()
    known = {each.name for protocol in PROTOCOLS.values() for each in (protocol, protocol.merged)}
    have: dict[Path, set[str]] = {}
    found: list[ReproducedRecord] = [*records_in(out).values(), *measured_in(out).values()]
    for record in found:
        if record.protocol not in known:
            continue
        path = records / f"pays-{record.protocol.replace(', ', '-').replace(' ', '-')}-{record.network}.jsonl"
        if path not in have:
            have[path] = {*read_cells([path]), *read_measured([path])} if path.exists() else set()
        if record.cell not in have[path]:
            append_cell(path, record)
            kept[path] += 1
    return kept


def pays_tables(question: str, pattern: Path) -> str:
    """Return the tables of a question from the files that match a pattern, and the cells that are missing.

    Raises:
        InputError: The question does not exist, or the pattern names no data set.
    """
    parts = []
    for protocol, tables, keys in _protocols_of(question, pattern):
        # The page explains what all tables have in common.
        parts += [markdown_of(tables, NOTES)] if tables else []
        parts.append(_cells(protocol, question, keys))
    return "\n\n".join(parts) or "No records yet."


def pays_summary(question: str, pattern: Path) -> str:
    """Return the tables of a question, each reduced to accuracy, its difference from plain, and cost.

    Raises:
        InputError: As `pays_tables`.
    """
    parts = []
    for _, tables, _ in _protocols_of(question, pattern):
        for table in tables:
            if "difference from plain" not in table.columns:
                continue
            kept = [index for index, column in enumerate(table.columns) if column in _SUMMARY]
            rows = tuple(tuple(row[index] for index in kept) for row in table.rows)
            parts.append(replace(table, columns=tuple(table.columns[index] for index in kept), rows=rows, notes=()))
    return markdown_of(parts) or "No records yet."


def _protocols_of(question: str, pattern: Path) -> Iterator[tuple[Protocol, list[Table], Collection[str]]]:
    """Yield each protocol with records for a question, its tables, and the keys of the cells that were run."""
    if question not in QUESTIONS:
        raise InputError(f"unknown question {question!r}", where=pattern, hint=f"one of {', '.join(QUESTIONS)}")
    data = next((name for name in PROTOCOLS if pattern.name.startswith(f"pays-{name}-")), None)
    if data is None:
        raise InputError("expected pays-DATA-*.jsonl", where=pattern, hint=f"of {', '.join(PROTOCOLS)}")
    paths = sorted(pattern.parent.glob(pattern.name))
    done, measured = read_cells(paths), read_measured(paths)
    keys = {*done, *measured}
    for protocol in (PROTOCOLS[data], PROTOCOLS[data].merged):
        if question not in protocol.questions:
            continue
        if any(cell.key in keys for cell in cells_of(protocol, [question], protocol.networks)):
            yield protocol, tables_of(protocol, done, [question], protocol.networks, measured), keys


def _cells(protocol: Protocol, question: str, done: Collection[str]) -> str:
    """List how many cells of each network were run, and which are missing."""
    lines, none = [], []
    for network in protocol.networks:
        cells = cells_of(protocol, [question], [network])
        left = [cell for cell in cells if cell.key not in done]
        if len(left) == len(cells):
            none.append(f"`{network.name}`")
        else:
            lines.append(
                f"- `{network.name}`: {len(cells) - len(left)} of {len(cells)}{_missing(protocol, cells, left)}"
            )
    lines += [f"- {', '.join(none)}: none"] if none else []
    return "\n".join([f"Cells that were run of protocol {protocol.name}, version {protocol.version}:", "", *lines])


def _missing(protocol: Protocol, cells: Sequence[Cell], left: Sequence[Cell]) -> str:
    whole, open_ = (Counter((cell.stage, cell.condition, cell.arm.name) for cell in each) for each in (cells, left))
    missing: dict[str, list[str]] = {}
    for (stage, condition, arm), number in open_.items():
        where = "" if condition == protocol.main else f" ({condition.label})"
        every = whole[stage, condition, arm]
        text = f"`{arm}`" if number == every else f"`{arm}` ({number} of {every})"
        missing.setdefault(f"{_STAGES[stage]}{where}", []).append(text)
    parts = [f"{what} of {', '.join(arms)}" for what, arms in missing.items()]
    return f"; missing: {'; '.join(parts)}" if parts else ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect new records, regenerate the page, and return the exit code."""
    from .readme_tables import main as generate

    parser = argparse.ArgumentParser(prog="python -m irepdeploy.bench.tools.pays", description=__doc__)
    parser.add_argument("out", type=Path, help="folder that `irepdeploy reproduce --out` wrote")
    asked = parser.parse_args(arguments)
    try:
        if not asked.out.is_dir():
            raise InputError("no such folder", where=asked.out)
        for path, count in sorted(keep(asked.out, _RECORDS).items()):
            print(f"{path}: {counted(count, 'new record')}")
    except IrepdeployError as error:
        print(error.line, file=sys.stderr)
        return error.exit_code
    return generate([str(_PAGE)])


if __name__ == "__main__":
    raise SystemExit(main())
