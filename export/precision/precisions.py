"""Precisions of an export: names, tolerances, and ONNX files of the lower ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx

from irepdeploy.board.trtexec import PRECISIONS
from irepdeploy.errors import CheckFailed, InputError, counted
from irepdeploy.onnx_graph.written import write_model
from irepdeploy.reparam.comparator import TOLERANCES, Tolerance
from irepdeploy.verify.samples import Inputs

from ..target.target import Target

if TYPE_CHECKING:
    from .calibration import CalibrationData

__all__ = ["INT8_OPSET", "carried_by_fp32", "precisions_of", "tolerance_of_precision", "write_fp16", "write_int8"]

# Since this opset a scale for each channel can be written.
INT8_OPSET = 13


def precisions_of(text: str | Sequence[str] | None, target: Target, carried: str = "fp32") -> tuple[str, ...]:
    """Parse precisions such as ``fp32,fp16``; the default is fp32, plus fp16 if the target has an engine.

    A model that is not fp32 is only exported in the precision that it carries, which is then the default.
    """
    if text is None:
        default = ("fp32",) if target.engine is None else ("fp32", "fp16")
        return default if carried == "fp32" else _carried_only((), carried, target)
    names = [name.strip() for name in text.split(",")] if isinstance(text, str) else list(text)
    for name in names:
        if name not in PRECISIONS:
            raise InputError(f"unknown precision {name!r}", where="--precision", hint=f"some of {','.join(PRECISIONS)}")
        target.route(name)
    if carried != "fp32":
        return _carried_only(names, carried, target)
    return tuple(name for name in PRECISIONS if name in names)


def _carried_only(names: Sequence[str], carried: str, target: Target) -> tuple[str, ...]:
    """Return the precision that a model carries, if no other is requested and the target supports it."""
    other = next((name for name in names if name != carried), None)
    if other is not None:
        raise InputError(
            f"the weights of this file are {carried}, from which {other} cannot be made",
            where="--precision",
            hint="omit it" if carried not in PRECISIONS else f"--precision {carried}",
        )
    if target.engine is not None and carried not in target.precisions:
        raise InputError(f"the weights of this file are {carried}, which target {target.name} does not take")
    # Without an engine or a request, the file itself is the only result.
    return (carried,) if carried in target.precisions and (names or target.engine is not None) else ()


def carried_by_fp32(target: Target, precision: str) -> bool:
    """Return whether the builder makes this precision from the fp32 ONNX by a flag."""
    return target.route(precision).graph == "float32"


def tolerance_of_precision(precision: str) -> Tolerance:
    """Return the tolerance of this precision relative to fp32."""
    return TOLERANCES[{"fp32": "float32", "fp16": "float16", "int8": "int8"}[precision]]


def write_fp16(model: onnx.ModelProto, inputs: Inputs, path: Path | None, *, external: bool = False) -> dict[str, Any]:
    """Check the ranges of weights and activations, and write the float16 model unless `path` is None.

    The entry of the certificate lists the operators that stay float32.
    """
    from .fp16 import half_graph, kept_float
    from .ranges import range_report

    kept = {} if path is None else kept_float(model)
    ranges = range_report(model, inputs, kept)
    if not ranges.ok:
        raise CheckFailed(
            f"fp16 overflows: {ranges.first_overflow} is beyond 65504", hint="omit fp16: --precision fp32"
        )
    if path is not None:
        write_model(half_graph(model), path, external=external)
    found: dict[str, Any] = {"ranges": ranges.to_dict()}
    return {**found, "kept_float": list(kept), "kept_operators": dict(sorted(Counter(kept.values()).items()))}


def write_int8(
    model: onnx.ModelProto,
    data: CalibrationData,
    path: Path,
    *,
    target: Target,
    max_drop: float,
    external: bool = False,
) -> tuple[dict[str, Any], frozenset[str]]:
    """Write an explicitly quantized int8 model that loses at most `max_drop` percentage points.

    Return the entry of the certificate, and the layers that stay float.
    """
    from .sensitivity import int8_model

    activations = "uint8" if target.engine is None else "int8"
    result, found = int8_model(model, data, max_drop=max_drop, activations=activations)
    write_model(result, path, external=external)
    entry = found.to_dict()
    # ONNX Runtime has no transposed convolution of integers, and the quantizer leaves them alone.
    left = [node.name for node in result.graph.node if node.op_type == "ConvTranspose"]
    if left:
        entry["kept_float"] = [*entry["kept_float"], *left]
        entry["notes"] = [*entry["notes"], f"not quantized: {counted(len(left), 'transposed convolution')}"]
    return entry, frozenset(entry["kept_float"])
