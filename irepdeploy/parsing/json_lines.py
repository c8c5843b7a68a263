"""Append to and read files of JSON lines, in which a bad line does not affect the others."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from irepdeploy.console import log
from irepdeploy.errors import InputError, OutputError
from irepdeploy.files import as_ours, read_bytes, write_bytes
from irepdeploy.limits import JOURNAL
from irepdeploy.parsing.json_text import JsonError, parse_json, sealed

__all__ = ["LONGEST_LINE", "Lines", "append_line", "begin_lines", "read_lines"]

_T = TypeVar("_T")

LONGEST_LINE = 1 << 22
_MOST_NAMED = 10


@dataclass(frozen=True)
class Lines(Generic[_T]):
    """Content of a file of JSON lines.

    Attributes:
        values: Values by line number, counted from 1.
        faults: Errors by line number, for lines that could not be read.
    """

    values: dict[int, _T] = field(default_factory=dict)
    faults: dict[int, InputError] = field(default_factory=dict)


def append_line(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Append `value` as one line of JSON with its check, and flush it to the disk.

    Earlier lines are not read, but a torn last line of a killed writer is removed first, and a missing newline is
    added, since otherwise both lines would be damaged. If the disk is full, the part of this line that was written is
    removed again.

    Raises:
        RunError: The disk is full.
        OutputError: The path cannot be written.
    """
    path = Path(path)
    line = _line_of(value)
    try:
        with _open_to_append(path) as file:
            end = _end_of_whole_lines(path)
            if end < file.tell():
                file.truncate(end)
            if end > 0 and not _ends_a_line(path):
                line = b"\n" + line
            try:
                if file.write(line) != len(line):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(end)
                raise
            os.fsync(file.fileno())
    except OSError as error:
        raise as_ours(error, path) from error


def begin_lines(path: str | os.PathLike[str], value: Mapping[str, Any]) -> None:
    """Create or replace a file with `value` as its only line, atomically."""
    write_bytes(path, _line_of(value))


def _line_of(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(sealed(value), allow_nan=False, separators=(",", ":")) + "\n").encode()


def _open_to_append(path: Path) -> io.FileIO:
    """Open or create a regular file, and refuse anything else: opening a pipe or reading a device may never end."""
    if path.exists() and not path.is_file():
        raise OutputError("cannot write: not a regular file", where=path, hint="choose another place with --out")
    return open(path, "ab", buffering=0)


def read_lines(
    path: str | os.PathLike[str],
    parse: Callable[[Any, str], _T],
    what: str = "file",
    of: str = "line",
    *,
    strict: bool = False,
    note: Callable[[str], object] = log,
) -> Lines[_T]:
    """Read a file of JSON lines.

    A line that is not JSON or that `parse` refuses is omitted and named in a note, as are a torn last line and exact
    copies of earlier lines.

    Args:
        path: The file.
        parse: Function that converts the JSON value of a line. Its second argument is the place of the line, such as
            ``a.jsonl, line 3``, for error messages.
        what: Kind of the file, for error messages.
        of: Kind of a line, for error messages.
        strict: Raise the first fault instead of omitting its line.
        note: Function that receives the notes.

    Raises:
        InputError: The file cannot be read, or none of its lines can.
    """
    content = read_bytes(path, what, JOURNAL)
    whole = content[: _whole_length(content)]
    lines, found = whole.split(b"\n"), Lines[_T]()
    notes: list[str] = []
    seen: dict[bytes, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{os.fspath(path)}, line {number}"
        if line in seen:
            notes.append(f"{where}: repeats line {seen[line]} and is omitted")
            continue
        seen[line] = number
        try:
            found.values[number] = parse(_value(line, where, what, of), where)
        except InputError as error:
            if strict:
                raise
            found.faults[number] = error
            notes.append(f"omitted: {error.line}")
    if found.faults and not found.values:
        raise next(iter(found.faults.values()))
    for text in notes[:_MOST_NAMED]:
        note(text)
    if len(notes) > _MOST_NAMED:
        note(f"{os.fspath(path)}: {len(notes) - _MOST_NAMED} more lines are omitted")
    if len(whole) < len(content):
        note(f"{os.fspath(path)}: line {len(lines)} is torn (its writer was killed or is still writing) and is omitted")
    return found


def _value(line: bytes, where: str, what: str, of: str) -> Any:
    try:
        if len(line) > LONGEST_LINE:
            raise JsonError(f"longer than {LONGEST_LINE >> 20} MiB")
        return parse_json(line)
    except JsonError as error:
        raise InputError(f"not a {of}: {error}", where=where, hint=f"is this a {what}?") from None


def _end_of_whole_lines(path: Path) -> int:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        # Lines are shorter than this window, and only the last one can be torn.
        start = max(0, size - LONGEST_LINE)
        file.seek(start)
        tail = file.read()
    return start + _whole_length(tail) if tail else 0


def _ends_a_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _whole_length(content: bytes) -> int:
    """Return the length without a torn last line, which is the beginning of an object without a newline."""
    kept, newline, last = content.rpartition(b"\n")
    if not last.startswith(b"{"):
        return len(content)
    try:
        json.loads(last)
    except (ValueError, RecursionError):
        return len(kept) + len(newline)
    return len(content)
