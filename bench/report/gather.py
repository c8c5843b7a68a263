"""Find what a report is about: records, records of other suites, certificates, searches."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from irepdeploy.board.protocol import sample_fault
from irepdeploy.console import log
from irepdeploy.errors import InputError, IrepdeployError
from irepdeploy.files import read_bytes, read_lines, sha256
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
        notes: What was omitted and why; shown on the page.
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

    In folders, files of JSON lines with measurements and every certificate.json are read. A damaged file is omitted
    with a note; if it was named itself, it is an error.
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
    if not (found.records or found.others or found.certificates):
        raise InputError(
            "nothing to report: no measurement and no certificate",
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
    # Whole or not at all: half of a damaged file would be taken for all of it.
    values = [(number, value) for number, value in read_lines(path, "file of records", of="record")]
    measured = [(number, value) for number, value in values if isinstance(value, dict) and _is_measurement(value)]
    if not measured and named:
        raise InputError("no measurement in it", where=path, hint="`irepdeploy bench --out DIR` writes records.jsonl")
    parsed = [record_of(value, f"{path}, line {number}") if _is_record(value) else value for number, value in measured]
    if measured and _is_torn(path, values[-1][0]):
        found.note(f"{path}: its last line is torn (its writer was killed) and omitted")
    for (number, _), each in zip(measured, parsed, strict=True):
        whole = asdict(each) if isinstance(each, Record) else each
        digest = sha256(json.dumps(whole, sort_keys=True).encode())
        # A copy of a file, or a record that was merged into another one, is the same measurement.
        if digest in seen:
            continue
        seen.add(digest)
        if not isinstance(each, Record):
            found.others.append(each)
        elif (fault := sample_fault(each.samples_ns)) is not None:
            found.note(f"{path}, line {number}: {fault}; omitted")
        else:
            found.records.append(each)


def _is_record(value: dict[str, Any]) -> bool:
    return "schema" in value and isinstance(value.get("samples_ns"), list)


def _is_measurement(value: dict[str, Any]) -> bool:
    return _is_record(value) or isinstance(value.get("suite", value.get("benchmark")), str)


def _is_torn(path: Path, last: int) -> bool:
    content = read_bytes(path)
    return not content.endswith(b"\n") and content.count(b"\n") + 1 > last


def _fault(path: Path, certificate: Certificate) -> str | None:
    try:
        certificate.check_files(path.parent)
    except IrepdeployError as error:
        return f"{Path(error.where or '').name}: {error.what}"
    return None
