"""Files on disk: written atomically, identified by digest.

A reader never sees half a file: bytes go to a temporary name in the same folder, are flushed to the disk, and are
renamed in one step.
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

# Of our own, since an unlocked file that has it is removed.
_PART = ".irepdeploy-"
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def write_bytes(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write `content` to `path` atomically and return the path."""
    path = Path(path)
    temporary = None
    try:
        descriptor, temporary = _temporary(path)
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


def move_files(files: Sequence[Path], folder: Path, aside: Path, *, remove: Sequence[str] = ()) -> None:
    """Move complete files into `folder`: all of them, or, if one cannot be moved, none.

    The last file vouches for the others. An earlier one of its name is removed before any other file is replaced, so
    that even after a kill, or where the earlier files cannot be put back either, it is never found beside others.

    Args:
        files: The files, on the same disk as `folder`.
        folder: Their new place.
        aside: An empty folder on the same disk that holds the earlier files meanwhile; the caller removes it.
        remove: Names of further files to remove from `folder`.

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
        # The one that vouches for the others comes last here, too: not if another cannot be put back.
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
        except OSError:  # not every file system has links
            shutil.copyfile(path, aside, follow_symlinks=False)
    except OSError as error:
        raise as_ours(error, path) from error


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


def remove_tree(path: Path) -> None:
    """Remove a folder and all that is in it; a link or anything else of its name stays, and so does what resists."""
    # rmtree opens what it is given, and opening a pipe never returns.
    with contextlib.suppress(OSError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path, ignore_errors=True)


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


def remove_abandoned(folder: Path) -> None:
    """Remove the temporary files in a folder whose writers were killed; a living writer holds a lock on its own."""
    for path in folder.glob(f"{_PART}*.part"):
        with contextlib.suppress(OSError), open(path, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def _temporary(path: Path) -> tuple[int, str]:
    """Create a temporary file beside `path`, locked for as long as it is open, and return its descriptor and name."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=_PART, suffix=".part", dir=path.parent)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass  # another process took it for abandoned
        except OSError:
            return descriptor, name  # without locks nothing is taken for abandoned either
        else:
            if os.fstat(descriptor).st_nlink:
                return descriptor, name
        os.close(descriptor)


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
