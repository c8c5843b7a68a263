"""Sidecar: what an engine is, in JSON beside it, so that whoever loads it learns why it cannot run before it fails.

An engine runs only on the TensorRT and the kind of GPU it was built with, and says neither when it is refused: the
runtime returns nothing, and the reason is in a log. This module is Python 3.8, stdlib only: the board's agent carries
it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import struct
from dataclasses import dataclass, field
from typing import Any, Dict, List, NamedTuple, Optional, Union

from irepdeploy.errors import InputError

__all__ = ["PlanHeader", "Sidecar", "check_sidecar", "read_plan_header", "read_sidecar", "sidecar_path"]

_FORMAT = "irepdeploy.sidecar"
_VERSION = 1
_NAMES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
_TARGETS = {"tensorrt": "trt", "tensorrt_rtx": "rtx"}
_MAGIC = {b"ftrt": "tensorrt", b"vtrt": "tensorrt_rtx"}

_Path = Union[str, "os.PathLike[str]"]


@dataclass(frozen=True)
class Sidecar:
    """What an engine is.

    Args:
        flavour: "tensorrt" or "tensorrt_rtx".
        tensorrt_version: of the builder, as many parts as it tells.
        compute_capability: of the GPU it was built for, such as "8.0"; None where the builder looked at no GPU.
        gpu, driver: of the machine it was built on, or None.
        typing: "strong" where each layer has the precision that the ONNX gives it, "weak" where the builder chose.
        inputs, outputs: name, shape (-1 is any size), dtype (numpy's name) of each.
        created: UTC.
        command: what builds it again.
        settings: of the build: workspace, profiles, DLA and so on.
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
        """A JSON object."""
        described: Dict[str, Any] = {"format": _FORMAT, "version": _VERSION}
        described.update(dataclasses.asdict(self))
        return described

    @classmethod
    def from_dict(cls, value: object, where: object = None) -> Sidecar:
        """Read what `to_dict` gave; keys of later versions that this one does not know are left out.

        Raises:
            InputError: it is something else, of a newer version, or damaged.
        """
        if not isinstance(value, dict) or value.get("format") != _FORMAT:
            raise InputError("not a sidecar of an engine", where=where, hint="export the engine again")
        if value.get("version") != _VERSION:
            raise InputError(f"sidecar version {value.get('version')!r}; this irepdeploy reads {_VERSION}", where=where)
        known = {item.name: value[item.name] for item in dataclasses.fields(cls) if item.name in value}
        for name in ("flavour", "tensorrt_version", "engine_sha256", "command"):
            if not isinstance(known.get(name), str):
                raise InputError(f"a damaged sidecar: no {name}", where=where, hint="export the engine again")
        if not isinstance(known.get("size_bytes"), int):
            raise InputError("a damaged sidecar: no size_bytes", where=where, hint="export the engine again")
        try:
            return cls(**known)
        except TypeError as error:
            raise InputError(f"a damaged sidecar: {error}", where=where, hint="export the engine again") from None


class PlanHeader(NamedTuple):
    """What the first 28 bytes of an engine tell."""

    flavour: str
    version: str


def sidecar_path(engine: _Path) -> str:
    """``model.engine.json`` for ``model.engine``."""
    return os.fspath(engine) + ".json"


def read_sidecar(engine: _Path) -> Optional[Sidecar]:
    """The sidecar of this engine, None if there is none.

    Raises:
        InputError: it cannot be read, or is none.
    """
    path = sidecar_path(engine)
    try:
        with open(path, "rb") as file:
            value = json.loads(file.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InputError(f"cannot read this sidecar: {error.strerror}", where=path) from error
    except (ValueError, RecursionError):
        raise InputError("not a sidecar of an engine: no JSON", where=path, hint="export the engine again") from None
    return Sidecar.from_dict(value, path)


def read_plan_header(content: bytes) -> Optional[PlanHeader]:
    """Flavour and version of an engine by its own header, None where that is of another layout.

    The magic, a 0, and at bytes 24 to 27 major, minor, patch and build: as ``trtexec --getPlanVersionOnly`` reads it
    from TensorRT 10 up. Engines of 8.x may differ, so that nothing is guessed of them.
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
    """Hold an engine against the TensorRT and the GPU that are to run it, before either is asked.

    Args:
        version: of the TensorRT here, such as "10.3.0.26"; as many parts are compared as both sides tell.
        flavour: of the TensorRT here.
        compute_capability: of the GPU here, such as "8.0"; None if it is not known, and then it is not compared.
        require: refuse an engine without a sidecar; else only what its header tells is compared.

    Returns:
        The sidecar, None where there is none and `require` is off.

    Raises:
        InputError: the engine is missing, truncated or changed, has no sidecar, or was built by another TensorRT or for
            another GPU; the reason and the command that builds it again are one line.
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
        raise InputError("not the engine that its sidecar describes: its digest differs", where=where, hint=hint)
    built = _name(sidecar.flavour, sidecar.tensorrt_version)
    if sidecar.flavour != flavour or not _same_version(sidecar.tensorrt_version, version):
        raise InputError(f"built with {built}, which {here} cannot load", where=where, hint=hint)
    if compute_capability is not None and sidecar.compute_capability not in (None, compute_capability):
        gpu = "" if sidecar.gpu is None else f" ({sidecar.gpu})"
        built = f"compute capability {sidecar.compute_capability}{gpu}"
        raise InputError(
            f"built for {built}, and the GPU here has {compute_capability}",
            where=where,
            hint=hint,
        )
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
            f"no {os.path.basename(sidecar_path(where))} beside this engine ({of}), so its GPU is not known",
            where=where,
            hint=hint,
        )


def _read_engine(path: str) -> bytes:
    hint = "check the path"
    try:
        with open(path, "rb") as file:
            content = file.read()
    except FileNotFoundError:
        raise InputError("no such engine", where=path, hint=hint) from None
    except OSError as error:
        raise InputError(f"cannot read this engine: {error.strerror}", where=path, hint=hint) from error
    if not content:
        raise InputError("an empty engine", where=path, hint="build it again")
    return content


def _same_version(a: str, b: str) -> bool:
    parts = list(zip(a.split("."), b.split(".")))
    return len(parts) >= 3 and all(one == other for one, other in parts)


def _name(flavour: str, version: str) -> str:
    return f"{_NAMES.get(flavour, flavour)} {version}"
