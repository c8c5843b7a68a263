"""Folders for results: owned by one run at a time, and cleaned up after it.

A run locks a hidden file in its folder. The kernel releases the lock when the process ends, however it ends, so no lock
is ever stale. The file itself says who holds it; it is removed with the lock, and one that a killed run left is taken
over by the next. A network file system that is mounted with local locks shows no run of another machine.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import shlex
import shutil
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from irepdeploy.console import log
from irepdeploy.errors import OutputError, RunError
from irepdeploy.files import as_ours, remove_abandoned, remove_tree

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["LOCK", "is_abandoned", "is_held", "make_folder", "output_folder", "staging_folder"]

LOCK = ".irepdeploy.lock"

# Of our own, since whatever has it is removed; a user's `--out .` may hold anything.
_STAGING = ".irepdeploy-staging-"
# The file, or the folder with it, may be removed by a run that ends between two system calls of ours.
_ATTEMPTS = 5
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP}
_LONGEST_OWNER = 1 << 16

# Folders that this process holds, with the thread of each: its further steps may use them.
_held: set[tuple[str, int]] = set()


@contextlib.contextmanager
def output_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Create a folder for results, and hold it against other runs until the block ends.

    Files that a killed run staged there are removed first; folders that were created and are still empty are removed at
    the end. The thread that holds a folder may enter it again.

    Raises:
        RunError: If another run holds the folder, or the disk is full.
        OutputError: If it cannot be written.
    """
    path = Path(path)
    holder = (os.path.realpath(path), threading.get_ident())
    if holder in _held:
        yield make_folder(path)
        return
    process = os.getpid()
    created = [folder for folder in (path, *path.parents) if not os.path.exists(folder)]
    try:
        with _locked(path):
            _held.add(holder)
            try:
                yield path
            finally:
                _held.discard(holder)
    finally:
        if os.getpid() == process:
            for folder in created:
                with contextlib.suppress(OSError):
                    folder.rmdir()


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Create a writable folder at `path`, or raise OutputError before any work is done; it is not locked.

    Use it for a picture's folder, or inside a folder that the run holds.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise as_ours(error, path) from error
    remove_abandoned(path)
    return path


def is_abandoned(folder: str | os.PathLike[str]) -> bool:
    """Return whether a run on this machine was killed before it wrote anything: the folder holds its lock alone."""
    from filelock import FileLock, Timeout

    file = Path(folder) / LOCK
    try:
        if os.listdir(folder) != [LOCK] or _parsed(file.read_bytes()).get("host") != socket.gethostname():
            return False
        with FileLock(file, blocking=False, fallback_to_soft=False):
            return True
    except (OSError, Timeout):
        return False


def is_held(folder: str | os.PathLike[str]) -> bool:
    """Return whether a run seems to be at work in this folder: its lock names a process that lives.

    A process of another machine is taken to live, since nothing here can tell.
    """
    try:
        owner = _parsed((Path(folder) / LOCK).read_bytes()[:_LONGEST_OWNER])
        if owner.get("host") == socket.gethostname():
            os.kill(int(owner["pid"]), 0)
    except PermissionError as error:
        # It lives, as another user; or the lock itself may not be read.
        return error.filename is None
    except (OSError, KeyError, TypeError, ValueError, OverflowError):
        return False
    return bool(owner)


@contextlib.contextmanager
def staging_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Create a temporary folder inside `folder`, which is removed with all that `move_files` has not moved out of it.

    Raises:
        RunError: If the disk is full.
        OutputError: If `folder` cannot be written.
    """
    try:
        staging = tempfile.mkdtemp(prefix=_STAGING, dir=folder)
    except OSError as error:
        raise as_ours(error, Path(folder)) from error
    process = os.getpid()
    try:
        yield Path(staging)
    finally:
        if os.getpid() == process:
            shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    lock = _acquire(folder)
    if lock is None:
        yield
        return
    process, held = os.getpid(), _status(lock.lock_file)
    try:
        for left in folder.glob(f"{_STAGING}*"):
            remove_tree(left)
        yield
    finally:
        # A forked child that leaves the block has no lock.
        if os.getpid() == process:
            # Removed before it is released: a process that has opened it meanwhile sees that it no longer has a name.
            with contextlib.suppress(OSError):
                # The folder may have been moved, and another run may hold one of its name.
                if held is not None and os.path.samestat(held, os.stat(lock.lock_file)):
                    os.unlink(lock.lock_file)
            lock.release()


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _acquire(folder: Path) -> BaseFileLock | None:
    """Lock the folder; if its file system has no locks, log that and return None."""
    from filelock import FileLock, Timeout

    # Not for one thread alone: a generator may be closed by another.
    file = folder / LOCK
    sign = functools.partial(_sign, file)
    lock = FileLock(file, blocking=False, thread_local=False, fallback_to_soft=False, on_acquired=sign)
    for attempt in range(_ATTEMPTS):
        make_folder(folder)
        _check_lock(file)
        try:
            lock.acquire()
        except Timeout:
            if os.path.exists(file) or attempt == _ATTEMPTS - 1:
                raise RunError(
                    f"this folder is in use by {_owner(file)}",
                    where=folder,
                    hint="wait until it has ended, or choose another --out",
                ) from None
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise as_ours(error, file) from error
            with contextlib.suppress(OSError):
                os.unlink(file)
            log(f"{folder}: this file system has no locks: do not start a second command with this --out")
            return None
        else:
            return lock
    raise RunError("the folder disappears while it is being locked", where=folder, hint="choose another --out")


def _check_lock(file: Path) -> None:
    """Raise OutputError if something else than a file has the name of the lock."""
    with contextlib.suppress(FileNotFoundError):
        kind = os.lstat(file).st_mode
        if not stat.S_ISREG(kind):
            names = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a pipe", stat.S_IFDIR: "a folder"}
            what = f"expected a file, which locks the folder, got {names.get(stat.S_IFMT(kind), 'a device or socket')}"
            raise OutputError(what, where=file, hint="remove it, or choose another --out")


def _sign(file: Path, descriptor: int) -> None:
    """Write who we are into the file that we have just locked."""
    if os.fstat(descriptor).st_nlink > 1:
        # The content of another file would be overwritten.
        raise OSError(errno.EMLINK, "it is a hard link, and no lock of ours")
    earlier = _parsed(os.pread(descriptor, _LONGEST_OWNER, 0))
    host = socket.gethostname()
    if earlier and earlier.get("host") != host:
        # Locks of some network file systems hold on one machine only.
        log(f"note: {_described(earlier)} left this folder locked: make sure that it is no longer running")
    program = os.path.basename(sys.argv[0] if sys.argv else "")
    words = ["irepdeploy" if program == "__main__.py" else program, *sys.argv[1:]]
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    owner = {"pid": os.getpid(), "host": host, "command": shlex.join(words), "since": since}
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(owner) + "\n").encode(), 0)
    except OSError:
        # The disk is full. While we hold it, nobody else can.
        os.unlink(file)
        raise


def _owner(lock: Path) -> str:
    try:
        with open(lock, "rb") as file:
            owner = _parsed(file.read(_LONGEST_OWNER))
    except OSError:
        owner = {}
    if owner.get("pid") == os.getpid() and owner.get("host") == socket.gethostname():
        return "another thread of this process"
    return _described(owner) if owner else "another command"


def _described(owner: dict[str, Any]) -> str:
    return "`{command}` (process {pid} on {host}, since {since})".format_map({**dict.fromkeys(_FIELDS, "?"), **owner})


_FIELDS = ("command", "pid", "host", "since")


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
