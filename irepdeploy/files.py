"""Files on disk: written atomically, identified by digest.

A reader never sees half a file: bytes go to a temporary name in the same folder, are flushed to the disk, and are
renamed in one step.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from irepdeploy.console import log
from irepdeploy.errors import InputError, IrepdeployError, OutputError, RunError
from irepdeploy.limits import JOURNAL, read_file

__all__ = [
    "append_line",
    "as_ours",
    "canonical_json",
    "move_file",
    "read_bytes",
    "read_lines",
    "remove_file",
    "sha256",
    "write_bytes",
    "write_json",
]

_LONGEST_LINE = 1 << 22
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_bytes(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write `content` to `path` atomically and return the path."""
    path = Path(path)
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            # mkstemp makes files private; results have the permissions of any other new file.
            os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise as_ours(error, path) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
    return path


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write `value` as indented JSON with a final newline, atomically, without NaN, which is not JSON."""
    return write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def append_line(path: str | os.PathLike[str], value: Any) -> None:
    """Append `value` as one line of JSON and flush it to the disk.

    A torn last line of a killed writer is removed first, and one that lacks only its newline gets it: in the middle of
    the file it would make all of it unreadable. If the disk is full, the part of this line that was written is removed.

    Raises:
        RunError: If the disk is full.
        OutputError: If the path cannot be written.
    """
    path = Path(path)
    line = (json.dumps(value, allow_nan=False, separators=(",", ":")) + "\n").encode()
    try:
        with open(path, "ab", buffering=0) as file:
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


def read_lines(path: str | os.PathLike[str], what: str = "file", of: str = "line") -> Iterator[tuple[int, Any]]:
    """Yield the JSON lines of a file as (line number, value); a torn last line is omitted and logged."""
    content = read_bytes(path, what, JOURNAL)
    lines = content[: _whole_length(content)].split(b"\n")
    if _whole_length(content) < len(content):
        log(f"{os.fspath(path)}: line {len(lines)} is torn (its writer was killed) and is omitted")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            where = f"{os.fspath(path)}, line {number}"
            raise InputError(f"not a {of}: not JSON", where=where, hint=f"is this a {what}?") from None


def move_file(source: Path, target: Path) -> None:
    """Rename a complete file on the same disk, atomically."""
    try:
        os.replace(source, target)
        _sync_folder(target.parent)
    except OSError as error:
        raise as_ours(error, target) from error


def remove_file(path: Path) -> None:
    """Remove a file if it exists."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise as_ours(error, path) from error


def read_bytes(path: str | os.PathLike[str], what: str = "file", most: int | None = None) -> bytes:
    """Return the content of `path`, a regular file of at most `most` bytes; see `limits.open_file`."""
    return read_file(path, what, most)


def sha256(source: bytes | str | os.PathLike[str]) -> str:
    """Return the hexadecimal SHA-256 of bytes or of a file's content."""
    return hashlib.sha256(source if isinstance(source, bytes) else read_bytes(source)).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return the canonical JSON of `value` for digests: sorted keys, no spaces, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True).encode()


def as_ours(error: OSError, path: Path) -> IrepdeployError:
    """Return the error of our tree for one raised while writing `path`."""
    if error.errno in _FULL:
        return RunError(
            f"cannot write: {os.strerror(error.errno or 0).lower()}", where=path, hint="free some space and run again"
        )
    return OutputError(f"cannot write: {error.strerror or error}", where=path, hint="choose another place with --out")


def _end_of_whole_lines(path: Path) -> int:
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        # Lines are shorter than this window, and only the last one can be torn.
        start = max(0, size - _LONGEST_LINE)
        file.seek(start)
        tail = file.read()
    return start + _whole_length(tail) if tail else 0


def _ends_a_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"


def _whole_length(content: bytes) -> int:
    """Return the length without a torn last line: one without a newline that is the beginning of an object."""
    kept, newline, last = content.rpartition(b"\n")
    if not last.startswith(b"{"):
        return len(content)
    try:
        json.loads(last)
    except (ValueError, RecursionError):
        return len(kept) + len(newline)
    return len(content)


def _refuse_constant(name: str) -> float:
    raise ValueError(name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    # Not every file system can open folders; the rename itself has happened.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
