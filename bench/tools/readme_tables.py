"""Generate the tables of a Markdown file from the records named in it.

A table is between two comments, ``<!-- table: SUITE from bench/records/FILE.jsonl -->`` and ``<!-- end -->``; the path
is relative to the Markdown file. ``SUITE runner`` selects one runner. The tables ``comparison``, ``ratios`` and
``scoring`` are made by `record_tables`; ``campaigns``, ``ecosystem``, ``merged-step``, ``merged-ranking``,
``merged-noise``, and ``pays QUESTION`` and ``pays-summary QUESTION``, whose path is a pattern, by the tools of the same
names. Run
``python -m irepdeploy.bench.tools.readme_tables [README.md] [--check]``; ``--check`` writes nothing and exits with 1 if
a table is out of date.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from irepdeploy.errors import CheckFailed, InputError, IrepdeployError
from irepdeploy.files import read_bytes, write_bytes

from ..report.columns import interval_text
from ..report.gather import gather
from ..report.others import PlainTable, plain_tables
from ..report.row import Row
from ..report.tables import Table, tables_of
from ..report.text import markdown_grid
from . import merged_noise, merged_ranking, merged_step
from .campaigns import campaign_table, read_campaigns
from .ecosystem import read_walk
from .ecosystem_table import ecosystem_table
from .harness import kept_lines
from .record_tables import RECORD_TABLES

__all__ = ["main", "refreshed"]

_BEGIN = re.compile(r"<!-- table: (?P<suite>\S+)(?: (?P<runner>\S+))? from (?P<file>\S+) -->\n")
_END = "<!-- end -->"
_NOTHING = "\N{EN DASH}"
_TIMES = "\N{MULTIPLICATION SIGN}"
_TOOLS = {"merged-step": merged_step, "merged-ranking": merged_ranking, "merged-noise": merged_noise}


def refreshed(text: str, folder: Path) -> tuple[str, list[str]]:
    """Return `text` with all tables regenerated, and the names of the tables that have changed."""
    done, stale, rest = "", [], text
    while found := _BEGIN.search(rest):
        before, after = rest[: found.end()], rest[found.end() :]
        old, end, rest = after.partition(_END)
        name = found[0].strip()
        if not end or _BEGIN.search(old):
            raise InputError("a table without an end", where=name, hint=f"close it with {_END}")
        new = f"\n{_tables(found['suite'], found['runner'], folder / found['file'])}\n"
        if new != old:
            stale.append(name)
        done += before + new + end
    return done + rest, stale


def main(arguments: Sequence[str] | None = None) -> int:
    """Generate the tables, or report those out of date with ``--check``, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m irepdeploy.bench.tools.readme_tables", description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, default=Path("README.md"), metavar="README.md")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if a table is out of date")
    asked = parser.parse_args(arguments)
    try:
        text = read_bytes(asked.file, "Markdown file").decode()
        new, stale = refreshed(text, asked.file.parent)
        if stale and asked.check:
            hint = f"python -m irepdeploy.bench.tools.readme_tables {asked.file}"
            raise CheckFailed(f"out of date: {'; '.join(stale)}", where=asked.file, hint=hint)
        if stale:
            write_bytes(asked.file, new.encode())
        print(f"{asked.file}: {len(stale)} of {len(_BEGIN.findall(text))} tables changed")
    except IrepdeployError as error:
        print(error.line, file=sys.stderr)
        return error.exit_code
    return 0


def _tables(suite: str, runner: str | None, path: Path) -> str:
    if suite in RECORD_TABLES:
        return f"{RECORD_TABLES[suite](path)}\n"
    if suite == "campaigns":
        return f"{campaign_table(read_campaigns(path))}\n"
    if suite in ("pays", "pays-summary"):
        from .pays import pays_summary, pays_tables

        return f"{(pays_tables if suite == 'pays' else pays_summary)(runner or '', path)}\n"
    if suite == "ecosystem":
        return f"{ecosystem_table(read_walk(path))}\n"
    if suite in _TOOLS:
        return f"{_of_tool(_TOOLS[suite], path)}\n"
    found = gather([path])
    tables = [table for table in tables_of(found.records) if table.suite == suite and runner in (None, table.runner)]
    others = [line for line in found.others if suite in (line.get("suite"), line.get("benchmark"))]
    if others and suite == "collapse":
        return f"{_collapse(others[-1])}\n"
    if others and suite == "training-cost":
        return f"{_training_cost(others)}\n"
    plain = [] if runner is not None else plain_tables(others)[0]
    if not tables and not plain:
        raise InputError(f"no measurement of {suite}{f' by {runner}' if runner else ''}", where=path)
    groups: dict[tuple[object, ...], list[Table]] = {}
    for table in tables:
        key = table.protocol, table.device, table.scenario, table.precision, table.shape
        groups.setdefault(key, []).append(table)
    parts = [*map(_beside_each_other, groups.values()), *map(_plain, plain)]
    return "\n\n".join(parts) + "\n"


