"""The sidecar of an engine: a JSON file that describes how it was built, and hence where it can run.

An engine runs only on the TensorRT version and the kind of GPU that it was built for. When the runtime refuses an
engine, it returns null, and the reason appears only in its log.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import struct
from dataclasses import dataclass, field
from typing import Any, Dict, List, NamedTuple, Optional, Union

from irepdeploy.board.trt_library import FLAVOURS
from irepdeploy.errors import InputError, one_line
from irepdeploy.limits import DESCRIPTION, read_file

__all__ = ["PlanHeader", "Sidecar", "check_sidecar", "read_plan_header", "read_sidecar", "sidecar_path"]

_FORMAT = "irepdeploy.sidecar"
_VERSION = 2
# Sidecars of version 1 may lack a digest.
_UNSEALED = 1
_TARGETS = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}
_MAGIC = {b"ftrt": "tensorrt", b"vtrt": "tensorrt_rtx"}

_Path = Union[str, "os.PathLike[str]"]


@dataclass(frozen=True)
class Sidecar:
    """Description of an engine.

    Attributes:
        tensorrt_version: Version of the builder, with as many parts as it reports.
        compute_capability: Compute capability of the target GPU, such as "8.0"; None if the builder used no GPU.
        typing: "strong" if each layer has the precision given by the ONNX model, "weak" if the builder chose it.
        inputs: Name, shape (-1 for a dynamic size) and numpy dtype of each input.
        command: Command that builds the engine again.
        settings: Settings of the build: workspace, profiles, DLA core, etc.
    """

    flavour: str
    tensorrt_version: str
    compute_capability: Optional[str]
    gpu: Optional[str]
    driver: Optional[str]
    precision: str
    typing: str
    tf32: bool
    onnx_sha256: str
    engine_sha256: str
    size_bytes: int
    inputs: List[Dict[str, Any]]
    outputs: List[Dict[str, Any]]
    created: str
    irepdeploy_version: str
    command: str
    settings: Dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> Dict[str, Any]:
        """Return the sidecar as a JSON object, including its digest."""
        value = {"format": _FORMAT, "version": _VERSION, **dataclasses.asdict(self)}
        return {**value, "digest": _digest(value)}

    @classmethod
    def from_dict(cls, value: object, where: object = None) -> Sidecar:
        """Create a sidecar from the result of `to_dict`. Unknown keys of later versions are ignored.

        Raises:
            InputError: `value` is not a sidecar, is of an unknown version, or is damaged.
        """
        hint = "export the engine again"
        if not isinstance(value, dict) or value.get("format") != _FORMAT:
            raise InputError("not a sidecar of an engine", where=where, hint=hint)
        if value.get("version") not in (_UNSEALED, _VERSION):
            raise InputError(f"expected a sidecar of version {_VERSION}, got {value.get('version')!r}", where=where)
        if ("digest" in value or value["version"] != _UNSEALED) and value.get("digest") != _digest(value):
            what = "damaged sidecar: its digest differs, so it was changed after it was written"
            raise InputError(what, where=where, hint=hint)
        known = {item.name: value[item.name] for item in dataclasses.fields(cls) if item.name in value}
        types = {"flavour": str, "tensorrt_version": str, "engine_sha256": str, "command": str, "size_bytes": int}
        for name, kind in types.items():
            if not isinstance(known.get(name), kind):
                raise InputError(f"damaged sidecar: no {name}", where=where, hint=hint)
        try:
            return cls(**known)
        except TypeError as error:
            raise InputError(f"damaged sidecar: {one_line(error)}", where=where, hint=hint) from None


def _digest(value: Dict[str, Any]) -> Optional[str]:
    """Return the SHA-256 of the canonical JSON without the digest; None for values that a sidecar cannot contain."""
    try:
        # Convert keys to text, as in JSON.
        plain = json.loads(json.dumps({key: item for key, item in value.items() if key != "digest"}))
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return None
    return hashlib.sha256(text.encode("ascii")).hexdigest()


class PlanHeader(NamedTuple):
    """The TensorRT flavour and version in the first 28 bytes of an engine."""

    flavour: str
    version: str


def sidecar_path(engine: _Path) -> str:
    """Return the path of an engine's sidecar: ``model.engine.json`` for ``model.engine``."""
    return os.fspath(engine) + ".json"


