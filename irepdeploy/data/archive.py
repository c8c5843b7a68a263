"""Published files in a folder or still in their .tar.gz, checked by name, size and digest."""

from __future__ import annotations

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from irepdeploy.errors import InputError
from irepdeploy.files import read_bytes

__all__ = ["Archive", "Published", "find_archive"]

_MEND = "download it again, or data.verify=false for an archive of your own in this format"
_SHOWN = 6


@dataclass(frozen=True)
class Published:
    """An archive as it was published.

    Args:
        archive: name of the .tar.gz, with its size in bytes and its MD5.
        folder: name of the folder in it.
        files: size and MD5 of each file that is needed; None of what nobody published one for.
    """

    archive: str
    size: int
    md5: str
    folder: str
    files: Mapping[str, tuple[int, str] | None]


@dataclass(frozen=True)
class Archive:
    """One that was found: a folder, or a .tar.gz."""

    path: Path
    published: Published
    verify: bool

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """The content of files.

        Raises:
            InputError: one is missing or damaged.
        """
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

    def check(self) -> None:
        """Check that all files are there, and the size and digest of a .tar.gz; those in a folder when they are read.

        Raises:
            InputError: a file is missing or renamed, or the archive is damaged.
        """
        if self.path.is_dir():
            missing = [name for name in self.published.files if not (self.path / name).is_file()]
            if missing:
                text = f"{', '.join(missing)} missing; there {_listed(self.path)}"
                raise InputError(text, where=self.path, hint="extract the archive again")
        elif self.verify:
            try:
                with open(self.path, "rb") as file:
                    _check(self.path, self.path.stat().st_size, self.published.size)
                    digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
            except OSError as error:
                raise InputError(f"cannot read this archive: {error.strerror}", where=self.path) from error
            _check_digest(self.path, digest, self.published.md5)

    def _unpacked(self, names: set[str]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        try:
            # As a stream, since the members are read in the order they lie in; nothing is written anywhere.
            with tarfile.open(self.path, "r|gz") as archive:
                for member in archive:
                    path = PurePosixPath(member.name)
                    if member.isfile() and path.name in names and path.parent.name == self.published.folder:
                        file = archive.extractfile(member)
                        assert file is not None
                        found[path.name] = file.read()
                        if len(found) == len(names):
                            break
        except (OSError, EOFError, tarfile.TarError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"not a whole .tar.gz: {error}", where=self.path, hint=_MEND) from error
        missing = sorted(names - set(found))
        if missing:
            raise InputError(f"{', '.join(missing)} missing in {self.published.folder}/", where=self.path, hint=_MEND)
        return found


def find_archive(root: Path, formats: Iterable[Published], *, verify: bool) -> Archive:
    """The first of these that is at `root`: an archive or its folder, in it or `root` itself; checked.

    Raises:
        InputError: there is none, a file of it is missing or renamed, or it is damaged.
    """
    published = list(formats)
    for one in published:
        for path in (root, root / one.folder):
            if path.is_dir() and (path.name == one.folder or any((path / name).exists() for name in one.files)):
                return _checked(Archive(path, one, verify))
    for one in published:
        for path in (root, root / one.archive):
            if path.name == one.archive and path.is_file():
                return _checked(Archive(path, one, verify))
    names = " or ".join(f"{one.archive} or {one.folder}/" for one in published)
    raise InputError(
        f"neither {names}; there {_listed(root)}" if root.is_dir() else f"is none of {names}",
        where=root,
        hint="data.root=DIR names the folder that holds the archive; a renamed one gets its published name back",
    )


def _checked(archive: Archive) -> Archive:
    archive.check()
    return archive


def _check(path: Path, size: int, expected: int) -> None:
    if size != expected:
        what = "not whole" if size < expected else "not the published file"
        raise InputError(f"{what}: {size:,} bytes of {expected:,}", where=path, hint=_MEND)


def _check_digest(path: Path, digest: str, expected: str) -> None:
    if digest != expected:
        raise InputError(f"damaged, or not the published file: MD5 {digest}, not {expected}", where=path, hint=_MEND)


def _listed(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"is {', '.join(names[:_SHOWN])}{more}" if names else "is nothing"
