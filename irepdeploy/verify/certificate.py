"""Certificate of an export: digests of the source and the artefacts, and the error of every hop."""

from __future__ import annotations

import json
import math
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

from irepdeploy.board.comparison import Noise, Tolerance
from irepdeploy.board.json_values import json_safe
from irepdeploy.errors import CheckFailed, InputError, MissingError
from irepdeploy.files import canonical_json, read_bytes, sha256, write_json
from irepdeploy.limits import DESCRIPTION

__all__ = ["Artefact", "Certificate", "Hop", "installed_versions"]

_MOST_LEVELS = 64
_FORMAT = "irepdeploy.certificate"
_VERSION = 2
# Certificates of version 1 have no digest, and may lack some fields.
_UNSEALED = 1
_LATER = ("health", "precisions", "size")
_SHA256 = re.compile("[0-9a-f]{64}")
_PACKAGES = ("irepdeploy", "torch", "onnx", "onnxruntime", "onnxsim", "numpy")


@dataclass(frozen=True)
class Hop:
    """One comparison of two forms of the network.

    Attributes:
        source: Name of the form that is the reference.
        result: Name of the form that was compared with it.
        inputs: Groups of inputs, as in `InputGroup.to_dict()`.
        comparison: Result, as in `Comparison.to_dict()`.
    """

    source: str
    result: str
    inputs: list[dict[str, Any]]
    comparison: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether the comparison passed."""
        return self.comparison.get("ok") is True and self.error <= self.allowed

    @property
    def error(self) -> float:
        """Largest relative error; NaN and infinity are possible, and stored as text in JSON."""
        return float(self.comparison["max_rel_error"])

    @property
    def allowed(self) -> float:
        """Largest relative error that passes, or infinity if it is not checked."""
        return self.tolerance.max_rel_error

    @property
    def tolerance(self) -> Tolerance:
        """Tolerance of the output with the largest error: the stated one, or a larger one if the source is noisier."""
        # Earlier certificates contain only the stated one.
        return _tolerance(self.comparison.get("allowed", self.comparison["tolerance"]))

    @property
    def stated(self) -> Tolerance:
        """Tolerance that was requested for the comparison."""
        return _tolerance(self.comparison["tolerance"])

    @property
    def noise(self) -> Noise | None:
        """Noise of the source at its noisiest output, or None if it was not measured."""
        found = [Noise(**output["noise"]) for output in self.comparison.get("outputs", ()) if output.get("noise")]
        return max(found, key=lambda noise: float(noise.rel_error), default=None)

    @property
    def figures(self) -> list[str]:
        """Error, noise of the source and tolerance, as text for tables."""
        noise = "-" if self.noise is None else f"{float(self.noise.rel_error):.0e}"
        return [f"{self.error:.1e}", noise, str(self.tolerance)]


@dataclass(frozen=True)
class Artefact:
    """A file in the folder of the certificate.

    Attributes:
        file: Name of the file.
        sha256: Digest of the file, including external weights of an ONNX model.
        size_bytes: Size of the file.
    """

    file: str
    sha256: str
    size_bytes: int

    @classmethod
    def of(cls, path: Path) -> Artefact:
        """Describe the file at `path`."""
        from irepdeploy.onnx_graph.model_file import file_digest

        return cls(path.name, file_digest(path), path.stat().st_size)


@dataclass
class Certificate:
    """Digests, versions, shapes and errors of one export.

    Attributes:
        source: File, SHA-256, net, state, architecture digest, statistics and parameters of the source, and the seed if
            the network was given by name.
        target: Name, opset and IR version.
        hops: Comparisons of successive forms of the network.
        blocks: Proofs of the fused blocks: their count, and the worst layer and its error in float64 and in the
            network's own dtype.
        size: Parameters and MACs of one input in train and fused state; MACs are None if they cannot be counted.
        health: `LayerHealth.to_dict()` of each fused block; empty in older certificates.
        precisions: Findings for each lower precision: the ranges for fp16, the loss and its budget for int8.
        artefacts: Files that the export wrote.
        onnx: Findings of the audit, and the note of the simplifier.
        engine: Status of the TensorRT engine ("not asked for", "not built") and the reason.
        versions: Versions of Python and of the packages that were used.
        created: Time of the export in UTC.
        failure: Reason why the export failed, or None.
        digest: SHA-256 of the file's canonical JSON without this field, as read from the file. None in version 1 and
            before `save`.
    """

    source: dict[str, Any]
    target: dict[str, Any]
    hops: list[Hop] = field(default_factory=list)
    blocks: dict[str, Any] = field(default_factory=dict)
    size: dict[str, dict[str, int | None]] = field(default_factory=dict)
    health: list[dict[str, Any]] = field(default_factory=list)
    precisions: dict[str, Any] = field(default_factory=dict)
    artefacts: list[Artefact] = field(default_factory=list)
    onnx: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=lambda: {"status": "not asked for"})
    versions: dict[str, str] = field(default_factory=lambda: installed_versions())
    created: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    failure: str | None = None
    digest: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every hop passed and nothing else failed."""
        return self.failure is None and bool(self.hops) and all(hop.ok for hop in self.hops)

    @property
    def max_rel_error(self) -> float:
        """Largest relative error of any hop."""
        return max((hop.error for hop in self.hops), key=_sortable, default=math.nan)

    @property
    def worst_layer(self) -> str | None:
        """Layer with the largest error between the network and its fused form, if layers were compared."""
        layers = (hop.comparison.get("worst_layer") for hop in self.hops)
        return next((layer for layer in layers if layer is not None), None)

    def require_engine(self) -> None:
        """Raise MissingError if an engine was requested and could not be built."""
        if self.engine["status"] == "not built":
            raise MissingError(
                f"ONNX written and verified; no engine: {self.engine['reason']}", hint=self.engine.get("hint")
            )

    def check_files(self, folder: str | os.PathLike[str]) -> None:
        """Compare the artefacts in `folder` with their digests.

        Raises:
            CheckFailed: An artefact is missing or was changed.
        """
        from irepdeploy.onnx_graph.model_file import file_digest

        for artefact in self.artefacts:
            path = Path(folder, artefact.file)
            try:
                digest = file_digest(path)
            except InputError as error:
                raise CheckFailed(f"certified, but {error.what}", where=path, hint="export again") from None
            if digest != artefact.sha256:
                raise CheckFailed(
                    "not the file that was certified: its digest differs", where=path, hint="export again"
                )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object that includes its digest; numbers that are not finite become text."""
        verdict = {"ok": self.ok, "max_rel_error": self.max_rel_error, "worst_layer": self.worst_layer}
        value = json_safe({"format": _FORMAT, "version": _VERSION, **verdict, **asdict(self)})
        return {**value, "digest": _digest(value)}

    @classmethod
    def from_dict(cls, value: object, *, where: object = None) -> Certificate:
        """Read the result of `to_dict`.

        Raises:
            InputError: `value` is not a certificate, was changed, or has an unknown version.
        """
        if not isinstance(value, Mapping) or value.get("format") != _FORMAT:
            raise InputError("not a certificate", where=where, hint="`irepdeploy export` writes certificate.json")
        if value.get("version") not in (_UNSEALED, _VERSION):
            raise InputError(
                f"certificate version {value.get('version')!r}; this irepdeploy reads up to {_VERSION}", where=where
            )
        try:
            # Without this check, whether a certificate can be read would depend on the free depth of the stack.
            _check_nesting(value)
            if "digest" in value or value["version"] != _UNSEALED:
                _check_digest(value)
            known = {
                item.name: value[item.name]
                for item in fields(cls)
                if item.name in value or item.name not in (*_LATER, "digest")
            }
            _check_types(known)
            known["hops"] = [Hop(**hop) for hop in _entries("hops", known["hops"], Hop)]
            known["artefacts"] = [Artefact(**each) for each in _entries("artefacts", known["artefacts"], Artefact)]
            _check_hops(known["hops"])
            _check_artefacts(known["artefacts"])
            certificate = cls(**known)
            # This raises if derived values cannot be computed.
            certificate.to_dict()
            return certificate
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else error
            raise InputError(f"damaged certificate: {what}", where=where, hint="export again") from None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the certificate as JSON, and return the path."""
        return write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Certificate:
        """Read a certificate file.

        Raises:
            InputError: The file is missing, or is not a valid certificate.
        """
        try:
            value = json.loads(read_bytes(path, "certificate", DESCRIPTION))
        except (ValueError, RecursionError):
            raise InputError("not a certificate: not valid JSON", where=path) from None
        return cls.from_dict(value, where=path)


