"""Output folders: each is owned by one run at a time and cleaned up afterwards.

A run locks a hidden file in its folder. The kernel releases the lock when the process ends, for whatever reason, so a
lock is never stale. The file names the owner and is removed with the lock; the next run takes over a file left by a
killed run. On a network file system mounted with local locks, runs on other machines are not detected.
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
from irepdeploy.errors import OutputError, RunError, one_line
from irepdeploy.files import as_ours, remove_abandoned, remove_tree

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["LOCK", "is_abandoned", "is_held", "make_folder", "output_folder", "staging_folder"]

LOCK = ".irepdeploy.lock"

# A prefix that nobody else uses, because any folder with it is removed, and `--out .` may contain anything.
_STAGING = ".irepdeploy-staging-"
# Another run that ends between two of our system calls may remove the file or the whole folder.
_ATTEMPTS = 5
_NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP}
_LONGEST_OWNER = 1 << 16
_LONGEST_COMMAND = 120

# (folder, thread) pairs that this process holds; the same thread may enter its folder again.
_held: set[tuple[str, int]] = set()


@contextlib.contextmanager
def output_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Create an output folder and lock it against other runs until the block ends.

    Files staged there by a killed run are removed first. At the end, folders that were created here and are still empty
    are removed. The thread that holds a folder may enter it again.

    Args:
        path: The folder; missing parents are created.

    Yields:
        The folder as a Path.

    Raises:
        RunError: Another run holds the folder, or the disk is full.
        OutputError: The folder cannot be written.
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
    """Create a folder, check that it is writable, and return it. The folder is not locked.

    Use it for the folder of a picture, or inside a folder that the run already holds.

    Raises:
        RunError: The disk is full.
        OutputError: The folder cannot be created or written.
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
    """Return whether the folder contains nothing but the lock file of a killed run of this machine."""
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
    """Return whether a run seems to be active in this folder: its lock file names a running process.

    A process on another machine cannot be checked and is assumed to be running.
    """
    try:
        owner = _parsed((Path(folder) / LOCK).read_bytes()[:_LONGEST_OWNER])
        if owner.get("host") == socket.gethostname():
            os.kill(int(owner["pid"]), 0)
    except PermissionError as error:
        # Either the process runs as another user, or (with a file name) the lock file is not readable.
        return error.filename is None
    except (OSError, KeyError, TypeError, ValueError, OverflowError):
        return False
    return bool(owner)


@contextlib.contextmanager
def staging_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Create a temporary folder inside `folder` and remove it, with whatever is left in it, when the block ends.

    Write results there and move them into place with `files.move_files`.

    Raises:
        RunError: The disk is full.
        OutputError: `folder` cannot be written.
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
        # A forked child that leaves the block does not own the lock.
        if os.getpid() == process:
            # Unlink before releasing: a process that has opened the file meanwhile then sees that it has no name.
            with contextlib.suppress(OSError):
                # The folder may have been moved, and another run may hold a new folder of the same name.
                if held is not None and os.path.samestat(held, os.stat(lock.lock_file)):
                    os.unlink(lock.lock_file)
            lock.release()


def _status(path: str) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _acquire(folder: Path) -> BaseFileLock | None:
    """Lock the folder, or log a warning and return None if its file system does not support locks."""
    from filelock import FileLock, Timeout

    # Not thread-local: a generator may be closed by another thread.
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
    """Raise OutputError if the name of the lock file is taken by something that is not a regular file."""
    with contextlib.suppress(FileNotFoundError):
        kind = os.lstat(file).st_mode
        if not stat.S_ISREG(kind):
            names = {stat.S_IFLNK: "a symbolic link", stat.S_IFIFO: "a pipe", stat.S_IFDIR: "a folder"}
            what = f"expected a file, which locks the folder, got {names.get(stat.S_IFMT(kind), 'a device or socket')}"
            raise OutputError(what, where=file, hint="remove it, or choose another --out")


def _sign(file: Path, descriptor: int) -> None:
    """Write the identity of this process into the lock file, just after locking it."""
    if os.fstat(descriptor).st_nlink > 1:
        # Writing would overwrite the content of another file.
        raise OSError(errno.EMLINK, "it is a hard link, not a lock file of irepdeploy")
    earlier = _parsed(os.pread(descriptor, _LONGEST_OWNER, 0))
    host = socket.gethostname()
    if earlier and earlier.get("host") != host:
        # On some network file systems, locks are valid on one machine only.
        log(f"note: {_described(earlier)} left this folder locked: make sure that it is no longer running")
    program = os.path.basename(sys.argv[0] if sys.argv else "")
    words = ["irepdeploy" if program == "__main__.py" else program, *sys.argv[1:]]
    since = datetime.now().astimezone().isoformat(" ", "seconds")
    owner = {"pid": os.getpid(), "host": host, "command": shlex.join(words), "since": since}
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, (json.dumps(owner) + "\n").encode(), 0)
    except OSError:
        # The disk is full. Nobody else can hold the file while we do, so it is safe to remove.
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
    # A long command must not push the process out of the line of an error.
    facts = {**dict.fromkeys(_FIELDS, "?"), **owner, "command": one_line(owner.get("command", "?"), _LONGEST_COMMAND)}
    return "`{command}` (process {pid} on {host}, since {since})".format_map(facts)


_FIELDS = ("command", "pid", "host", "since")


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
