"""Deployment targets: constraints on the ONNX file, and how its engine is built."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError, choices

from .parser_operators import TENSORRT_8_5, TENSORRT_8_6, TENSORRT_10, TENSORRT_11

__all__ = ["TARGETS", "Route", "Target", "installed_target", "target_of", "trtexec_line"]

_TRTEXEC = "/usr/src/tensorrt/bin/trtexec"


@dataclass(frozen=True)
class Route:
    """The way to an engine of a given precision.

    Args:
        graph: Precision of the ONNX file: "float32", "float16" (half weights, float32 inputs and outputs) or
            "int8 Q/DQ".
        flags: Additional builder flags, by their names in ``BuilderFlag``.
    """

    graph: str
    flags: tuple[str, ...] = ()

    def __str__(self) -> str:
        typed = "" if self.graph == "float32" and self.flags else "typed graph"
        return " and ".join(filter(None, (typed, "builder flag" if self.flags else "")))


_TYPED: Mapping[str, Route] = {"fp32": Route("float32"), "fp16": Route("float16"), "int8": Route("int8 Q/DQ")}
_FLAGGED: Mapping[str, Route] = {
    "fp32": Route("float32"),
    "fp16": Route("float32", ("FP16",)),
    "int8": Route("int8 Q/DQ", ("INT8",)),
}
# Every parser of TensorRT refuses or misreads these; the names are those of the checks in `audit`.
_FORMS = frozenset(
    {
        "bias as int32 DequantizeLinear",
        "Clip bounds computed",
        "float64 tensor",
        "quantized to uint8",
        "Resize by cubic or cropping",
        "uint8 input not cast",
        "zero point not zero",
    }
)


@dataclass(frozen=True)
class Target:
    """A deployment target.

    Args:
        opsets: Lowest and highest opset that the target accepts; default: only `opset`.
        ir_version: IR version to write, and the highest that the target accepts.
        operators: Operators that the target accepts; None: all that ONNX has at that opset.
        forbidden: Operator forms that the target does not accept, by the names of the checks in `audit`.
        engine: "TensorRT", "TensorRT-RTX", or None.
        tensorrt: TensorRT versions that the target covers; (): the installed one.
        on_board: Whether the engine is built on the board instead of here.
        dimensions: Largest rank of a tensor.
        max_bytes: Largest file; a protobuf cannot exceed 2 GiB.
        workspace_mib: Default memory limit of the builder in MiB.
    """

    name: str
    opset: int = 13
    opsets: tuple[int, int] | None = None
    ir_version: int = 8
    operators: frozenset[str] | None = None
    forbidden: frozenset[str] = frozenset()
    precisions: Mapping[str, Route] = field(default_factory=lambda: dict(_TYPED))
    engine: str | None = None
    tensorrt: tuple[str, ...] = ()
    on_board: bool = False
    device: str = "any"
    dimensions: int = 8
    max_bytes: int = 2**31 - 1
    dla_cores: int = 0
    workspace_mib: int = 1024

    @property
    def allowed_opsets(self) -> tuple[int, int]:
        """The lowest and the highest opset that the target accepts."""
        return self.opsets or (self.opset, self.opset)

    def route(self, precision: str) -> Route:
        """Return the route to a precision."""
        if precision not in self.precisions:
            raise InputError(
                f"target {self.name} has no precision {precision!r}",
                where="--precision",
                hint=f"one of {', '.join(self.precisions)}",
            )
        return self.precisions[precision]


_PARSER_8 = _FORMS | {"Reduce with axes as input", "Pad, Slice or Squeeze by a computed tensor"}

_HERE: Mapping[str, Any] = {"engine": "TensorRT", "device": "the GPU of this machine"}
_BOARD: Mapping[str, Any] = {
    "opsets": (13, 17),
    "forbidden": _PARSER_8,
    "precisions": _FLAGGED,
    "engine": "TensorRT",
    "on_board": True,
    "dla_cores": 2,
}
_XAVIER, _ORIN = "Jetson AGX Xavier, JetPack 5.1", "Jetson Orin, JetPack 6"
_NO_COMPUTED_AXES = _FORMS | {"Reduce with computed axes"}

_ALL = (
    Target("ort", opsets=(7, 23)),
    Target("trt", opsets=(13, 17), operators=TENSORRT_8_5, forbidden=_PARSER_8, **_HERE),
    Target("trt-11", opsets=(9, 25), operators=TENSORRT_11, forbidden=_FORMS, tensorrt=("11",), **_HERE),
    Target("trt-10", opsets=(9, 20), operators=TENSORRT_10, forbidden=_NO_COMPUTED_AXES, tensorrt=("10",), **_HERE),
    Target("xavier-jp5", operators=TENSORRT_8_5, tensorrt=("8.5.2",), device=_XAVIER, **_BOARD),
    # JetPack 6.0 has TensorRT 8.6.2, 6.1 to 6.2.2 have 10.3: use only features and flags that both support.
    Target("orin-jp6", operators=TENSORRT_8_6, tensorrt=("8.6.2", "10.3"), device=_ORIN, **_BOARD),
    Target("rtx", opsets=(9, 25), operators=TENSORRT_11, forbidden=_FORMS, engine="TensorRT-RTX", device="RTX GPUs"),
)
TARGETS: dict[str, Target] = {target.name: target for target in _ALL}


def target_of(name: str) -> Target:
    """Return a target by name."""
    if name not in TARGETS:
        raise InputError(f"unknown target {name!r}", where="--target", hint=choices(name, TARGETS))
    return TARGETS[name]


def installed_target(version: str) -> Target:
    """Return the target ``trt`` with the operators and routes of a TensorRT version, 8.5 or newer."""
    numbers = version.split(".")
    try:
        release = (int(numbers[0]), int(numbers[1]) if len(numbers) > 1 else 0)
    except ValueError:
        raise InputError(f"expected a version such as 10.3, got {version!r}", where="TensorRT") from None
    if release < (8, 5):
        raise InputError(f"TensorRT {version} is older than 8.5", hint="install TensorRT 8.5 or newer")
    known = {11: "trt-11", 10: "trt-10", 8: "xavier-jp5" if release < (8, 6) else "orin-jp6"}
    like = TARGETS[known.get(min(release[0], 11), "orin-jp6")]
    limits = {name: getattr(like, name) for name in ("opsets", "operators", "forbidden", "precisions")}
    return replace(TARGETS["trt"], tensorrt=(version,), **limits)


def trtexec_line(
    target: Target,
    onnx: str | os.PathLike[str],
    engine: str | os.PathLike[str],
    *,
    precision: str = "fp32",
    inputs: Sequence[TensorSpec] = (),
    batch: tuple[int, int, int] | None = None,
    tf32: bool = False,
    workspace_mib: int | None = None,
    timing_cache: str | os.PathLike[str] | None = None,
    dla: int | None = None,
) -> str:
    """Return the trtexec command that builds an engine on the target's machine.

    Every flag is explicit, since trtexec 11 changed the defaults. `inputs` and `batch` describe a file with a dynamic
    batch.
    """
    if target.engine != "TensorRT":
        raise InputError(f"target {target.name} has no trtexec", where="--target")
    route = target.route(precision)
    # The flags of the oldest version work for all that a target covers.
    version = (*target.tensorrt, "11")[0]
    typed = version.partition(".")[0] == "10" and not any(each.flags for each in target.precisions.values())
    words = [_TRTEXEC, f"--onnx={os.fspath(onnx)}", f"--saveEngine={os.fspath(engine)}"]
    words += [f"--{flag.lower()}" for flag in route.flags]
    words += ["--stronglyTyped"] if typed else []
    words += [] if tf32 else ["--noTF32"]
    words.append(f"--memPoolSize=workspace:{workspace_mib or target.workspace_mib}")
    words.append("--profilingVerbosity=detailed")
    if timing_cache is not None:
        words.append(f"--timingCacheFile={os.fspath(timing_cache)}")
    if batch is not None:
        words += _shapes(inputs, batch)
    if dla is not None:
        if not 0 <= dla < target.dla_cores:
            raise InputError(f"target {target.name} has {target.dla_cores} DLA cores", where=f"DLA core {dla}")
        if precision == "int8" and int(version.partition(".")[0]) < 10:
            # NVIDIA/TensorRT#2222: the DLA takes the scales of a calibrator, not QuantizeLinear.
            what = f"the DLA of TensorRT {version} does not accept QuantizeLinear, which int8 models contain"
            raise InputError(what, where=f"target {target.name}, DLA core {dla}", hint="add --precision fp16")
        words += [f"--useDLACore={dla}", "--allowGPUFallback"]
    # 8.6 renamed it.
    words.append("--buildOnly" if version.startswith("8.5") else "--skipInference")
    return shlex.join(words)


def _shapes(inputs: Sequence[TensorSpec], batch: tuple[int, int, int]) -> list[str]:
    free = [spec for spec in inputs if None in spec.shape]
    for spec in free:
        if "," in spec.name or spec.shape.count(None) > 1:
            raise InputError("trtexec cannot express the shapes of this input", where=f"input {spec}")
    words = []
    for kind, size in zip(("min", "opt", "max"), batch, strict=True):
        shapes = (f"{spec.name}:{'x'.join(str(size if own is None else own) for own in spec.shape)}" for spec in free)
        words.append(f"--{kind}Shapes={','.join(shapes)}")
    return words
