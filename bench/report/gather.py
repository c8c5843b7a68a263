"""Find what a report is about: records, records of other suites, certificates, searches."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from irepdeploy.console import log
from irepdeploy.errors import InputError, IrepdeployError
from irepdeploy.files import sha256
from irepdeploy.parsing.json_lines import read_lines
from irepdeploy.parsing.json_text import JsonError, unsealed
from irepdeploy.runs.journal import JOURNAL
from irepdeploy.runs.record import Record, record_of
from irepdeploy.verify.certificate import Certificate

__all__ = ["Certified", "Gathered", "gather"]


@dataclass(frozen=True)
class Certified:
    """A certificate with its path and, if the certified files have changed, the fault."""

    path: Path
    certificate: Certificate
    fault: str | None

    @property
    def source(self) -> str:
        """The source of the export; the file's name alone, since the folder means nothing to readers of the page."""
        source = self.certificate.source
        return " ".join(filter(None, [str(source.get("net") or ""), Path(str(source.get("file") or "")).name]))

    @property
    def target(self) -> str:
        """The target of the export."""
        return str(self.certificate.target.get("name", ""))

    @property
    def verdict(self) -> str:
        """Whether every hop passed and the files are unchanged, in words."""
        fault = self.certificate.failure or self.fault
        if self.certificate.ok and not fault:
            return "passed"
        return f"failed: {fault or 'a hop exceeds its tolerance'}"

    @property
    def files(self) -> str:
        """Names and sizes of the certified files."""
        artefacts = self.certificate.artefacts
        return ", ".join(f"{artefact.file} ({artefact.size_bytes / 1e6:.1f} MB)" for artefact in artefacts)


@dataclass
class Gathered:
    """The material of a report.

    Attributes:
        records: Measurements of latency in the order found, each once.
        others: Lines of suites and benchmarks that do not measure latency.
        folders: Every folder that was given or walked through.
        notes: Omitted lines and files, and why; shown on the page.
    """

    records: list[Record] = field(default_factory=list)
    others: list[dict[str, Any]] = field(default_factory=list)
    certificates: list[Certified] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Add a note and log it."""
        self.notes.append(text)
        log(text)


def gather(places: Sequence[str | os.PathLike[str]]) -> Gathered:
    """Read files, and folders recursively.

    In folders, files of JSON lines with measurements and every certificate.json are read. A bad line is omitted with a
    note, and so is a file in which nothing can be read; if it was named itself, it is an error.
    """
    found, seen = Gathered(), set[str]()
    for place in map(Path, places):
        if not place.exists():
            raise InputError("no such folder or file", where=place, hint="`irepdeploy bench --out DIR` writes records")
        named = not place.is_dir()
        for path in [place] if named else _walk(place, found):
            resolved = os.path.realpath(path)
            if resolved in seen:
                continue
            seen.add(resolved)
            try:
                _read(path, found, seen, named)
            except IrepdeployError as error:
                if named:
                    raise
                found.note(f"omitted: {error.line}")
    runs = any((folder / JOURNAL).is_file() and (folder / "result.json").is_file() for folder in found.folders)
    if not (found.records or found.others or found.certificates or runs):
        raise InputError(
            "nothing to report: no measurement, no certificate and no finished run",
            where=", ".join(map(str, places)),
            hint="measure first: irepdeploy bench MODEL --out DIR",
        )
    return found


def _walk(folder: Path, found: Gathered) -> Iterator[Path]:
    def refused(error: OSError) -> None:
        found.note(f"omitted: {error.filename}: {error.strerror}")

    for top, below, names in os.walk(folder, onerror=refused):
        below[:] = sorted(name for name in below if not name.startswith("."))
        found.folders.append(Path(top))
        yield from (Path(top, name) for name in sorted(names) if name.endswith(".jsonl") or name == "certificate.json")


def _read(path: Path, found: Gathered, seen: set[str], named: bool) -> None:
    if path.suffix == ".json":
        certificate = Certificate.load(path)
        found.certificates.append(Certified(path, certificate, _fault(path, certificate)))
        return
    lines = read_lines(path, _measurement_of, "file of records", "record", note=found.note)
    measured = [each for each in lines.values.values() if each is not None]
    if not measured and named:
        raise InputError("no measurement in it", where=path, hint="`irepdeploy bench --out DIR` writes records.jsonl")
    for each in measured:
        whole = asdict(each) if isinstance(each, Record) else each
        digest = sha256(json.dumps(whole, sort_keys=True).encode())
        # A copy of a file, or a record that was merged into another one, is the same measurement.
        if digest in seen:
            continue
        seen.add(digest)
        if isinstance(each, Record):
            found.records.append(each)
        else:
            found.others.append(each)


def _measurement_of(value: object, where: str) -> Record | dict[str, Any] | None:
    """Return the record in a line, the line of another suite or benchmark as it is, or None for anything else."""
    if not isinstance(value, dict):
        return None
    if "schema" in value or {"runner", "scenario", "samples_ns"} <= value.keys():
        return record_of(value, where)
    try:
        line: dict[str, Any] = unsealed(value)
    except JsonError as error:
        raise InputError(f"not a record: {error}", where=where) from None
    return line if isinstance(line.get("suite", line.get("benchmark")), str) else None


def _fault(path: Path, certificate: Certificate) -> str | None:
    try:
        certificate.check_files(path.parent)
    except IrepdeployError as error:
        return f"{Path(error.where or '').name}: {error.what}"
    return None
