"""A certificate with the state of its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from irepdeploy.errors import IrepdeployError
from irepdeploy.verify.certificate import Certificate

__all__ = ["CERTIFICATES", "Certified", "certified_of"]

# Of an export that passed its checks, and of one that did not.
CERTIFICATES = ("certificate.json", "certificate.failed.json")


@dataclass(frozen=True)
class Certified:
    """A certificate with its path, a name for the page and, if the certified files have changed, the fault."""

    path: Path
    name: str
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


def certified_of(path: Path, name: str) -> Certified:
    """Read a certificate, and compare the files beside it with what it certifies.

    Raises:
        InputError: It is none, or damaged.
    """
    certificate = Certificate.load(path)
    fault = None
    try:
        certificate.check_files(path.parent)
    except IrepdeployError as error:
        fault = f"{Path(error.where or '').name}: {error.what}"
    return Certified(path, name, certificate, fault)
