"""Files on disk: atomic writes and digests.

A reader never sees an incomplete file: the content is written to a temporary file in the same folder, flushed to disk,
and renamed in one step.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from irepdeploy.errors import IrepdeployError, OutputError, RunError
from irepdeploy.limits import read_file

__all__ = [
    "as_ours",
    "canonical_json",
    "move_file",
    "move_files",
    "read_bytes",
    "remove_abandoned",
    "remove_file",
    "remove_tree",
    "sha256",
    "write_bytes",
    "write_json",
]

# A prefix that nobody else uses, because any unlocked file with it is removed.
_PART = ".irepdeploy-"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_bytes(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write `content` to `path` atomically and return the path.

    Raises:
        RunError: The disk is full.
        OutputError: `path` cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        descriptor, temporary = _temporary(path)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            # mkstemp creates private files; give results the default permissions of a new file.
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
    """Write `value` atomically as indented JSON with a final newline, and return the path.

    Raises:
        ValueError: `value` contains NaN or an infinity, which JSON does not have.
        RunError: The disk is full.
        OutputError: `path` cannot be written.
    """
    return write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def move_files(files: Sequence[Path], folder: Path, aside: Path, *, remove: Sequence[str] = ()) -> None:
    """Move complete files into `folder`: all of them or, if one cannot be moved, none.

    The last file certifies the others. Its previous version is removed before any other file is replaced, so that it
    is never found next to files that it does not describe, even if the process is killed or restoring fails.

    Args:
        files: Files to move, on the same file system as `folder`.
        folder: Destination folder.
        aside: An empty folder on the same file system that keeps the previous files meanwhile. The caller removes it.
        remove: Names of additional files to remove from `folder`.

    Raises:
        RunError: The disk is full.
        OutputError: `folder` cannot be written.
    """
    names = [*remove, *(path.name for path in files)]
    earlier = [name for name in names if os.path.lexists(folder / name)]
    for name in earlier:
        _keep(folder / name, aside / name)
    try:
        for name in (*remove, files[-1].name):
            remove_file(folder / name)
        for path in files:
            move_file(path, folder / path.name)
    except BaseException:
        # Here too the file that certifies the others comes last: it stays away if another cannot be restored.
        with contextlib.suppress(OSError):
            for name in names:
                if name in earlier:
                    os.replace(aside / name, folder / name)
                else:
                    (folder / name).unlink(missing_ok=True)
        raise


def _keep(path: Path, aside: Path) -> None:
    try:
        try:
            os.link(path, aside, follow_symlinks=False)
        except OSError:  # not every file system supports hard links
            shutil.copyfile(path, aside, follow_symlinks=False)
    except OSError as error:
        raise as_ours(error, path) from error


def move_file(source: Path, target: Path) -> None:
    """Move a complete file atomically within one file system."""
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


def remove_tree(path: Path) -> None:
    """Remove a folder and its contents, ignoring errors; leave links and anything else that is not a folder."""
    # rmtree opens its argument, and opening a pipe would block forever.
    with contextlib.suppress(OSError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path, ignore_errors=True)


def read_bytes(path: str | os.PathLike[str], what: str = "file", most: int | None = None) -> bytes:
    """Return the content of a regular file of at most `most` bytes; see `limits.open_file`."""
    return read_file(path, what, most)


def sha256(source: bytes | str | os.PathLike[str]) -> str:
    """Return the SHA-256 of bytes, or of the content of a file, in hexadecimal."""
    return hashlib.sha256(source if isinstance(source, bytes) else read_bytes(source)).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return `value` as canonical JSON for digests: sorted keys, no spaces, ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=True).encode()


def as_ours(error: OSError, path: Path) -> IrepdeployError:
    """Convert an OSError raised while writing `path` into an irepdeploy error."""
    if error.errno in _FULL:
        return RunError(
            f"cannot write: {os.strerror(error.errno or 0).lower()}", where=path, hint="free some space and run again"
        )
    return OutputError(f"cannot write: {error.strerror or error}", where=path, hint="choose another place with --out")


def remove_abandoned(folder: Path) -> None:
    """Remove temporary files whose writers were killed; a running writer holds a lock on its file."""
    for path in folder.glob(f"{_PART}*.part"):
        with contextlib.suppress(OSError), open(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _temporary(path: Path) -> tuple[int, str]:
    """Create a temporary file next to `path`, locked while it is open, and return its descriptor and name."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=_PART, suffix=".part", dir=path.parent)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # another process considers it abandoned and is removing it
        except OSError:
            return descriptor, name  # a file system without locks: nobody can consider it abandoned
        else:
            if os.fstat(descriptor).st_nlink:
                return descriptor, name
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    # Not every file system can open folders. The rename has already happened, so this is no error.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
