"""Targets as data: what the ONNX for each of them must be."""

from __future__ import annotations

from dataclasses import dataclass

from irepdeploy.errors import InputError

__all__ = ["TARGETS", "Target", "target_of"]

_OPERATORS = frozenset(
    {
        "Add",
        "AveragePool",
        "BatchNormalization",
        "Concat",
        "Conv",
        "Flatten",
        "Gemm",
        "GlobalAveragePool",
        "Identity",
        "MaxPool",
        "Relu",
    }
)


@dataclass(frozen=True)
class Target:
    """What an export is for.

    Args:
        opset: version of ONNX's operators that is written.
        ir_version: version of the file format that is written.
        operators: those that may stand in the file.
        engine: what is built from the ONNX, or None.
    """

    name: str
    opset: int = 13
    ir_version: int = 8
    operators: frozenset[str] = _OPERATORS
    engine: str | None = None


TARGETS: dict[str, Target] = {
    "ort": Target("ort"),
    "trt": Target("trt", engine="TensorRT"),
}


def target_of(name: str) -> Target:
    """The target of this name.

    Raises:
        InputError: there is none.
    """
    if name not in TARGETS:
        raise InputError(f"no target {name!r}", where="--target", hint=f"one of {', '.join(TARGETS)}")
    return TARGETS[name]
