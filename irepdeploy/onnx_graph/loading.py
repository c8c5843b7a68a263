"""Loading: an ONNX model from a file, bytes or memory, checked as far as the collapse relies on it."""

from __future__ import annotations

import os

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import uses_external_data

from irepdeploy.errors import InputError, ModelError
from irepdeploy.files import read_bytes

__all__ = ["content_of", "load"]

# Since then Add and Mul broadcast, and BatchNormalization has no mode.
_OLDEST = 7
_POSITIVE = {"dilations", "group", "kernel_shape", "num_outputs", "strides"}
_SIZES = {*_POSITIVE, "axis", "axes", "pads", "perm", "split"}
_LARGEST = 1 << 20


def load(model: onnx.ModelProto | bytes | str | os.PathLike[str]) -> tuple[onnx.ModelProto, str | None]:
    """The model, which may be changed, and the file it is from.

    Raises:
        InputError: the file is missing, or it is no model at all.
        ModelError: it is no ONNX model, is damaged, is too old, or its weights lie in other files.
    """
    if not isinstance(model, onnx.ModelProto | bytes | str | os.PathLike):
        raise InputError(f"a {type(model).__name__} where an ONNX model is due", hint="its path, bytes or ModelProto")
    if isinstance(model, onnx.ModelProto):
        where, proto = None, onnx.ModelProto()
        proto.CopyFrom(model)
    else:
        where = None if isinstance(model, bytes) else os.fspath(model)
        try:
            proto = onnx.load_model_from_string(content_of(model))
        except DecodeError as error:
            raise ModelError("not an ONNX model, or a damaged one", where=where) from error
    _check(proto, where)
    return proto, where


def content_of(model: onnx.ModelProto | bytes | str | os.PathLike[str]) -> bytes:
    """The bytes of a model as it was given; a file is read again, since held it would double the memory.

    Raises:
        InputError: the file is missing.
    """
    if isinstance(model, onnx.ModelProto):
        return model.SerializeToString(deterministic=True)
    return model if isinstance(model, bytes) else read_bytes(model, "ONNX file")


def _check(model: onnx.ModelProto, where: str | None) -> None:
    opset = max((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), default=None)
    if not model.HasField("graph") or not model.opset_import:
        lacks = "opset" if model.HasField("graph") else "graph"
        raise ModelError(f"not an ONNX model: it has no {lacks}", where=where)
    if opset is not None and opset < _OLDEST:
        hint = f"convert it: onnx.version_converter.convert_version(model, {13})"
        raise ModelError(f"opset {opset} is older than {_OLDEST}", where=where, hint=hint)
    for node in model.graph.node:
        for item in node.attribute:
            # onnx's own shape inference divides by some of them, and makes as many outputs as others say.
            values = item.ints or [item.i]
            least = 1 if item.name in _POSITIVE else -_LARGEST
            if item.name in _SIZES and not least <= min(values) <= max(values) <= _LARGEST:
                label = node.name or node.op_type
                raise ModelError(f"damaged: {item.name} of {label!r} is {list(values)}", where=where)
    if any(uses_external_data(tensor) for tensor in model.graph.initializer):
        hint = "put them into one file: onnx.save(onnx.load(PATH), PATH, save_as_external_data=False)"
        raise ModelError("its weights lie in other files", where=where, hint=hint)
