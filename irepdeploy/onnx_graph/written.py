"""Write ONNX models in one file, or with their weights in a second file, which is necessary above 2 GiB."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import EncodeError

from irepdeploy.errors import InputError, ModelError
from irepdeploy.files import as_ours, write_bytes
from irepdeploy.limits import MODEL
from irepdeploy.onnx_graph.proto import graphs_of, tensors_of

__all__ = ["data_file", "fits_one_file", "serialized", "write_model"]

# Bytes reserved for everything except weights.
_MARGIN = 16 << 20
# In bytes. Constants smaller than the first stay in the model, since they may be sizes, which shape inference reads;
# offsets are multiples of the second.
_SMALL, _ALIGNED = 1024, 64


def data_file(path: Path) -> Path:
    """Return the path of the file that contains the external weights of an ONNX file."""
    return path.with_name(f"{path.name}.data")


def fits_one_file(model: onnx.ModelProto) -> bool:
    """Return whether a model with its weights is smaller than 2 GiB, the limit of protobuf."""
    return sum(map(_bytes_of, tensors_of(model))) < MODEL - _MARGIN


def serialized(model: onnx.ModelProto) -> bytes:
    """Serialize a model deterministically, or raise ModelError if it exceeds 2 GiB."""
    try:
        return model.SerializeToString(deterministic=True)
    except (EncodeError, ValueError) as error:
        raise ModelError("exceeds 2 GiB, the limit of a single ONNX file") from error


def write_model(model: onnx.ModelProto, path: Path, *, external: bool = False) -> tuple[Path, ...]:
    """Write a model and return its files.

    Args:
        model: The model; it is the same afterwards.
        path: The file to write.
        external: Write the weights to a `data_file`, which always happens above 2 GiB.

    Raises:
        InputError: The path is not UTF-8, and the weights are written to a second file.
        OutputError: A file cannot be written.
        RunError: The disk is full.
    """
    if not external and fits_one_file(model):
        return (write_bytes(path, serialized(model)),)
    if any("\udc80" <= letter <= "\udcff" for letter in str(path)):
        # onnx can open external weights only by a path in UTF-8.
        hint = "name another folder with --out"
        raise InputError("expected a path in UTF-8 for a model with external weights", where=path, hint=hint)
    data = data_file(path)
    moved = []
    try:
        with open(data, "wb") as file:
            for graph in graphs_of(model):
                for tensor in graph.initializer:
                    if _bytes_of(tensor) >= _SMALL and tensor.data_type != onnx.TensorProto.STRING:
                        file.write(bytes(-file.tell() % _ALIGNED))
                        _move(tensor, file.tell(), data.name)
                        file.write(tensor.raw_data)
                        tensor.ClearField("raw_data")
                        moved.append(tensor)
            file.flush()
            os.fsync(file.fileno())
        write_bytes(path, serialized(model))
    except OSError as error:
        raise as_ours(error, data) from error
    finally:
        for tensor in moved:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, str(data.parent))
    return (data, path)


def _move(tensor: onnx.TensorProto, offset: int, location: str) -> None:
    """Convert a tensor to raw data, and set its location in a file."""
    if not tensor.HasField("raw_data"):
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    length = len(tensor.raw_data)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))


def _bytes_of(tensor: onnx.TensorProto) -> int:
    try:
        itemsize = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize
    except KeyError:
        itemsize = 1
    return math.prod(tensor.dims) * itemsize
