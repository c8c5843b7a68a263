"""A certificate with the state of its files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from irepdeploy.errors import IrepdeployError
from irepdeploy.verify.certificate import Certificate

__all__ = ["CERTIFICATES", "Certified", "certified_of"]

# Certificates of an export that passed its checks, and of one that failed.
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
        """The source of the export, as a file name without its folder."""
        source = self.certificate.source
        return " ".join(filter(None, [str(source.get("net") or ""), Path(str(source.get("file") or "")).name]))

    @property
    def target(self) -> str:
        """The target of the export."""
        return str(self.certificate.target.get("name", ""))

    @property
    def verdict(self) -> str:
        """Text that says whether every hop passed and the files are unchanged."""
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
    """Read a certificate, and check the files next to it against it.

    Raises:
        InputError: The file is not a certificate, or is damaged.
    """
    certificate = Certificate.load(path)
    fault = None
    try:
        certificate.check_files(path.parent)
    except IrepdeployError as error:
        fault = f"{Path(error.where or '').name}: {error.what}"
    return Certified(path, name, certificate, fault)
