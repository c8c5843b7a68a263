"""Find the material of a report: runs, comparisons, certificates, detections and measurements."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from irepdeploy.console import log
from irepdeploy.errors import InputError, IrepdeployError
from irepdeploy.runs.journal import JOURNAL
from irepdeploy.runs.record import Record
from irepdeploy.runs.reproduction import ReproducedCell, ReproducedRecord

from .certified import CERTIFICATES, Certified, certified_of
from .contest import COMPARISON, Contest, contest_of, contests_of_cells
from .found_objects import DETECTIONS, FoundObjects, found_objects
from .measurements import digest_of, measurements_in
from .run import Run, labels_of, read_run

__all__ = ["Gathered", "gather", "source_files"]

_T = TypeVar("_T")
# Files that are read in folders, besides all JSON-lines files.
_READ = (*CERTIFICATES, COMPARISON, DETECTIONS)
_HINT = "`irepdeploy search`, `train`, `export` and `bench` leave what is reported"


@dataclass
class Gathered:
    """The material of a report.

    Attributes:
        records: Latency measurements in the order found, without duplicates.
        others: Lines of suites and benchmarks that do not measure latency.
        runs: Searches and trainings, except those of comparisons.
        contests: Comparisons of strategies or presets, including those of a reproduction.
        folders: All folders that were given or visited.
        notes: Omitted lines and files with the reason, shown on the page.
    """

    records: list[Record] = field(default_factory=list)
    others: list[dict[str, Any]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    contests: list[Contest] = field(default_factory=list)
    certificates: list[Certified] = field(default_factory=list)
    detections: list[FoundObjects] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add a note and log it."""
        self.notes.append(text)
        log(text)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to report."""
        kinds = (self.records, self.others, self.runs, self.contests, self.certificates, self.detections)
        return not any(kinds)


def gather(places: Sequence[str | os.PathLike[str]]) -> Gathered:
    """Read files, and folders recursively.

    Unreadable lines, unreadable files and damaged runs are omitted with a note; if the user named one explicitly, it is
    an error.

    Raises:
        InputError: A place does not exist, or there is nothing to report.
    """
    found = Gathered()
    files = source_files(places, found)
    by_name: dict[str, dict[Path, bool]] = {}
    for path, named in files.items():
        kind = path.name if path.name in (*_READ, JOURNAL) else CERTIFICATES[0] if path.suffix == ".json" else ""
        by_name.setdefault(kind, {})[path] = named
    whole = _read_measurements(by_name.get("", {}), found)
    certificates = {path: named for name in CERTIFICATES for path, named in by_name.get(name, {}).items()}
    for (path, named), label in _labelled(certificates):
        found.certificates += _tried(found, named, certified_of, path, label)
    for (path, named), label in _labelled(by_name.get(COMPARISON, {})):
        contests = _tried(found, named, contest_of, path, label)
        found.contests += contests
        whole += [path.parent] if contests else []
    for (path, named), label in _labelled(by_name.get(DETECTIONS, {})):
        found.detections += _tried(found, named, found_objects, path, label)
    runs = {path: named for path, named in by_name.get(JOURNAL, {}).items() if not _is_part(path.parent, whole)}
    for (path, named), label in _labelled(runs):
        found.runs += [run for run in _tried(found, named, read_run, path.parent, label, found.note) if run is not None]
    if found.is_empty:
        where = ", ".join(map(str, places))
        raise InputError("nothing to report: no run, no certificate and no measurement", where=where, hint=_HINT)
    return found


def source_files(places: Sequence[str | os.PathLike[str]], found: Gathered) -> dict[Path, bool]:
    """Return the files that a report reads, without duplicates, and whether the user named each explicitly.

    Raises:
        InputError: A place does not exist.
    """
    files: dict[Path, bool] = {}
    seen: set[str] = set()
    for place in map(Path, places):
        if not place.exists():
            raise InputError("no such folder or file", where=place, hint=_HINT)
        named = not place.is_dir()
        for path in [place] if named else _walk(place, found):
            resolved = os.path.realpath(path)
            if resolved not in seen:
                seen.add(resolved)
                files[path] = named
    return files


def _walk(folder: Path, found: Gathered) -> Iterator[Path]:
    def refused(error: OSError) -> None:
        found.note(f"omitted: {error.filename}: {error.strerror}")

    for top, below, names in os.walk(folder, onerror=refused):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found.folders.append(Path(top))
        yield from (Path(top, name) for name in sorted(names) if name.endswith(".jsonl") or name in _READ)


def _read_measurements(files: dict[Path, bool], found: Gathered) -> list[Path]:
    """Read records into `found`, and return the folders of those that are cells of a reproduction."""
    seen: set[str] = set()
    cells: dict[str, ReproducedCell] = {}
    whole = []
    for path, named in files.items():
        for measured in _tried(found, named, _named_measurements if named else measurements_in, path, found.note):
            for each in measured:
                digest = digest_of(each)
                if digest in seen:
                    continue
                seen.add(digest)
                if isinstance(each, Record):
                    found.records.append(each)
                elif isinstance(each, ReproducedRecord):
                    whole.append(path.parent)
                    if isinstance(each, ReproducedCell):
                        cells.setdefault(each.cell, each)
                else:
                    found.others.append(each)
    found.contests += contests_of_cells(cells)
    return whole


def _named_measurements(path: Path, note: Callable[[str], object]) -> list[Any]:
    measured = measurements_in(path, note)
    if not measured:
        raise InputError("no measurement in it", where=path, hint="`irepdeploy bench --out DIR` writes records.jsonl")
    return measured


def _tried(found: Gathered, named: bool, read: Callable[..., _T], *arguments: Any) -> list[_T]:
    """Return what was read, or nothing with a note on the fault; raise the fault for files that the user named."""
    try:
        return [read(*arguments)]
    except IrepdeployError as error:
        if named:
            raise
        found.note(f"omitted: {error.line}")
        return []


def _labelled(files: dict[Path, bool]) -> Iterator[tuple[tuple[Path, bool], str]]:
    return zip(files.items(), labels_of([path.parent for path in files]), strict=True)


def _is_part(folder: Path, whole: Sequence[Path]) -> bool:
    return any(each != folder and each in folder.parents for each in whole)
