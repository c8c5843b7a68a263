"""Read an ONNX file again and hold it against what was asked for: an exporter's own success message proves nothing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from irepdeploy.errors import CheckFailed
from irepdeploy.files import read_bytes
from irepdeploy.runtime.runner import TensorSpec

from .target import Target

__all__ = ["audit"]


def audit(
    path: str | os.PathLike[str], target: Target, inputs: Sequence[TensorSpec], outputs: Sequence[str]
) -> dict[str, Any]:
    """Check the file and return what it is: opset, IR version, nodes by operator, inputs, outputs, size.

    Args:
        inputs: names, static shapes and dtypes that the file must have.
        outputs: names that it must have.

    Raises:
        CheckFailed: it is not what was asked for; all that is wrong is named.
    """
    content = read_bytes(path, "ONNX file")
    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise CheckFailed("the written ONNX cannot be read again", where=path) from error
    faults = [
        *_header(model, target),
        *_files(model, Path(path)),
        *_signature(model, inputs, outputs),
        *_nodes(model, target),
    ]
    # With external data or foreign operators the checker's own words would only hide the reason.
    faults = faults or [*_checker(content)] or [*_sizes(model)]
    if faults:
        raise CheckFailed(f"the written ONNX is not what was asked for: {'; '.join(faults)}", where=path)
    return {
        "opset": target.opset,
        "ir_version": target.ir_version,
        "nodes": len(model.graph.node),
        "operators": dict(sorted(Counter(node.op_type for node in model.graph.node).items())),
        "inputs": [_declared(value) for value in model.graph.input],
        "outputs": [_declared(value) for value in model.graph.output],
        "size_bytes": len(content),
    }


def _header(model: onnx.ModelProto, target: Target) -> Iterator[str]:
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    if opsets != {"ai.onnx": target.opset}:
        yield f"opset {opsets}, not {target.opset}"
    if model.ir_version != target.ir_version:
        yield f"IR version {model.ir_version}, not {target.ir_version}"
    if model.functions:
        yield "it holds functions"


def _files(model: onnx.ModelProto, path: Path) -> Iterator[str]:
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        yield "its weights lie in another file"
    if path.with_name(f"{path.name}.data").exists():
        yield "a file of weights lies beside it"


def _signature(model: onnx.ModelProto, inputs: Sequence[TensorSpec], outputs: Sequence[str]) -> Iterator[str]:
    weights = {tensor.name for tensor in model.graph.initializer}
    found = [_declared(value) for value in model.graph.input if value.name not in weights]
    wanted = [{"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype} for spec in inputs]
    if found != wanted:
        yield f"inputs {found}, not {wanted}"
    names = [value.name for value in model.graph.output]
    if names != list(outputs):
        yield f"outputs {names}, not {list(outputs)}"


def _nodes(model: onnx.ModelProto, target: Target) -> Iterator[str]:
    strange = sorted({node.op_type for node in model.graph.node if node.domain or node.op_type not in target.operators})
    if strange:
        yield f"operators that target {target.name} does not take: {', '.join(strange)}"
    names = Counter(node.name for node in model.graph.node)
    if names[""] or any(count > 1 for count in names.values()):
        yield "nodes without a name of their own"
    yield from _left_behind(model)


def _left_behind(model: onnx.ModelProto) -> Iterator[str]:
    """Batch normalisations that could stand in their convolution: nothing else reads its output."""
    producers = {output: node for node in model.graph.node for output in node.output}
    readers = Counter(name for node in model.graph.node for name in node.input)
    readers.update(value.name for value in model.graph.output)
    for node in model.graph.node:
        before = producers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if before is not None and before.op_type == "Conv" and readers[node.input[0]] == 1:
            yield f"batch normalisation {node.name} was left behind the convolution {before.name}"


def _checker(content: bytes) -> Iterator[str]:
    try:
        onnx.checker.check_model(content, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        yield f"onnx.checker: {(str(error).strip().splitlines() or [type(error).__name__])[0]}"


def _sizes(model: onnx.ModelProto) -> Iterator[str]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    for value in [*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output]:
        shape = _declared(value)["shape"]
        if not all(isinstance(size, int) and size > 0 for size in shape):
            yield f"{value.name} has no static shape: {shape}"


def _declared(value: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = value.type.tensor_type
    sizes = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim]
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name if kind.elem_type else "unknown"
    return {"name": value.name, "shape": sizes, "dtype": dtype}