def _of_tool(tool: ModuleType, path: Path) -> str:
    """Return a table for each recipe and its overrides, from a record of a tool with `COLUMNS` and `rows_of`."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for line in kept_lines(path, tool.BENCHMARK):
        groups.setdefault(" ".join([line["recipe"], *line["overrides"]]), []).append(line)
    if not groups:
        raise InputError(f"no measurement of {tool.BENCHMARK!r}", where=path)
    heads = [column.replace(" x ", f" {_TIMES} ") for column in tool.COLUMNS]
    words = [True] + [False] * (len(heads) - 1)
    parts = [(f"`{what}`:", markdown_grid(heads, tool.rows_of(lines), words)) for what, lines in groups.items()]
    return "\n\n".join(part for pair in parts for part in pair)


def _collapse(line: Mapping[str, Any]) -> str:
    """Return the number of convolutions by tool, from a record of `irepdeploy.bench.tools.collapse`."""
    from .collapse import convolution_table

    heads, rows = convolution_table(line["networks"])
    versions = ", ".join(f"{name} {version}" for name, version in line["versions"].items() if name != "irepdeploy")
    return f"{versions}.\n\n{markdown_grid(heads, rows, [True] + [False] * (len(heads) - 1))}"


def _training_cost(lines: Iterable[Mapping[str, Any]]) -> str:
    """Return the steps of all networks of a record, each with its conditions above."""
    from irepdeploy.search.suites.training_cost import COLUMNS, rows_of

    parts = []
    for line in lines:
        cpu, threads = line["system"]["cpu"]["model"], line["device"]
        rounds = max(len(times) for times in line["samples_ns"].values())
        parts.append(f"{cpu}, {threads}; batch {line['batch']}, {rounds} rounds.")
        heads = [column.replace("x ", f"{_TIMES} ") for column in COLUMNS]
        cells = [cells for cells, _ in rows_of(line, line["seed"])]
        parts.append(markdown_grid(heads, cells, [column in COLUMNS[:3] for column in COLUMNS]))
    return "\n\n".join(parts)


def _beside_each_other(tables: Sequence[Table]) -> str:
    """Return one row per model: its latency on every runner, then the paper's."""
    columns = [_column(table) for table in tables]
    keys = list(dict.fromkeys(key for column in columns for key in column))
    first = {key: next(column[key] for column in columns if key in column) for key in keys}
    heads, rows = ["model"], [[key[0]] for key in keys]

    def add(head: str, cells: Sequence[str]) -> None:
        if any(cell != _NOTHING for cell in cells):
            heads.append(head)
            for row, cell in zip(rows, cells, strict=True):
                row.append(cell)

    add("batch", [str(first[key].record.batch) if tables[0].offline else _NOTHING for key in keys])
    for table, column in zip(tables, columns, strict=True):
        name = ", ".join([table.runner, *(f"{a} {b}" for a, b in table.apart)])
        add(f"{name}, ms", [_median(column.get(key)) for key in keys])
        add(f"{_TIMES}", [_ratio(column.get(key)) for key in keys])
    papers = {key: [column[key] for column in columns if key in column] for key in keys}
    add("paper, ms", [_number((row.paper_ms for row in papers[key]), "g") for key in keys])
    add(f"paper {_TIMES}", [_number((row.paper_ratio for row in papers[key]), ".2f") for key in keys])
    sources = {row.top1_source for row in first.values() if row.top1 is not None}
    only = next(iter(sources)) if len(sources) == 1 else ""
    add(f"top-1, %{f' ({only})' if only else ''}", [_number((row.top1 for row in papers[key]), ".2f") for key in keys])
    return f"{_caption(tables)}\n\n{markdown_grid(heads, rows, [True] + [False] * (len(heads) - 1))}"


def _column(table: Table) -> dict[tuple[str, int], Row]:
    """Return the latest row of each model and batch size."""
    return {(row.model, row.record.batch): row for row in table.rows}


def _caption(tables: Sequence[Table]) -> str:
    head = tables[0]
    threads = {dict(table.conditions).get("threads") for table in tables} - {None}
    count = f", {next(iter(threads))} thread{'' if threads == {'1'} else 's'}" if len(threads) == 1 else ""
    marked = "" if all(row.steady for table in tables for row in table.rows) else "; u: unsteady"
    references = " or ".join(dict.fromkeys(table.reference.model for table in tables))
    return (
        f"{head.device}{count}; {head.scenario}, {head.precision}, input {head.shape}. Medians; {_TIMES}: as a "
        f"multiple of {references}, with the 95 % interval{marked}."
    )


def _plain(table: PlainTable) -> str:
    said = f"{table.title}, {table.where}{f'; {table.conditions}' if table.conditions else ''}."
    return f"{said}\n\n{markdown_grid(table.columns, table.rows, [words for _, words in table.heads])}"


def _median(row: Row | None) -> str:
    return _NOTHING if row is None else f"{row.summary.median_ms:.3f}{'' if row.steady else ' u'}"


def _ratio(row: Row | None) -> str:
    return _NOTHING if row is None else interval_text(row.ratio)


def _number(values: Iterable[float | None], form: str) -> str:
    found = next((value for value in values if value is not None), None)
    return _NOTHING if found is None else f"{found:{form}}"


if __name__ == "__main__":
    raise SystemExit(main())