def read_sidecar(engine: _Path) -> Optional[Sidecar]:
    """Read the sidecar of an engine; return None if there is no such file.

    Raises:
        InputError: The file is not a valid sidecar.
    """
    path = sidecar_path(engine)
    if not os.path.exists(path):
        return None
    try:
        value = json.loads(read_file(path, "sidecar", DESCRIPTION))
    except (ValueError, RecursionError):
        raise InputError("not a sidecar of an engine: not JSON", where=path, hint="export the engine again") from None
    return Sidecar.from_dict(value, path)


def read_plan_header(content: bytes) -> Optional[PlanHeader]:
    """Read the flavour and version from an engine's own header; return None if the layout is unknown.

    The header contains a magic number, a zero, and at bytes 24 to 27 the major, minor, patch and build numbers, which
    ``trtexec --getPlanVersionOnly`` reads from TensorRT 10 on. The layout of 8.x may differ, so it is not guessed.
    """
    flavour = _MAGIC.get(content[:4])
    if flavour is None or len(content) < 28 or struct.unpack_from("<I", content, 4)[0] != 0:
        return None
    version = content[24:28]
    if not 1 <= version[0] <= 99:
        return None
    return PlanHeader(flavour, ".".join(map(str, version)))


def check_sidecar(
    engine: _Path,
    *,
    version: str,
    flavour: str,
    compute_capability: Optional[str] = None,
    require: bool = True,
) -> Optional[Sidecar]:
    """Check that an engine matches the TensorRT and the GPU that will run it, without using either.

    Args:
        engine: Path of the engine.
        version: Version of the TensorRT that will run it.
        flavour: Flavour of that TensorRT, one of `FLAVOURS`.
        compute_capability: Compute capability of the GPU, such as "8.0"; None to skip this check.
        require: Refuse an engine without a sidecar. Otherwise it passes if its header matches.

    Returns:
        The sidecar, or None if there is none.

    Raises:
        InputError: The engine is missing, truncated or changed, has no sidecar, or was built by another TensorRT or for
            another GPU. The message contains the command that builds it again.
    """
    where = os.fspath(engine)
    content = _read_engine(where)
    sidecar = read_sidecar(engine)
    here = _name(flavour, version)
    if sidecar is None:
        _check_header(content, where, version, flavour, require)
        return None
    hint = f"build it again: {' '.join(sidecar.command.split())}"
    if len(content) < sidecar.size_bytes:
        raise InputError(f"truncated: {len(content)} of {sidecar.size_bytes} bytes", where=where, hint=hint)
    if hashlib.sha256(content).hexdigest() != sidecar.engine_sha256:
        raise InputError("not the engine that its sidecar describes: the digest differs", where=where, hint=hint)
    built = _name(sidecar.flavour, sidecar.tensorrt_version)
    if sidecar.flavour != flavour or not _same_version(sidecar.tensorrt_version, version):
        raise InputError(f"built with {built}, which {here} cannot load", where=where, hint=hint)
    if compute_capability is not None and sidecar.compute_capability not in (None, compute_capability):
        gpu = "" if sidecar.gpu is None else f" ({sidecar.gpu})"
        built = f"compute capability {sidecar.compute_capability}{gpu}"
        raise InputError(f"built for {built}, but the GPU here has {compute_capability}", where=where, hint=hint)
    return sidecar


def _check_header(content: bytes, where: str, version: str, flavour: str, require: bool) -> None:
    header = read_plan_header(content)
    hint = f"build it again: irepdeploy export MODEL --target {_TARGETS.get(flavour, 'trt')}"
    here = _name(flavour, version)
    if header is not None and (header.flavour != flavour or not _same_version(header.version, version)):
        built = _name(header.flavour, header.version)
        raise InputError(f"built with {built}, which {here} cannot load", where=where, hint=hint)
    if require:
        of = "of unknown version" if header is None else f"of {_name(header.flavour, header.version)} by its header"
        raise InputError(
            f"no {os.path.basename(sidecar_path(where))} next to this engine ({of}), so its GPU is unknown",
            where=where,
            hint=hint,
        )


def _read_engine(path: str) -> bytes:
    content = read_file(path, "engine")
    if not content:
        raise InputError("the engine is empty", where=path, hint="build it again")
    return content


def _same_version(a: str, b: str) -> bool:
    parts = list(zip(a.split("."), b.split(".")))
    return len(parts) >= 3 and all(one == other for one, other in parts)


def _name(flavour: str, version: str) -> str:
    return f"{FLAVOURS.get(flavour, flavour)} {version}"
