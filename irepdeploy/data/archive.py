"""Find published data files in a folder or a .tar.gz archive, and verify their names, sizes and digests."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from irepdeploy.errors import InputError, one_line
from irepdeploy.files import read_bytes
from irepdeploy.limits import open_file, size_text

__all__ = ["Archive", "Published", "find_archive"]

_FIX = "download it again, or pass data.verify=false for your own archive in this format"
_SHOWN = 6
_LARGEST = 1 << 30


@dataclass(frozen=True)
class Published:
    """A published archive of a data set.

    Args:
        archive: File name of the .tar.gz.
        size: Size of the .tar.gz in bytes.
        md5: MD5 of the .tar.gz.
        folder: Name of the extracted folder.
        files: Size in bytes and MD5 of each required file; None for a file without a published digest.
    """

    archive: str
    size: int
    md5: str
    folder: str
    files: Mapping[str, tuple[int, str] | None]


@dataclass(frozen=True)
class Archive:
    """An extracted folder or a .tar.gz file of a published archive; `verify` checks sizes and digests."""

    path: Path
    published: Published
    verify: bool

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """Read files by name and return their contents."""
        if not self.path.is_dir():
            return self._unpacked(set(names))
        found = {}
        for name in names:
            found[name] = read_bytes(self.path / name, f"file of {self.published.folder}")
            expected = self.published.files[name]
            if self.verify and expected is not None:
                _check(self.path / name, len(found[name]), expected[0])
                _check_digest(
                    self.path / name, hashlib.md5(found[name], usedforsecurity=False).hexdigest(), expected[1]
                )
        return found

    def checked(self) -> Archive:
        """Return the archive itself after checking it.

        For a folder, only missing files are detected here, because files are verified when they are read. For a
        .tar.gz, the size and digest are verified.

        Raises:
            InputError: A file is missing, or the archive is damaged.
        """
        if self.path.is_dir():
            missing = [name for name in self.published.files if not (self.path / name).is_file()]
            if missing:
                text = f"{', '.join(missing)} missing; found {_listed(self.path)}"
                raise InputError(text, where=self.path, hint="extract the archive again")
        elif self.verify:
            try:
                with open_file(self.path, "archive") as file:
                    _check(self.path, self.path.stat().st_size, self.published.size)
                    digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            except OSError as error:
                raise InputError(f"cannot read this archive: {error.strerror}", where=self.path) from error
            _check_digest(self.path, digest, self.published.md5)
        return self

    def _unpacked(self, names: set[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        try:
            # Stream mode reads the members in order and extracts nothing to disk.
            with (
                open_file(self.path, "archive") as file,
                gzip.open(file) as stream,
                # In stream mode, tarfile uses only the method `read`.
                tarfile.open(fileobj=cast(Any, _Bounded(stream, self.path)), mode="r|") as archive,
            ):
                for member in archive:
                    path = PurePosixPath(member.name)
                    if member.isfile() and path.name in names and path.parent.name == self.published.folder:
                        content = archive.extractfile(member)
                        assert content is not None
                        found[path.name] = content.read()
                        if len(found) == len(names):
                            break
        except (OSError, EOFError, tarfile.TarError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"truncated or damaged .tar.gz: {one_line(error)}", where=self.path, hint=_FIX) from error
        missing = sorted(names - set(found))
        if missing:
            raise InputError(f"{', '.join(missing)} missing in {self.published.folder}/", where=self.path, hint=_FIX)
        return found


class _Bounded:
    """A stream that refuses to unpack more than a plausible archive of images for training in memory."""

    def __init__(self, stream: gzip.GzipFile, where: object) -> None:
        self._stream, self._where, self._left = stream, where, _LARGEST

    def read(self, size: int) -> bytes:
        self._left -= size
        if self._left < 0:
            raise InputError(f"unpacks to more than {size_text(_LARGEST)}", where=self._where, hint=_FIX)
        return self._stream.read(size)


def find_archive(root: Path, formats: Iterable[Published], *, verify: bool) -> Archive:
    """Find the first of the published archives at `root`, and check it.

    Args:
        root: The archive, its extracted folder, or a folder that contains either. Folders are preferred to .tar.gz
            files.
        formats: Archives to look for.
        verify: Whether to check sizes and digests.

    Raises:
        InputError: No archive is found, or it is incomplete or damaged.
    """
    published = list(formats)
    for one in published:
        for path in (root, root / one.folder):
            if path.is_dir() and (path.name == one.folder or any((path / name).exists() for name in one.files)):
                return Archive(path, one, verify).checked()
    for one in published:
        for path in (root, root / one.archive):
            if path.name == one.archive and path.is_file():
                return Archive(path, one, verify).checked()
    names = " or ".join(f"{one.archive} or {one.folder}/" for one in published)
    raise InputError(
        f"expected {names}, found {_listed(root)}" if root.is_dir() else f"expected {names}",
        where=root,
        hint="data.root=DIR is the folder that contains the archive under its published name",
    )


def _check(path: Path, size: int, expected: int) -> None:
    if size != expected:
        what = "truncated" if size < expected else "not the published file"
        raise InputError(f"{what}: expected {expected:,} bytes, got {size:,}", where=path, hint=_FIX)


def _check_digest(path: Path, digest: str, expected: str) -> None:
    if digest != expected:
        raise InputError(
            f"damaged, or not the published file: expected MD5 {expected}, got {digest}", where=path, hint=_FIX
        )


def _listed(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}" if names else "nothing"
