"""Shared parts of the benchmarks in this folder: interleaved measurement of calls, and one record line per run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from irepdeploy.board.protocol import Ratio, measure
from irepdeploy.board.system import system_block
from irepdeploy.parsing.json_lines import append_line, read_lines

__all__ = ["interval_text", "keep_line", "kept_lines", "samples_of"]


def samples_of(calls: Mapping[str, Callable[[], object]], rounds: int, warmup_runs: int = 2) -> dict[str, list[int]]:
    """Return the nanoseconds of each call by name, from `rounds` interleaved rounds."""
    timed: dict[str, Callable[[], Any]] = dict(calls)
    measured = measure(timed, seed=0, min_samples=rounds, max_samples=rounds, warmup_max_runs=warmup_runs)
    return {name: each.samples_ns for name, each in measured.items()}


def keep_line(record: str | os.PathLike[str] | None, benchmark: str, **figures: Any) -> None:
    """Append one line with the figures, the time and the system to `record`, if given."""
    if record is not None:
        created = datetime.now(UTC).isoformat()
        append_line(record, {"benchmark": benchmark, "created": created, "system": system_block(), **figures})


def kept_lines(record: str | os.PathLike[str], benchmark: str, **facts: Any) -> list[dict[str, Any]]:
    """Return the lines of a benchmark in `record` with these facts; none if the file does not exist yet."""
    if not Path(record).exists():
        return []
    lines = read_lines(Path(record), lambda value, where: value, "file of records", of="record").values.values()
    wanted = {"benchmark": benchmark, **facts}
    return [line for line in lines if isinstance(line, dict) and wanted.items() <= line.items()]


def interval_text(found: Ratio) -> str:
    """Return the 95 % interval as text."""
    return "-" if found.low is None else f"{found.low:.2f} to {found.high:.2f}"
