"""Check a file against the certificate of its export, and repeat the comparison with the source."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from irepdeploy.board.runner import TensorSpec
from irepdeploy.board.sidecar import sidecar_path
from irepdeploy.errors import CheckFailed, InputError, MissingError
from irepdeploy.onnx_graph.model_file import file_digest
from irepdeploy.reparam.comparator import TOLERANCES, Tolerance
from irepdeploy.verify.certificate import Artefact, Certificate, installed_versions
from irepdeploy.verify.equivalence import Verification, tolerance_of, verify_models
from irepdeploy.verify.input_spec import input_spec
from irepdeploy.verify.onnx_process import TIMEOUT_S, check_limit

if TYPE_CHECKING:
    from torch import nn

    _Model = str | os.PathLike[str] | nn.Module

__all__ = ["CertifiedFile", "check_certified"]

_FUSED, _FUSED_FORM = "fused.pt", "fused state"
_MODELS = (".onnx", ".engine", ".pt")
_DTYPES = {"fp32": "float32", "fp16": "float16", "int8": "int8"}


@dataclass(frozen=True)
class CertifiedFile:
    """The result of checking a file against a certificate.

    Attributes:
        path: Path of the file.
        sha256: Digest of the file, including the external weights of an ONNX model.
        certificate: The certificate.
        artefact: Entry of the certificate with this digest, or None.
        faults: Reasons why the certificate does not cover the file; empty if it does.
        notes: Facts that do not affect the verdict, such as another name or other versions on this machine.
        comparison: The repeated comparison with the source, or None if it was not repeated.
        skipped: Reason why the comparison was not repeated, or "".
    """

    path: str
    sha256: str
    certificate: Certificate
    artefact: Artefact | None
    faults: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    comparison: Verification | None = None
    skipped: str = ""

    @property
    def ok(self) -> bool:
        """Whether this is the certified file, and it passed the repeated comparison, if any."""
        return not self.faults and (self.comparison is None or self.comparison.ok)

    @property
    def reason(self) -> str:
        """Reason for the verdict, on one line."""
        if self.faults:
            return self.faults[0]
        if self.comparison is not None and not self.comparison.ok:
            return f"certified, but it differs from its source here: {self.comparison.comparison.reason}"
        return f"the file that was certified, SHA-256 {self.sha256}"

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        certificate = self.certificate
        hops = [{"source": hop.source, "result": hop.result, **_verdict(hop.comparison)} for hop in certificate.hops]
        return {
            "ok": self.ok,
            "reason": self.reason,
            "file": self.path,
            "sha256": self.sha256,
            "certified_as": None if self.artefact is None else self.artefact.file,
            "created": certificate.created,
            "target": certificate.target,
            "source": certificate.source,
            "versions": certificate.versions,
            "versions_here": installed_versions(),
            "hops": hops,
            "faults": list(self.faults),
            "notes": list(self.notes),
            "comparison": None if self.comparison is None else self.comparison.to_dict(),
            "not_compared": self.skipped or None,
        }


def check_certified(
    path: str | os.PathLike[str],
    certificate: str | os.PathLike[str],
    source: str | os.PathLike[str] | None = None,
    inputs: Any = None,
    *,
    input_shape: Sequence[TensorSpec] = (),
    model_factory: Callable[[], nn.Module] | None = None,
    seed: int | None = None,
    tolerance: str | Tolerance | None = None,
    timeout_s: float = TIMEOUT_S,
) -> CertifiedFile:
    """Check that a certificate covers a file, and compare the file with its source if the source is available.

    The file is identified by its digest, regardless of its name. The source is searched for at the path that the export
    read, relative to the current folder and to the certificate. A network that the export built by name is built again.

    Args:
        path: A file that an export wrote, at any place.
        certificate: The certificate.json of the export.
        source: The source of the export, if it was moved.
        inputs: Inputs for the comparison instead of the built-in ones, as for `export_model`.
        input_shape: Sizes of inputs that both models leave free. Defaults to the sizes of the export's comparisons.
        model_factory: Function that builds the source's class, if it is not one of irepdeploy's.
        seed: Seed of the random inputs. Defaults to that of the export.
        tolerance: A name in `TOLERANCES`, or a Tolerance. Defaults to that of the export.
        timeout_s: Time limit in seconds for ONNX Runtime to load and run a model.

    Raises:
        InputError: A file is missing or the certificate is damaged. Also if the comparison is impossible although
            `source`, `inputs`, `model_factory` or `tolerance` is given.
        MissingError: The comparison needs something that is not installed, and one of these arguments is given.
        RunError: ONNX Runtime took longer than `timeout_s`, or ran out of memory.
    """
    check_limit(timeout_s)
    known = Certificate.load(certificate)
    label, digest = os.fspath(path), file_digest(path)
    limit = None if tolerance is None else tolerance_of(tolerance)
    faults, notes = [], []
    if not known.ok:
        failed = (f"{hop.source} and {hop.result} differ" for hop in known.hops if not hop.ok)
        faults.append(f"the export failed: {known.failure or next(failed, 'it compared nothing')}")
    if known.digest is None:
        notes.append("this certificate is of version 1 and has no digest: changes of the certificate are not detected")
    artefact, fault = _identified(known, label, digest)
    faults += [] if fault is None else [fault]
    if artefact is not None and not faults:
        if artefact.file != Path(path).name:
            notes.append(f"certified under the name {artefact.file}")
        fault = _sidecar_fault(known, artefact, label)
        faults += [] if fault is None else [fault]
    notes += _other_versions(known)
    comparison, skipped = None, "not certified"
    if artefact is not None and not faults:
        try:
            reference, skipped = _source(known, Path(certificate).parent, source)
            if reference is not None:
                reference, skipped = _comparable(known, artefact, reference, model_factory)
            if reference is not None and inputs is None and _calibrated_elsewhere(known, artefact):
                reference, skipped = None, "it was calibrated with inputs of its own: give them with --inputs"
            if reference is not None:
                comparison = verify_models(
                    reference,
                    path,
                    inputs,
                    input_shape=input_shape or _shapes(known, given=inputs is not None),
                    model_factory=model_factory,
                    seed=_seed(known) if seed is None else seed,
                    tolerance=_tolerance(known, artefact) if limit is None else limit,
                    timeout_s=timeout_s,
                )
        except CheckFailed as error:
            faults.append(error.line)
        except (InputError, MissingError) as error:
            if any(each is not None for each in (source, inputs, model_factory, tolerance)):
                raise
            skipped = error.line
    return CertifiedFile(label, digest, known, artefact, tuple(faults), tuple(notes), comparison, skipped)


def _verdict(comparison: dict[str, Any]) -> dict[str, Any]:
    return {name: comparison.get(name) for name in ("ok", "max_rel_error", "tolerance", "allowed", "samples")}


def _identified(certificate: Certificate, path: str, digest: str) -> tuple[Artefact | None, str | None]:
    """Return the artefact with this digest, if any, and the reason why the file is not the certified one, if any."""
    name = Path(path).name
    same = {artefact.file: artefact for artefact in certificate.artefacts if artefact.sha256 == digest}
    named = next((artefact for artefact in certificate.artefacts if artefact.file == name), None)
    found = same.get(name) or next(iter(same.values()), None)
    if found is not None:
        swapped = named is not None and named != found
        return found, f"this is the certified {found.file} under the name of another file" if swapped else None
    if digest == certificate.source.get("sha256"):
        return None, "it is the source of the certified export, not one of its files"
    if named is not None:
        size = os.stat(path).st_size
        wanted, got = f"SHA-256 {named.sha256[:16]}...", f"{digest[:16]}..."
        if size != named.size_bytes:
            wanted, got = f"{wanted} of {named.size_bytes:,} bytes", f"{got} of {size:,}"
        return None, f"not the file that was certified: expected {wanted}, got {got}"
    names = ", ".join(artefact.file for artefact in certificate.artefacts) or "none"
    return None, f"not a file that was certified: SHA-256 {digest[:16]}... is not in the certificate ({names})"


def _sidecar_fault(certificate: Certificate, artefact: Artefact, path: str) -> str | None:
    """Return why the sidecar of an engine is not the certified one, or None."""
    expected = next((each for each in certificate.artefacts if each.file == f"{artefact.file}.json"), None)
    if expected is None:
        return None
    beside = sidecar_path(path)
    try:
        digest = file_digest(beside)
    except InputError as error:
        return f"its sidecar is missing: {error.line}"
    return None if digest == expected.sha256 else f"its sidecar {beside} is not the one that was certified"


def _other_versions(certificate: Certificate) -> list[str]:
    here = installed_versions()
    return [
        f"certified with {name} {version}, {here[name]} is installed here"
        for name, version in certificate.versions.items()
        if here.get(name, version) != version
    ]


def _source(certificate: Certificate, folder: Path, given: str | os.PathLike[str] | None) -> tuple[_Model | None, str]:
    """Return the source of the export, or None and the reason why it is not available."""
    file, digest = certificate.source.get("file"), certificate.source.get("sha256")
    name = certificate.source.get("net")
    if file is None:
        if given is not None and os.fspath(given) != name:
            raise InputError(
                "the export did not read a file", where=given, hint="omit it" if name is None else f"give {name}"
            )
        return _built_again(certificate)
    if given is not None:
        if file_digest(given) != digest:
            raise CheckFailed("not the source of the certified export: its digest differs", where=given)
        return given, ""
    changed = None
    for place in dict.fromkeys((Path(file), folder / file, folder / Path(file).name)):
        if os.path.isfile(place):
            if file_digest(place) == digest:
                return place, ""
            changed = changed or place
    where = f"{file} was not found" if changed is None else f"{changed} has changed since the export"
    return None, f"its source {where}"


def _built_again(certificate: Certificate) -> tuple[nn.Module | None, str]:
    """Return the network that the export built by name, or None and the reason why it cannot be built again."""
    from irepdeploy.network.libraries import library_name
    from irepdeploy.network.nets import NETS
    from irepdeploy.network.source import open_source

    source, versions = certificate.source, certificate.versions
    name, seed = source.get("net"), source.get("seed")
    named = source.get("library") or name
    library = library_name(named) if isinstance(named, str) else None
    if library is not None and not _is_seed(seed):
        return None, f"its source was {named}, which `verify {named} FILE` downloads and compares"
    if not isinstance(name, str) or (name not in NETS and library is None) or not _is_seed(seed):
        return None, "its source was a network in memory"
    drawn, here = versions.get("torch"), installed_versions()["torch"]
    if drawn != here:
        return None, f"the random weights of {name} depend on the version of torch: expected {drawn}, got {here}"
    opened = open_source(name if library is None else f"{name}:random", seed=seed)
    if any(source.get(key) != opened.facts[key] for key in ("architecture", "branches", "parameters")):
        return None, f"{name} is a different network in this version of irepdeploy"
    return opened.model, ""


def _comparable(
    certificate: Certificate, artefact: Artefact, source: _Model, factory: Callable[[], nn.Module] | None
) -> tuple[_Model | None, str]:
    """Return the source as a model with the inputs of an artefact, or None and the reason why there is none."""
    if Path(artefact.file).suffix not in _MODELS:
        return None, "it is not a model"
    preprocessing = certificate.onnx.get("preprocessing")
    if preprocessing is None or artefact.file == _FUSED:
        return source, ""
    if isinstance(source, str | os.PathLike):
        if Path(source).suffix.lower() == ".onnx":
            return None, "it takes images, since preprocessing is built in, and its source is an ONNX model"
        from irepdeploy.network.checkpoint import load

        source = load(source, model=factory)
    from irepdeploy.verify.camera_network import CameraNetwork

    return CameraNetwork(source, preprocessing), ""


def _calibrated_elsewhere(certificate: Certificate, artefact: Artefact) -> bool:
    """Return whether an artefact is int8 and was calibrated with inputs that may not exist on this machine."""
    calibration = certificate.precisions.get("int8", {}).get("calibration", {})
    built_in = str(calibration.get("name", "")).startswith(("data set ", "photographs ", "random"))
    return ".int8." in artefact.file and not built_in


def _seed(certificate: Certificate) -> int:
    seeds = (group.get("seed") for hop in certificate.hops for group in hop.inputs)
    return next(filter(_is_seed, seeds), 0)


def _shapes(certificate: Certificate, *, given: bool) -> list[TensorSpec]:
    """Return the input sizes of the export's comparisons, if the source leaves sizes free or stores other ones."""
    if given and certificate.source.get("state") == "onnx":
        # The given inputs determine the sizes.
        return []
    return [input_spec(text) for text in certificate.onnx.get("compared_at", ())]


def _is_seed(value: object) -> TypeGuard[int]:
    # torch accepts no larger seeds.
    return type(value) is int and 0 <= value < 1 << 63


def _tolerance(certificate: Certificate, artefact: Artefact) -> Tolerance:
    """Return the tolerance that this artefact had to meet in the export."""
    form = _FUSED_FORM if artefact.file == _FUSED else artefact.file.replace(".engine", ".onnx")
    met = [hop for hop in certificate.hops if hop.result == form.replace(".fp32.", ".")]
    if met:
        return met[-1].stated
    precision = next((dtype for name, dtype in _DTYPES.items() if f".{name}." in artefact.file), "float32")
    return TOLERANCES[precision]
