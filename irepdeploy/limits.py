"""Limits on the type and size of input files, and the memory of this machine.

Opening a FIFO without a writer never returns, reading `/dev/zero` never ends, and a sparse file of a terabyte is made
in a second. Therefore only regular files are opened, up to the largest size that makes sense for their kind. This
module supports Python 3.8, because it is part of the agent on the board.
"""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from typing import Optional, Union

from irepdeploy.errors import InputError, RunError

__all__ = ["DESCRIPTION", "JOURNAL", "MODEL", "check_memory", "memory_bytes", "open_file", "read_file", "size_text"]

# Size limits in bytes: files that people write or review, files that runs append to, and protobuf's own limit.
DESCRIPTION, JOURNAL, MODEL = 16 << 20, 1 << 30, (1 << 31) - 1

_Path = Union[str, "os.PathLike[str]"]
_KINDS = (
    (stat.S_ISFIFO, "a pipe", "write it to a file first"),
    (stat.S_ISSOCK, "a socket", "write it to a file first"),
    (stat.S_ISCHR, "a device", "name a file"),
    (stat.S_ISBLK, "a device", "name a file"),
)


def open_file(path: _Path, what: str = "file", most: Optional[int] = None) -> BufferedReader:
    """Open a regular file for reading.

    Args:
        path: Path of the file.
        what: Kind of file that is expected, for error messages.
        most: Maximum size in bytes. Default: the memory of this machine.

    Returns:
        The file, open in binary mode. The caller closes it.

    Raises:
        InputError: The file is missing, too large, unreadable, or is a directory, pipe, socket or device.
    """
    limit = memory_bytes() if most is None else most
    try:
        # Check before opening: opening a device may have side effects, such as rewinding a tape.
        _check(os.stat(path), path, what, limit)
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(path, flags)
        try:
            # Check again: another file may have taken the name in between.
            _check(os.fstat(descriptor), path, what, limit)
            return os.fdopen(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except FileNotFoundError:
        raise InputError(f"no such {what}", where=path, hint="check the path") from None
    except OSError as error:
        raise InputError(f"cannot read this {what}: {error.strerror}", where=path) from error
    except ValueError:
        raise InputError(f"no such {what}: a path has no NUL", where=repr(path), hint="check the path") from None


def read_file(path: _Path, what: str = "file", most: Optional[int] = None) -> bytes:
    """Return the content of a file. The arguments and input errors are those of `open_file`.

    Raises:
        InputError: The file cannot be read, or is not a regular file of at most `most` bytes.
        RunError: The content does not fit into memory.
    """
    limit = memory_bytes() if most is None else most
    try:
        with open_file(path, what, limit) as file:
            content = file.read(os.fstat(file.fileno()).st_size)
            more = file.read(1 << 16)
            if not more:
                return content
            # The file is growing, or is in /proc, where every size is reported as 0 and a file may never end.
            parts, size = [content], len(content)
            limit = min(limit, size + DESCRIPTION)
            while more:
                parts.append(more)
                size += len(more)
                if size > limit:
                    raise _too_large(size, path, what, limit)
                more = file.read(1 << 16)
            return b"".join(parts)
    except OSError as error:
        raise InputError(f"cannot read this {what}: {error.strerror}", where=path) from error
    except MemoryError:
        raise RunError(f"not enough memory to read this {what}", where=path) from None


def memory_bytes() -> int:
    """Return the memory of this machine in bytes, or the limit of the container if that is lower."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 1 << 40
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            with open(path, encoding="ascii") as file:
                total = min(total, int(file.read()))
        except (OSError, ValueError):
            continue
    return total


def check_memory(size: int, what: str, where: object = None) -> None:
    """Raise RunError if `what` needs more memory (`size` bytes) than this machine has."""
    here = memory_bytes()
    if size > here:
        need = f"{what} would take {size_text(size)} of memory, more than the {size_text(here)} of this machine"
        raise RunError(need, where=where)


def size_text(size: int) -> str:
    """Return a number of bytes as text with a decimal unit: ``71 MB``, ``1.24 GB`` (10^9 bytes)."""
    if abs(size) >= 10**18:  # includes integers that are too large for a float
        return "more than 10^18 bytes"
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if abs(size) >= factor:
            return f"{size / factor:.3g} {unit}" if abs(size) < 999.5 * factor else f"{size / factor:.0f} {unit}"
    return f"{size} bytes"


def _check(found: os.stat_result, path: _Path, what: str, limit: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise InputError(f"expected {_named(what)}, got a directory", where=path, hint="name the file in it")
    for is_kind, kind, hint in _KINDS:
        if is_kind(found.st_mode):
            raise InputError(f"expected {_named(what)}, got {kind}", where=path, hint=hint)
    if found.st_size > limit:
        raise _too_large(found.st_size, path, what, limit)


def _too_large(size: int, path: _Path, what: str, limit: int) -> InputError:
    got, most = size_text(size), size_text(limit)
    return InputError(f"expected {_named(what)} of at most {most}, got {'more' if got == most else got}", where=path)


def _named(what: str) -> str:
    return f"{'an' if what[:1] in 'AEIOUaeio' else 'a'} {what}"
