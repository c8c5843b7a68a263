"""Output for the user: results on stdout, logs and progress on stderr.

On a terminal, progress is a live bar with the time left; in a log it is an occasional plain line.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = ["ProgressDisplay", "ProgressTask", "log", "print_json", "progress", "table"]

_SECONDS_BETWEEN_LINES = 5.0


class ProgressTask(Protocol):
    """One line of progress."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Report that `steps` more steps are done; `note` is a short text beside them, such as the loss."""


class ProgressDisplay(Protocol):
    """The value of `progress`."""

    def task(self, title: str, total: int) -> ProgressTask:
        """Start a line for work of `total` steps."""


@contextmanager
def progress(*, silent: bool = False) -> Iterator[ProgressDisplay]:
    """Show progress on stderr for as long as the block runs.

    Args:
        silent: Show nothing, because another process of the run does.

    Example::

        with progress() as display:
            task = display.task("epoch 1", total=len(batches))
            for batch in batches:
                step(batch)
                task.advance(note="loss 0.3")
    """
    if silent or not sys.stderr.isatty():
        yield _SilentDisplay() if silent else _PlainDisplay()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    with Bars(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        # On a narrow terminal the note is cut, never a number.
        TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
        console=Console(stderr=True),
        expand=True,
    ) as bars:
        yield _LiveDisplay(bars)


def log(message: str) -> None:
    """Print one line on stderr."""
    print(message, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Print `value` on stdout as JSON, without NaN, which is not JSON."""
    print(json.dumps(value, indent=2, allow_nan=False))


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout, with numbers aligned right.

    Cells are converted by `str`: round numbers first. Outside a terminal no cell is ever cut or wrapped.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    if any(len(row) != len(columns) for row in cells):
        raise ValueError(f"expected rows of {len(columns)} cells in table {title!r}")
    numeric = [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(columns))]
    if not sys.stdout.isatty():
        print(_plain_table(title, columns, cells, numeric))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(title=Text(title), title_justify="left")
    for name, right in zip(columns, numeric, strict=True):
        grid.add_column(Text(name), justify="right" if right else "left", overflow="fold")
    for row in cells:
        grid.add_row(*map(Text, row))
    Console().print(grid)


def _plain_table(title: str, columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]) -> str:
    widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]

    def line(row: Sequence[str]) -> str:
        aligned = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        return "  ".join(aligned).rstrip()

    return "\n".join([title, line(columns), line(["-" * width for width in widths]), *map(line, cells)])


def _is_number(cell: str) -> bool:
    # "-" is a missing number; numbers may have units and factors ("12 %", "1.8x").
    return cell in ("", "-") or cell.lstrip("+-~<>")[:1].isdigit()


class _SilentDisplay:
    def task(self, title: str, total: int) -> _SilentDisplay:
        return self

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Do nothing."""


class _PlainDisplay:
    def task(self, title: str, total: int) -> _PlainTask:
        return _PlainTask(title, total)


class _PlainTask:
    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, total, 0
        self._begin = self._last = time.monotonic()

    def advance(self, steps: int = 1, note: str = "") -> None:
        self._done += steps
        now = time.monotonic()
        finished = self._done >= self._total
        if not finished and now - self._last < _SECONDS_BETWEEN_LINES:
            return
        self._last = now
        elapsed = now - self._begin
        known = self._done and not finished
        left = f", {_clock(elapsed / self._done * (self._total - self._done))} left" if known else ""
        tail = f"  {note}" if note else ""
        log(f"{self._title}: {self._done}/{self._total}, {_clock(elapsed)}{left}{tail}")


class _LiveDisplay:
    def __init__(self, bars: Progress) -> None:
        self._bars = bars

    def task(self, title: str, total: int) -> _LiveTask:
        from rich.markup import escape

        return _LiveTask(self._bars, self._bars.add_task(escape(title), total=total, note=""))


class _LiveTask:
    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, steps: int = 1, note: str = "") -> None:
        from rich.markup import escape

        self._bars.update(self._task, advance=steps)
        if note:
            self._bars.update(self._task, note=escape(note))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
