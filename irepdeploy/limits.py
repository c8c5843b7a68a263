"""Limits: the kinds and sizes of files that are read, and the memory of this machine.

Opening a FIFO without a writer never returns, reading `/dev/zero` never ends, and a sparse file of a terabyte takes a
second to make. So only regular files are opened, and no file is read that is larger than its kind can be. This module
supports Python 3.8, since it is part of the agent on the board.
"""

from __future__ import annotations

import os
import stat
from io import BufferedReader
from typing import Optional, Union

from irepdeploy.errors import InputError, RunError

__all__ = ["DESCRIPTION", "JOURNAL", "MODEL", "check_memory", "memory_bytes", "open_file", "read_file", "size_text"]

# Bytes: what people write or review, what runs append to, and what protobuf can hold.
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
        path: The file.
        what: Kind of file that is expected, for messages.
        most: Largest size in bytes; by default that of this machine's memory.

    Raises:
        InputError: It is missing, too large, unreadable, or a directory, pipe, socket or device.
    """
    limit = memory_bytes() if most is None else most
    try:
        # Opening a device may have an effect, such as rewinding a tape.
        _check(os.stat(path), path, what, limit)
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_CLOEXEC", 0)
        descriptor = os.open(path, flags)
        try:
            # Another file may have taken its name in between.
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
    """Return the content of a file; see `open_file`."""
    limit = memory_bytes() if most is None else most
    try:
        with open_file(path, what, limit) as file:
            content = file.read(os.fstat(file.fileno()).st_size)
            more = file.read(1 << 16)
            if not more:
                return content
            # It grows, or is a file of /proc, whose size is 0 whatever it holds, and which may never end.
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
    """Return the memory of this machine, or what the container may use of it."""
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
    """Raise RunError if `size` bytes, needed for `what`, are more than the memory of this machine."""
    here = memory_bytes()
    if size > here:
        need = f"{what} would take {size_text(size)} of memory, more than the {size_text(here)} of this machine"
        raise RunError(need, where=where)


def size_text(size: int) -> str:
    """Format a number of bytes for people: ``71 MB``, ``1.24 GB`` (10^9 bytes)."""
    if abs(size) >= 10**18:  # also integers that are too large for a float
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
