"""Columns of a table, shared by the page, Markdown and the README."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from irepdeploy.board.protocol import MIN_SAMPLES_P90, MIN_SAMPLES_P99, Ratio

from .row import Row
from .tables import Table

__all__ = ["Column", "columns_of", "digits", "interval_text", "when"]

_NOTHING = "\N{EN DASH}"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: Name in selections.
        hint: Explanation of the heading, or "".
        values: Sort key of each row; None sorts last.
        text: Whether the column holds words, which are left-aligned.
    """

    key: str
    head: str
    hint: str
    cells: tuple[str, ...]
    values: tuple[float | str | None, ...]
    text: bool = False


def columns_of(table: Table) -> list[Column]:
    """Return the columns that are not empty."""
    rows = table.rows
    reference = table.reference.model
    runs = table.runs
    single = _one({row.top1_source for row in rows if row.top1 is not None})
    made = [
        _words("model", "model", [row.model for row in rows]),
        _words("graph", "graph", _graphs(table), "rows of one number are one graph, measured once"),
        _number("batch", "batch", [row.record.batch if table.offline else None for row in rows], "d"),
        _number("params", "params, M", [_scaled(row.fact("params"), 1e6) for row in rows], ".2f"),
        _number("macs", "MACs, M", [_scaled(row.fact("macs"), 1e6) for row in rows], ".0f"),
        _times("median", "median, ms", [row.summary.median_ms for row in rows]),
        _times(
            "device",
            "device, ms",
            [None if row.device_summary is None else row.device_summary.median_ms for row in rows],
            "median by the device's own clock",
        ),
        _percentile("p90", MIN_SAMPLES_P90, [(row.summary.n, row.summary.p90_ms) for row in rows]),
        _percentile("p99", MIN_SAMPLES_P99, [(row.summary.n, row.summary.p99_ms) for row in rows]),
        _number(
            "spread",
            "spread",
            [_scaled(row.summary.cov, 0.01) for row in rows],
            ".1f",
            " %",
            "standard deviation over mean",
        ),
        _ratios(rows, reference),
        _number("paper", "paper, ms", [row.paper_ms for row in rows], "g", hint="the latency that the paper prints"),
        _number(
            "paper-ratio",
            "paper \N{MULTIPLICATION SIGN}",
            [row.paper_ratio if len(rows) > 1 else None for row in rows],
            ".2f",
            hint=f"the paper's latency as a multiple of the paper's for {reference}",
        ),
        _number("top1", f"top-1, % ({single})" if single else "top-1, %", [row.top1 for row in rows], ".2f"),
        _words("top1-source", "top-1 from", ["" if single else row.top1_source for row in rows]),
        _number("throughput", "images/s", [row.images_per_second if table.offline else None for row in rows], ".0f"),
        _number("energy", "energy, mJ", [row.energy_mj for row in rows], ".1f", hint="of one inference"),
        _number("n", "n", [row.summary.n for row in rows], "d", hint="samples"),
        _words("run", "run", [when(row.record.created) if len(runs) > 1 else "" for row in rows]),
    ]
    return [column for column in made if any(value not in (None, "") for value in column.values)]


def digits(value: float) -> str:
    """Return a number with three significant digits, never in scientific notation."""
    return _fixed([value], 3).format(value)


def interval_text(value: Ratio | None) -> str:
    """Return a ratio with its 95 % interval, if it has one."""
    if value is None:
        return "1"
    if value.low is None or value.high is None:
        return digits(value.value)
    low, middle, high = (_fixed([value.low], 3).format(part) for part in (value.low, value.value, value.high))
    return f"{middle} [{low}, {high}]"


def when(created: str) -> str:
    """Return an ISO 8601 time to the minute."""
    return created[:16].replace("T", " ")


def _words(key: str, head: str, texts: list[str], hint: str = "") -> Column:
    return Column(key, head, hint, tuple(texts), tuple(texts), text=True)


def _number(key: str, head: str, values: Sequence[float | None], form: str, unit: str = "", hint: str = "") -> Column:
    cells = tuple(_NOTHING if value is None else f"{value:{form}}{unit}" for value in values)
    return Column(key, head, hint, cells, tuple(values))


def _times(key: str, head: str, values: Sequence[float | None], hint: str = "") -> Column:
    pattern = _fixed([value for value in values if value is not None], 4)
    cells = tuple(_NOTHING if value is None else pattern.format(value) for value in values)
    return Column(key, head, hint, cells, tuple(values))


def _graphs(table: Table) -> list[str]:
    """Return a number for each row whose graph occurs in several rows, else ""."""
    numbers: dict[int, int] = {}
    for row in table.rows:
        if not row.measured:
            numbers.setdefault(id(row.record), len(numbers) + 1)
    return [str(numbers.get(id(row.record), "")) for row in table.rows]


def _percentile(key: str, least: int, found: Sequence[tuple[int, float | None]]) -> Column:
    pattern = _fixed([value for _, value in found if value is not None], 4)
    cells = tuple(f"n < {least}" if value is None else pattern.format(value) for _, value in found)
    return Column(key, f"{key}, ms", f"from {least} samples on", cells, tuple(value for _, value in found))


def _ratios(rows: Sequence[Row], reference: str) -> Column:
    ratios = [row.ratio for row in rows]
    cells = tuple(interval_text(found) + ("" if row.paired else " *") for row, found in zip(rows, ratios, strict=True))
    values = tuple(1.0 if found is None else found.value for found in ratios) if len(rows) > 1 else (None,) * len(rows)
    hint = f"median as a multiple of that of {reference}, with its 95 % interval"
    return Column("ratio", "\N{MULTIPLICATION SIGN} reference", hint, cells, values)


def _fixed(values: Sequence[float], least: int) -> str:
    """Return a format with as many decimals as the smallest value needs for `least` significant digits."""
    smallest = min((abs(value) for value in values if value), default=1.0)
    decimals = max(0, least - 1 - math.floor(math.log10(smallest)))
    return f"{{:.{min(decimals, 6)}f}}"


def _scaled(value: float | None, unit: float) -> float | None:
    return None if value is None else value / unit


def _one(found: set[str]) -> str:
    return next(iter(found)) if len(found) == 1 else ""