def _check_nesting(value: object, levels: int = _MOST_LEVELS) -> None:
    if levels == 0:
        raise ValueError(f"nested more than {_MOST_LEVELS} levels deep")
    for item in value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ():
        _check_nesting(item, levels - 1)


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of every package that an export depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _digest(value: Mapping[str, Any]) -> str:
    # Convert keys to text, as JSON does.
    plain = json.loads(json.dumps({key: item for key, item in value.items() if key != "digest"}))
    return sha256(canonical_json(plain))


def _check_digest(value: Mapping[str, Any]) -> None:
    if value["digest"] != _digest(value):
        raise ValueError("its digest differs, so it was changed after it was written")


def _check_types(known: Mapping[str, Any]) -> None:
    lists, texts = ("hops", "artefacts", "health"), ("created",)
    for name, value in known.items():
        if name in ("failure", "digest"):
            due: type = str if value is not None else type(None)
        else:
            due = list if name in lists else str if name in texts else dict
        if not isinstance(value, due):
            raise TypeError(f"expected {name} to be a {due.__name__}, got {type(value).__name__}")
    source = known["source"]
    for name in ("file", "sha256", "net", "statistics"):
        if not isinstance(source.get(name), str | None):
            raise TypeError(f"expected source.{name} to be a str, got {type(source[name]).__name__}")
    if not all(isinstance(version, str) for version in known["versions"].values()):
        raise TypeError("expected versions to be strings")
    if not all(isinstance(layer, dict) for layer in known.get("health", ())):
        raise TypeError("expected health to be a list of layers")
    str(known["engine"]["status"])


