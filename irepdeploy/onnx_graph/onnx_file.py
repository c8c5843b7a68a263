"""An ONNX file as an engine is built from it: all of it in one piece, and the precision that it is in."""

from __future__ import annotations

import os

import onnx
from google.protobuf.message import DecodeError

from irepdeploy.errors import InputError, ModelError
from irepdeploy.files import read_bytes

__all__ = ["carried_precision", "model_content"]


def model_content(model: bytes | str | os.PathLike[str]) -> tuple[bytes, str]:
    """The model's bytes, with its external data in them, and a name for it.

    Raises:
        InputError: it cannot be read; ModelError where it is no ONNX or lacks its external data.
    """
    where = "ONNX model" if isinstance(model, bytes) else os.fspath(model)
    content = model if isinstance(model, bytes) else read_bytes(model, "ONNX file")
    try:
        proto = onnx.load_model_from_string(content)
    except DecodeError:
        raise ModelError("not an ONNX model, or a damaged one", where=where, hint="export it again") from None
    if any(one.data_location == onnx.TensorProto.EXTERNAL for one in proto.graph.initializer):
        if isinstance(model, bytes):
            raise InputError("its data lies in another file", where=where, hint="give the path of the model")
        try:
            onnx.load_external_data_for_model(proto, os.path.dirname(os.path.abspath(model)))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise ModelError(
                f"its external data cannot be read: {' '.join(str(error).split())}",
                where=where,
                hint="keep the data file beside the model, under the name it was written with",
            ) from error
        content = proto.SerializeToString(deterministic=True)
    return content, "MODEL.onnx" if isinstance(model, bytes) else where


def carried_precision(content: bytes) -> str:
    """The precision that an ONNX is in: int8 with QuantizeLinear or DequantizeLinear, else that of its weights.

    Raises:
        ModelError: it is no ONNX.
    """
    try:
        graph = onnx.load_model_from_string(content).graph
    except DecodeError:
        raise ModelError("not an ONNX model, or a damaged one", where="ONNX model", hint="export it again") from None
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in graph.node):
        return "int8"
    halves = any(one.data_type == onnx.TensorProto.FLOAT16 for one in graph.initializer)
    return "fp16" if halves else "fp32"
