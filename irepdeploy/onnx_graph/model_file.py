"""Open ONNX models: parse them, and read weights that are stored in other files."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator

import onnx
from google.protobuf.message import DecodeError

from irepdeploy.errors import InputError, ModelError, one_line
from irepdeploy.files import read_bytes, sha256
from irepdeploy.limits import MODEL, open_file
from irepdeploy.onnx_graph.bounds import check_bounds, check_constants, check_external, check_sizes
from irepdeploy.onnx_graph.check import check_attributes
from irepdeploy.onnx_graph.order import is_sorted, sort_nodes
from irepdeploy.onnx_graph.proto import tensors_of
from irepdeploy.onnx_graph.written import fits_one_file, serialized

__all__ = ["OnnxModel", "file_digest", "label_of", "model_content", "open_model", "plain_content"]

OnnxModel = onnx.ModelProto | bytes | str | os.PathLike[str]

_IN_MEMORY = "ONNX model"


def open_model(model: OnnxModel, *, weights: bool = True, ordered: bool = True) -> onnx.ModelProto:
    """Parse an ONNX model.

    Args:
        model: A path, bytes, or a ModelProto, which is returned unchanged, or as a copy if it must be sorted.
        weights: Whether to read external data.
        ordered: Whether to sort the nodes.

    Raises:
        InputError: The file is missing or cannot be read, or `model` is of another type.
        ModelError: The model is not an ONNX model, is damaged, or lacks its external data.
    """
    label = label_of(model)
    if isinstance(model, onnx.ModelProto):
        _check_fields(model, label)
        check_attributes(model, label)
        proto = model
        if ordered and not is_sorted(model):
            proto = onnx.ModelProto()
            proto.CopyFrom(model)
    else:
        proto = _parse(_bytes_of(model), label)
    if ordered:
        sort_nodes(proto)
    if weights and _is_external(proto):
        if isinstance(model, onnx.ModelProto | bytes):
            raise ModelError("its weights are stored in another file", where=label, hint="give the path of the model")
        _read_external_data(proto, label)
    return proto


def model_content(model: OnnxModel) -> bytes:
    """Return a model as serialized bytes, including external data.

    A file without external data is returned unchanged.

    Raises:
        InputError: The file is missing.
        ModelError: The model is damaged, lacks its external data, or exceeds 2 GiB.
    """
    label = label_of(model)
    if not isinstance(model, onnx.ModelProto):
        content = _bytes_of(model)
        proto = _parse(content, label)
        if not _is_external(proto):
            return content
    try:
        return serialized(open_model(model))
    except ModelError as error:
        raise type(error)(error.what, where=error.where or label, hint=error.hint) from error


def plain_content(path: str | os.PathLike[str]) -> bytes | None:
    """Return the bytes of a file that contains all its weights, or None if some are in other files."""
    content = _bytes_of(path)
    return None if b"location" in content and _is_external(_parse(content, label_of(path))) else content


def file_digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, including the external weights of an ONNX model.

    For a model with external weights, it is the digest of `model_content` up to 2 GiB, and above that the digest of
    all weights followed by the model without them.
    """
    if not os.fspath(path).lower().endswith(".onnx"):
        with open_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    content = read_bytes(path)
    # "location" is a key of external data; without it, the file need not be parsed.
    if b"location" in content:
        # A file that is not a model or that lacks its weights has the digest of its bytes.
        with contextlib.suppress(ModelError):
            model = _parse(content, os.fspath(path))
            if _is_external(model):
                return sha256(model_content(path)) if fits_one_file(model) else _digest_of_parts(model, os.fspath(path))
    return sha256(content)


def _digest_of_parts(model: onnx.ModelProto, path: str) -> str:
    digest = hashlib.sha256()
    for tensor in filter(_is_outside, tensors_of(model)):
        with _readable(path) as folder:
            onnx.external_data_helper.load_external_data_for_tensor(tensor, folder)
        digest.update(tensor.raw_data)
        tensor.ClearField("raw_data")
    digest.update(model.SerializeToString(deterministic=True))
    return digest.hexdigest()


def label_of(model: OnnxModel) -> str:
    """Return the name of a model in messages, which is its path if it has one.

    Raises:
        InputError: `model` is not of a supported type.
    """
    if isinstance(model, onnx.ModelProto | bytes):
        return _IN_MEMORY
    if isinstance(model, str | os.PathLike):
        return os.fspath(model)
    raise InputError(
        f"expected an ONNX model, got a {type(model).__name__}", hint="give its path, its bytes or a ModelProto"
    )


def _bytes_of(model: bytes | str | os.PathLike[str]) -> bytes:
    return model if isinstance(model, bytes) else read_bytes(model, "ONNX file", MODEL)


def _parse(content: bytes, label: str) -> onnx.ModelProto:
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelError("not an ONNX model, or a damaged one", where=label, hint="export it again") from error
    _check_fields(model, label)
    check_constants(model, label)
    check_sizes(model, label)
    check_attributes(model, label)
    _free_sizes(model.graph)
    return model


def _free_sizes(graph: onnx.GraphProto) -> None:
    """Remove negative sizes, which some exporters use for free sizes."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value < 0:
                dim.ClearField("dim_value")


def _check_fields(model: onnx.ModelProto, label: str) -> None:
    # Protobuf parses an empty file, and some texts, as a message without fields.
    missing = "graph" if not model.HasField("graph") else "opset" if not model.opset_import else None
    if missing is not None:
        raise ModelError(f"not an ONNX model: it has no {missing}", where=label, hint="export it again")
    check_bounds(model, label)


def _is_external(model: onnx.ModelProto) -> bool:
    return any(map(_is_outside, tensors_of(model)))


def _is_outside(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _read_external_data(model: onnx.ModelProto, path: str) -> None:
    with _readable(path) as folder:
        check_external(model, folder, path)
        onnx.external_data_helper.load_external_data_for_model(model, folder)
    check_constants(model, path)


@contextlib.contextmanager
def _readable(path: str) -> Iterator[str]:
    """Yield the folder of the weights, and name the model in errors of reading them."""
    try:
        yield os.path.dirname(os.path.abspath(path))
    # onnx raises RuntimeError for a name that the file system refuses.
    except (OSError, ValueError, RuntimeError, onnx.checker.ValidationError) as error:
        raise ModelError(
            f"its external data cannot be read: {one_line(error)}",
            where=path,
            hint="keep the data file next to the model, under its original name",
        ) from error
