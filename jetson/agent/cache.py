"""The agent's cache on the board: files by digest, job folders and timing caches."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from irepdeploy.errors import InputError, IrepdeployError, OutputError, RunError

from .request import RequestStream

__all__ = ["AgentCache", "default_cache"]

_DIGEST = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[\w][\w.+-]*")
_CHUNK = 1 << 20
_KEPT = "kept"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def default_cache() -> str:
    """Return ``~/.cache/irepdeploy-agent``, or the folder in XDG_CACHE_HOME."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "irepdeploy-agent")


class AgentCache:
    """The folder of the agent."""

    def __init__(self, root: str) -> None:
        self.root = os.path.abspath(root)

    def folder(self, name: str) -> str:
        """Return the path of a folder in the cache, creating it if needed."""
        path = os.path.join(self.root, name)
        with as_ours(path):
            # Models are private. makedirs applies the mode to the last folder only.
            os.makedirs(self.root, mode=0o700, exist_ok=True)
            os.makedirs(path, exist_ok=True)
        return path

    def file(self, digest: str) -> str:
        """Return the path of the file with this SHA-256."""
        path = self._file(digest)
        if not os.path.isfile(path):
            raise InputError(f"no file {digest[:12]} in the cache", where="sha256", hint="put it first")
        return path

    def has(self, digest: str) -> bool:
        """Return whether the file is present and undamaged; a damaged one is removed."""
        path = self._file(digest)
        try:
            if _sha256(path) == digest:
                return True
            os.unlink(path)
        except OSError:
            pass
        return False

    def put(self, stream: RequestStream, digest: str, size: int) -> None:
        """Store `size` bytes of the stream.

        Raises:
            InputError: The digest or the size is invalid.
            RunError: The stream ends early, the bytes have another digest, or the disk is full; nothing is kept.
        """
        path = self._file(digest)
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise InputError(f"expected a size in bytes, got {size!r}", where="size_bytes")
        folder = self.folder("files")
        free = shutil.disk_usage(folder).free
        if size > free:
            raise RunError(
                f"the disk is full: need {size / 2**20:.1f} MiB, {free / 2**20:.1f} MiB are free",
                where=folder,
                hint="free some space on the board",
            )
        hasher = hashlib.sha256()
        with _part(folder) as (part, file):
            left = size
            while left:
                content = stream.some(min(left, _CHUNK))
                if not content:
                    raise RunError(f"the file is truncated: {left} of {size} bytes are missing", where=digest[:12])
                with as_ours(folder):
                    file.write(content)
                hasher.update(content)
                left -= len(content)
            if hasher.hexdigest() != digest:
                raise RunError("the file arrived with another digest", where=digest[:12], hint="send it again")
            with as_ours(folder):
                file.flush()
                os.fsync(file.fileno())
                file.close()
                os.replace(part, path)

    @contextlib.contextmanager
    def job(self, *, keep: bool) -> Iterator[str]:
        """Create a folder for one run; it is removed at the end unless `keep` is set and the run succeeded.

        Folders of killed runs are removed first, which is safe because this run holds the lock.
        """
        folder = self.folder("jobs")
        for name in os.listdir(folder):
            if not os.path.exists(os.path.join(folder, name, _KEPT)):
                _remove(os.path.join(folder, name))
        with as_ours(folder):
            path = tempfile.mkdtemp(prefix=time.strftime("%Y%m%dT%H%M%SZ-", time.gmtime()), dir=folder)
        kept = False
        try:
            yield path
            if keep:
                with as_ours(path), open(os.path.join(path, _KEPT), "wb"):
                    kept = True
        finally:
            if not kept:
                _remove(path)

    def job_file(self, job: str, name: str) -> str:
        """Return the path of a file of a kept job."""
        if not all(isinstance(text, str) and _NAME.fullmatch(text) for text in (job, name)):
            raise InputError(f"invalid names {job!r}, {name!r}", where="get", hint="use those of a bench's result")
        path = os.path.join(self.root, "jobs", job, name)
        if not os.path.isfile(path) or os.path.islink(path):
            raise InputError(f"no file {name} in job {job}", where="get", hint="a job is removed unless it is kept")
        return path

    def end_job(self, job: str) -> int:
        """Remove the folder of a job, if it still exists, and return its size in bytes."""
        if not isinstance(job, str) or not _NAME.fullmatch(job):
            raise InputError(f"invalid job {job!r}", where="job", hint="use that of a bench's result")
        return _remove(os.path.join(self.root, "jobs", job))

    def clean(self) -> int:
        """Remove everything except the lock and the files that a restore needs."""
        with self.lock():
            removed = 0
            for part in ("files", "jobs", "timing", "agent"):
                folder = os.path.join(self.root, part)
                for name in os.listdir(folder) if os.path.isdir(folder) else ():
                    removed += _remove(os.path.join(folder, name))
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
            return removed

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Lock the board, so that only one run is in progress."""
        self.folder("")
        path = os.path.join(self.root, "lock")
        with as_ours(path):
            file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 - the lock ends with it
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                holder = file.read().strip() or "unknown"
                raise RunError(
                    f"another run of irepdeploy is measuring here (process {holder})",
                    where=path,
                    hint="wait until it ends: two runs would disturb each other",
                ) from error
            file.truncate(0)
            file.write(f"{os.getpid()}\n")
            file.flush()
            yield
            file.truncate(0)

    def _file(self, digest: Any) -> str:
        if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise InputError(f"expected a SHA-256 of 64 hexadecimal digits, got {digest!r}", where="sha256")
        return os.path.join(self.root, "files", digest)


@contextlib.contextmanager
def as_ours(where: str) -> Iterator[None]:
    """Convert OSError to one of irepdeploy's errors."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise RunError("the disk is full", where=where, hint="free some space on the board") from error
        raise OutputError(f"cannot write: {error.strerror or error}", where=where) from error


@contextlib.contextmanager
def _part(folder: str) -> Iterator[tuple[str, Any]]:
    with as_ours(folder):
        descriptor, path = tempfile.mkstemp(suffix=".part", dir=folder)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield path, file
    except IrepdeployError:
        raise
    except OSError as error:
        # Closing the file writes the rest of its buffer.
        with as_ours(folder):
            raise error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


def _sha256(path: str) -> str:
    hasher = hashlib.sha256()
    with open(path, "rb") as file:
        for content in iter(lambda: file.read(_CHUNK), b""):
            hasher.update(content)
    return hasher.hexdigest()


def _remove(path: str) -> int:
    size = 0
    if os.path.isdir(path) and not os.path.islink(path):
        for folder, _, names in os.walk(path):
            size += sum(os.lstat(os.path.join(folder, name)).st_size for name in names)
        shutil.rmtree(path, ignore_errors=True)
    elif os.path.lexists(path):
        size = os.lstat(path).st_size
        with as_ours(path):
            os.unlink(path)
    return size
