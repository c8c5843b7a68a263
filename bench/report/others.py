"""Lines of suites and benchmarks that do not measure the latency of a model, as plain tables."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from irepdeploy.board.protocol import summary

from .columns import digits, when

__all__ = ["PlainTable", "plain_tables"]

_MOST_NS = 10**18
# Keys that every line has and that are not figures.
_ALIKE = {"suite", "benchmark", "created", "protocol_version", "system", "scale", "note", "what"}
_MOST_COLUMNS = 12


@dataclass(frozen=True)
class PlainTable:
    """A table whose cells are text.

    Args:
        where: Time and device of the measurement.
        conditions: All other entries of its line.
    """

    title: str
    where: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    conditions: str = ""

    @property
    def heads(self) -> list[tuple[str, bool]]:
        """Names of the columns, and whether they hold words."""
        return [(name, not self._is_number(index)) for index, name in enumerate(self.columns)]

    def _is_number(self, column: int) -> bool:
        return all(row[column].lstrip("+-")[:1].isdigit() for row in self.rows if row[column])


def plain_tables(lines: Sequence[Mapping[str, Any]]) -> tuple[list[PlainTable], list[str]]:
    """Return tables of the lines that have samples or figures, and the titles of the other lines."""
    found: list[PlainTable] = []
    figures: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    left = []
    for line in lines:
        samples = list(_samples(line.get("samples_ns"), ""))
        if samples:
            conditions = "; ".join(f"{name} {value}" for name, value in _conditions(line).items())
            found.append(
                PlainTable(_title(line), _where(line), ("what", "median, s", "n"), _timed(samples), conditions)
            )
        elif len(_scalars(line)) > 1:
            figures.setdefault((_title(line), str(line.get("scale", ""))), []).append(line)
        else:
            left.append(_title(line))
    for (title, _), group in figures.items():
        columns = list(dict.fromkeys(name for line in group for name in _scalars(line)))[:_MOST_COLUMNS]
        rows = tuple(tuple(_scalars(line).get(name, "") for name in columns) for line in group)
        found.append(PlainTable(title, _where(group[0]), tuple(name.replace("_", " ") for name in columns), rows))
    return found, list(dict.fromkeys(left))


def _title(line: Mapping[str, Any]) -> str:
    name = str(line.get("suite", line.get("benchmark")))
    network = line.get("network")
    return f"{name}, {network}" if isinstance(network, str) and "samples_ns" in line else name


def _where(line: Mapping[str, Any]) -> str:
    parts = [line.get("scale") and f"scale {line['scale']}", line.get("device"), when(str(line.get("created", "")))]
    return ", ".join(str(part) for part in parts if part)


def _samples(value: object, name: str) -> Iterator[tuple[str, list[int]]]:
    """Yield every list of times below `value`, with the names that lead to it."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _samples(inner, f"{name}, {key}" if name else str(key))
    elif isinstance(value, list) and value and all(type(item) is int and 0 < item < _MOST_NS for item in value):
        yield name, value


def _timed(samples: Sequence[tuple[str, list[int]]]) -> tuple[tuple[str, ...], ...]:
    return tuple((name, digits(summary(times).median_ms / 1e3), str(len(times))) for name, times in samples)


def _conditions(line: Mapping[str, Any]) -> dict[str, str]:
    inner = line.get("conditions")
    named = {**line, **inner} if isinstance(inner, Mapping) else line
    return {
        name.replace("_", " "): value for name, value in _scalars(named).items() if name not in ("device", "network")
    }


def _scalars(line: Mapping[str, Any]) -> dict[str, str]:
    return {str(key): _text(value) for key, value in line.items() if key not in _ALIKE and _is_scalar(value)}


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | bool) or (isinstance(value, float) and math.isfinite(value))


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
