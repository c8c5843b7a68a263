"""Output for the user: results on stdout, logs and progress on stderr.

On a terminal, progress is a live bar with the remaining time; elsewhere it is a plain line every few seconds. Names may
come from untrusted files, so control characters are escaped in everything that is written.
"""

from __future__ import annotations

import errno
import io
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, Protocol, TextIO, cast

from irepdeploy.errors import RunError, printable

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

__all__ = [
    "ProgressDisplay",
    "ProgressTask",
    "command_line",
    "escaped_output",
    "log",
    "next_step",
    "print_json",
    "progress",
    "quoted",
    "say",
    "table",
    "without_hints",
]

_SECONDS_BETWEEN_LINES = 5.0
_hints = True


class ProgressTask(Protocol):
    """One line of progress."""

    def advance(self, steps: int = 1, note: str = "") -> None:
        """Report `steps` more completed steps, with an optional short note such as the loss."""


class ProgressDisplay(Protocol):
    """The display that `progress` yields."""

    def task(self, title: str, total: int) -> ProgressTask:
        """Start a progress line for a task of `total` steps."""


@contextmanager
def progress(*, silent: bool = False) -> Iterator[ProgressDisplay]:
    """Show progress on stderr for as long as the block runs.

    Args:
        silent: Show nothing, for instance because another process of the same run already does.

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

    with (
        Bars(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            # On a narrow terminal, truncate the note rather than a number.
            TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=Console(file=_plain(sys.stderr)),
            expand=True,
            # If stdout goes elsewhere, results must not appear on the terminal that shows the bars.
            redirect_stdout=sys.stdout.isatty(),
        ) as bars,
        escaped_output(),
    ):  # the bars replace the streams with ones that would let control codes through
        yield _LiveDisplay(bars)


def log(message: str) -> None:
    """Print one line on stderr."""
    print(printable(message), file=sys.stderr, flush=True)


def next_step(*words: object) -> None:
    """Print on stderr the `irepdeploy` command that usually comes next."""
    if _hints:
        log(f"next: {command_line(*words)}")


@contextmanager
def without_hints() -> Iterator[None]:
    """Suppress the hints of `next_step` within the block."""
    global _hints
    before, _hints = _hints, False
    try:
        yield
    finally:
        _hints = before


def say(text: object = "") -> None:
    """Print one line on stdout."""
    print(printable(str(text)))


def print_json(value: Any) -> None:
    """Print `value` on stdout as JSON.

    Raises:
        ValueError: `value` contains NaN or an infinity, which JSON does not have.
    """
    # JSON escapes all other control characters.
    print(json.dumps(value, indent=2, allow_nan=False).replace("\x7f", "\\u007f"))


def command_line(*words: object) -> str:
    """Return an `irepdeploy` command line that can be pasted into a shell; see `quoted`."""
    return " ".join(["irepdeploy", *map(quoted, words)])


def quoted(word: object) -> str:
    """Return a word quoted for a shell if necessary; a path such as ``-x.onnx`` becomes ``./-x.onnx``."""
    text = str(word)
    if isinstance(word, PurePath) and text.startswith("-"):
        text = f"./{text}"
    if text.isprintable():
        return shlex.quote(text)
    doubled = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{printable(doubled)}'"


@contextmanager
def escaped_output() -> Iterator[None]:
    r"""Escape control characters, and those missing from the stream's encoding, in stdout and stderr: ``\x1b``.

    Within the block, a failed write to stdout raises RunError, even if stdout is closed.
    """
    streams = sys.stdout, sys.stderr
    with ExitStack() as stack:
        for stream in streams:
            if isinstance(stream, io.TextIOWrapper):
                stack.callback(stream.reconfigure, errors=stream.errors)
                stream.reconfigure(errors="backslashreplace")
        sys.stdout = cast(TextIO, _EscapedStream("stdout", streams[0] or _ClosedStream()))
        sys.stderr = cast(TextIO, _EscapedStream("stderr", streams[1] or stack.enter_context(open(os.devnull, "w"))))
        try:
            yield
        finally:
            sys.stdout, sys.stderr = streams


class _ClosedStream(io.TextIOBase):
    def write(self, text: str, /) -> int:
        raise OSError(errno.EBADF, "it is closed")


class _EscapedStream:
    def __init__(self, name: str, stream: TextIO | io.TextIOBase) -> None:
        self._name, self.plain = name, stream

    def write(self, text: str) -> int:
        with self._failures():
            self.plain.write(printable(text, keep="\n\t"))
        return len(text)

    def flush(self) -> None:
        with self._failures():
            self.plain.flush()

    @contextmanager
    def _failures(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise  # the reader has closed the pipe
        except OSError as error:
            what = f"cannot write to {self._name}: {(error.strerror or str(error)).lower()}"
            raise RunError(what, hint="free some space" if error.errno == errno.ENOSPC else None) from error

    def __getattr__(self, name: str) -> Any:
        # Writing bytes would bypass the escaping.
        if name in ("buffer", "detach", "writelines"):
            raise AttributeError(name)
        return getattr(self.plain, name)


def _plain(stream: TextIO) -> TextIO:
    """Return the underlying stream, for text that is already escaped and contains its own control codes."""
    return cast(TextIO, stream.plain) if isinstance(stream, _EscapedStream) else stream


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table on stdout, with numbers aligned to the right.

    Cells are converted with `str`, so round numbers before passing them. Cells are never truncated or wrapped unless
    stdout is a terminal.
    """
    title, columns = _shown(title), [_shown(name) for name in columns]
    cells = [[_shown(cell) for cell in row] for row in rows]
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
    Console(file=_plain(sys.stdout)).print(grid)


def _shown(cell: object) -> str:
    # Escape here already, so that the column widths account for the escapes.
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return printable(str(cell)).encode(encoding, "backslashreplace").decode(encoding)


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
    # "-" stands for a missing number; numbers may have a unit or be factors ("12 %", "1.8x").
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

        return _LiveTask(self._bars, self._bars.add_task(escape(printable(title)), total=total, note=""))


class _LiveTask:
    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def advance(self, steps: int = 1, note: str = "") -> None:
        from rich.markup import escape

        self._bars.update(self._task, advance=steps)
        if note:
            self._bars.update(self._task, note=escape(printable(note)))


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
