"""Targets as data: what the ONNX for each of them must be, and how its engine is built."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import InputError

from .parser_operators import TENSORRT_8_5, TENSORRT_8_6, TENSORRT_10, TENSORRT_11

__all__ = ["TARGETS", "Route", "Target", "installed_target", "target_of", "trtexec_line"]

_TRTEXEC = "/usr/src/tensorrt/bin/trtexec"


@dataclass(frozen=True)
class Route:
    """How a precision comes into an engine.

    Args:
        graph: what the ONNX itself carries: "float32", "float16" (half weights, float32 inputs and outputs) or
            "int8 Q/DQ".
        flags: flags that the builder is given beside, by their names in ``BuilderFlag``.
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
# What every parser of TensorRT refuses or misreads, by the names of the checks in `audit`.
_FORMS = frozenset(
    {
        "bias as int32 DequantizeLinear",
        "Clip bounds computed",
        "float64 tensor",
        "quantised to uint8",
        "Resize by cubic or cropping",
        "uint8 input not cast",
        "zero point not zero",
    }
)


@dataclass(frozen=True)
class Target:
    """What an export is for.

    Args:
        opset: version of ONNX's operators that is written.
        opsets: the lowest and the highest that may stand in the file; default: only `opset`.
        ir_version: version of the file format that is written, and the highest that may stand there.
        operators: those that may stand in the file; None takes whatever ONNX has at that opset.
        forbidden: forms of operators that may not, by the names of the checks in `audit`.
        precisions: route of each.
        engine: "TensorRT", "TensorRT-RTX", or None.
        tensorrt: versions of it that the target stands for; () is whatever is installed.
        on_board: whether the engine is built on the board, not here.
        device: what it runs on, for people.
        dimensions: the most that a tensor may have.
        max_bytes: the largest file; one protobuf holds no more.
        dla_cores: accelerators for fixed functions beside the GPU.
        workspace_mib: memory that the builder may use, unless told otherwise.
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
        """The lowest and the highest opset that may stand in the file."""
        return self.opsets or (self.opset, self.opset)

    def route(self, precision: str) -> Route:
        """How `precision` comes into an engine of this target.

        Raises:
            InputError: it has none.
        """
        if precision not in self.precisions:
            raise InputError(
                f"target {self.name} has no precision {precision!r}",
                where="--precision",
                hint=f"one of {', '.join(self.precisions)}",
            )
        return self.precisions[precision]


_REDUCE = "Reduce with axes as input"
_PARSER_8 = _FORMS | {_REDUCE, "Pad, Slice or Squeeze by a computed tensor"}

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("ort", opsets=(7, 23)),
        Target(
            "trt",
            opsets=(13, 17),
            operators=TENSORRT_8_5,
            forbidden=_PARSER_8,
            engine="TensorRT",
            device="the GPU of this machine",
        ),
        Target(
            "trt-11",
            opsets=(9, 25),
            operators=TENSORRT_11,
            forbidden=_FORMS,
            engine="TensorRT",
            tensorrt=("11",),
            device="the GPU of this machine",
        ),
        Target(
            "trt-10",
            opsets=(9, 20),
            operators=TENSORRT_10,
            forbidden=_FORMS | {"Reduce with computed axes"},
            engine="TensorRT",
            tensorrt=("10",),
            device="the GPU of this machine",
        ),
        Target(
            "xavier-jp5",
            opsets=(13, 17),
            operators=TENSORRT_8_5,
            forbidden=_PARSER_8,
            precisions=_FLAGGED,
            engine="TensorRT",
            tensorrt=("8.5.2",),
            on_board=True,
            device="Jetson AGX Xavier, JetPack 5.1",
            dla_cores=2,
        ),
        # JetPack 6.0 has TensorRT 8.6.2, 6.1 to 6.2.2 have 10.3: only what both take, by flags that both have.
        Target(
            "orin-jp6",
            opsets=(13, 17),
            operators=TENSORRT_8_6,
            forbidden=_PARSER_8,
            precisions=_FLAGGED,
            engine="TensorRT",
            tensorrt=("8.6.2", "10.3"),
            on_board=True,
            device="Jetson Orin, JetPack 6",
            dla_cores=2,
        ),
        Target(
            "rtx",
            opsets=(9, 25),
            operators=TENSORRT_11,
            forbidden=_FORMS,
            engine="TensorRT-RTX",
            device="RTX GPUs",
        ),
    )
}


def target_of(name: str) -> Target:
    """The target of this name.

    Raises:
        InputError: there is none.
    """
    if name not in TARGETS:
        raise InputError(f"no target {name!r}", where="--target", hint=f"one of {', '.join(TARGETS)}")
    return TARGETS[name]


def installed_target(version: str) -> Target:
    """Target ``trt`` for the TensorRT of this version: what its parser takes and how precisions come in.

    Raises:
        InputError: a version before 8.5, which no target stands for.
    """
    numbers = version.split(".")
    try:
        release = (int(numbers[0]), int(numbers[1]) if len(numbers) > 1 else 0)
    except ValueError:
        raise InputError(f"{version!r} is no version", where="TensorRT") from None
    if release < (8, 5):
        raise InputError(f"TensorRT {version} is older than 8.5", hint="install TensorRT 8.5 or newer")
    known = {11: "trt-11", 10: "trt-10", 8: "xavier-jp5" if release < (8, 6) else "orin-jp6"}
    like = TARGETS[known.get(min(release[0], 11), "orin-jp6")]
    return replace(
        TARGETS["trt"],
        opsets=like.opsets,
        operators=like.operators,
        forbidden=like.forbidden,
        precisions=like.precisions,
        tensorrt=(version,),
    )


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
    times: str | os.PathLike[str] | None = None,
    trtexec: str = _TRTEXEC,
) -> str:
    """The line to type where `target` lives, every flag explicit: trtexec 11 changed what the flags' absence means.

    Args:
        inputs: with `batch`, what the ONNX takes; their first size is free.
        batch: least, best and largest batch of a network with a free batch.
        tf32: let float32 layers round to TF32.
        dla: core of the DLA that layers are put on where they can be.
        times: measure, and write the raw times there; default: build only.

    Raises:
        InputError: the target has no trtexec, not this precision, or not this DLA core.
    """
    if target.engine != "TensorRT":
        raise InputError(f"target {target.name} has no trtexec", where="--target")
    route, major = target.route(precision), _major(target)
    words = [trtexec, f"--onnx={os.fspath(onnx)}", f"--saveEngine={os.fspath(engine)}"]
    words += [f"--{flag.lower()}" for flag in route.flags]
    if major == 10 and not any(target.precisions[name].flags for name in target.precisions):
        words.append("--stronglyTyped")
    if not tf32:
        words.append("--noTF32")
    words.append(f"--memPoolSize=workspace:{workspace_mib or target.workspace_mib}")
    words.append("--profilingVerbosity=detailed")
    if timing_cache is not None:
        words.append(f"--timingCacheFile={os.fspath(timing_cache)}")
    if batch is not None:
        words += _shapes(inputs, batch)
    if dla is not None:
        if not 0 <= dla < target.dla_cores:
            raise InputError(f"target {target.name} has {target.dla_cores} DLA cores", where=f"DLA core {dla}")
        words += [f"--useDLACore={dla}", "--allowGPUFallback"]
    if times is None:
        # 8.6 renamed it.
        words.append("--buildOnly" if "".join(target.tensorrt[:1]).startswith("8.5") else "--skipInference")
    else:
        # 11 does so by itself, and no longer knows how it is told.
        words += [] if major >= 11 else ["--useSpinWait", "--useCudaGraph", "--noDataTransfers"]
        words += ["--warmUp=2000", "--duration=10", "--iterations=1000", f"--exportTimes={os.fspath(times)}"]
    return shlex.join(words)


def _major(target: Target) -> int:
    # The flags of the oldest version hold for all that a target stands for.
    return int(target.tensorrt[0].partition(".")[0]) if target.tensorrt else 11


def _shapes(inputs: Sequence[TensorSpec], batch: tuple[int, int, int]) -> list[str]:
    for spec in inputs:
        if "," in spec.name or None in spec.shape[1:]:
            raise InputError("trtexec cannot be told the shapes of this input", where=f"input {spec}")
    words = []
    for kind, size in zip(("min", "opt", "max"), batch, strict=True):
        shapes = (f"{spec.name}:{'x'.join(map(str, (size, *spec.shape[1:])))}" for spec in inputs)
        words.append(f"--{kind}Shapes={','.join(shapes)}")
    return words