def _entries(name: str, values: Sequence[Any], kind: type[Hop | Artefact]) -> Sequence[dict[str, Any]]:
    due = {item.name for item in fields(kind)}
    if not all(isinstance(value, dict) and set(value) == due for value in values):
        raise ValueError(f"expected {name} with {', '.join(sorted(due))}")
    return values


def _check_hops(hops: Sequence[Hop]) -> None:
    for hop in hops:
        if not (isinstance(hop.source, str) and isinstance(hop.result, str) and isinstance(hop.comparison, dict)):
            raise TypeError("hops are not comparisons of named forms")
        if not isinstance(hop.inputs, list) or not all(isinstance(group, dict) for group in hop.inputs):
            raise TypeError("inputs are not a list of groups")
        if hop.comparison.get("ok") is True and not hop.ok:
            raise ValueError(f"{hop.source} to {hop.result} passed, but its error is above what is allowed")
        # This raises if one of them is not a number.
        _ = hop.error, hop.tolerance, hop.stated, hop.noise


def _check_artefacts(artefacts: Sequence[Artefact]) -> None:
    for artefact in artefacts:
        name = artefact.file
        # Certificates are untrusted: a name must not lead out of the folder.
        if not isinstance(name, str) or not name.isprintable() or not name or Path(name).name != name or name == "..":
            raise ValueError(f"{name!r} is not a file name")
        if _SHA256.fullmatch(str(artefact.sha256)) is None:
            raise ValueError(f"{artefact.sha256!r} is not a SHA-256")
        if type(artefact.size_bytes) is not int or artefact.size_bytes < 0:
            raise ValueError(f"{artefact.size_bytes!r} is not a size in bytes")


def _tolerance(bounds: Mapping[str, Any]) -> Tolerance:
    error, cosine = bounds["max_rel_error"], bounds.get("min_cosine")
    return Tolerance(math.inf if error is None else float(error), None if cosine is None else float(cosine))


def _sortable(error: float) -> float:
    return math.inf if math.isnan(error) else error
