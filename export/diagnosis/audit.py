"""Audit a written ONNX file, since the success message of an exporter proves nothing."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import CheckFailed, ModelError, first_line
from irepdeploy.files import read_bytes
from irepdeploy.onnx_graph.forms import FORMS
from irepdeploy.onnx_graph.model_file import open_model
from irepdeploy.onnx_graph.proto import inputs_of
from irepdeploy.onnx_graph.shapes import inferred_graph
from irepdeploy.onnx_graph.view import View

from ..target.target import Target

__all__ = ["Asked", "audit"]

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm"}
_SIZED_BY_VALUES = {"Compress", "NonMaxSuppression", "NonZero", "Unique"}
_HALF, _FLOAT = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class Asked:
    """Expectations of a file beyond those of its target.

    Args:
        precision: "fp32", "fp16" or "int8"; the target's route defines what that means for the ONNX.
        dynamic_batch: Whether the batch dimension of every input and output is dynamic, and no other dimension.
        kept: Names of the nodes that stay in a higher precision on purpose.
        opset: Expected opset. Default: the target's.
        given: Whether the file was not written here: any opset, IR version, precision and size that the target accepts
            are then allowed, and so are batch normalizations and nodes without names.
        axes: Batch axis by input and output. Default: the first.
        external: Whether the weights are in a file next to it.
    """

    precision: str = "fp32"
    dynamic_batch: bool = False
    kept: frozenset[str] = frozenset()
    opset: int | None = None
    given: bool = False
    axes: Mapping[str, int | None] = field(default_factory=dict)
    external: bool = False

    @property
    def as_given(self) -> bool:
        """Whether the file keeps the precision in which it was given."""
        return self.given and self.precision == "fp32"


def audit(
    path: str | os.PathLike[str],
    target: Target,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str | TensorSpec],
    asked: Asked | None = None,
) -> dict[str, Any]:
    """Check a file against its target and the request, by default fp32 and a static batch.

    Returns:
        Opset, IR version, nodes by operator, inputs, outputs, bytes of weights by dtype, and size.

    Raises:
        CheckFailed: The file has faults, all of which are listed.
    """
    asked = asked or Asked()
    content = read_bytes(path, "ONNX file")
    try:
        model = open_model(content, weights=False)
    except ModelError as error:
        raise CheckFailed("the written ONNX cannot be read again", where=path) from error
    view = View(model)
    faults = [
        *_header(view, target, asked.opset or target.opset, asked.given),
        *(() if asked.external else _files(view, Path(path), len(content), target)),
        *_signature(model, inputs, outputs),
        *_nodes(view, target, asked.given),
    ]
    # If there is external data or a foreign operator, further faults would only hide the reason.
    faults = faults or [
        *(() if asked.given else _left_behind(view)),
        *(fault for name in sorted(target.forbidden) for fault in FORMS[name](view)),
        *(() if asked.as_given else _precision(view, target.route(asked.precision).graph, asked.kept)),
    ]
    faults = faults or [*_checker(path if asked.external else content)] or [*_sizes(view, target, asked)]
    if faults:
        raise CheckFailed(f"the written ONNX is not what was asked for: {'; '.join(faults)}", where=path)
    return {
        "opset": view.opset,
        "ir_version": model.ir_version,
        "nodes": len(view.nodes),
        "operators": dict(sorted(Counter(node.op_type for node in view.nodes).items())),
        "inputs": [_declared(value) for value in model.graph.input],
        "outputs": [_declared(value) for value in model.graph.output],
        "weights": _weights(view),
        "size_bytes": len(content),
    }


def _header(view: View, target: Target, opset: int, given: bool) -> Iterator[str]:
    low, high = target.allowed_opsets
    opsets = {entry.domain or "ai.onnx": entry.version for entry in view.model.opset_import}
    if opsets.get("ai.onnx") != opset or (len(opsets) > 1 and not given):
        yield f"opset {opsets}, not {opset}"
    elif not low <= opset <= high:
        yield f"opset {opset}, and target {target.name} accepts {low} to {high}"
    # ONNX Runtime has already loaded a given file.
    most = target.ir_version if target.engine or not given else view.model.ir_version
    if not 3 <= view.model.ir_version <= most:
        yield f"IR version {view.model.ir_version}, not {target.ir_version}"
    if view.model.functions:
        yield "it holds functions"


def _files(view: View, path: Path, size: int, target: Target) -> Iterator[str]:
    tensors = [tensor for graph in view.graphs for tensor in graph.initializer]
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in (*tensors, *view.constants.values())):
        yield "its weights are in another file"
    if path.with_name(f"{path.name}.data").exists():
        yield "there is a file of weights next to it"
    if size > target.max_bytes:
        yield f"{size:,} bytes, and target {target.name} accepts {target.max_bytes:,}"


def _signature(
    model: onnx.ModelProto, inputs: Sequence[TensorSpec], outputs: Sequence[str | TensorSpec]
) -> Iterator[str]:
    found = [_declared(value) for value in inputs_of(model.graph)]
    wanted = [_wanted(spec) for spec in inputs]
    if not _agree(found, wanted):
        yield f"inputs {found}, not {wanted}"
    given = [_declared(value) for value in model.graph.output]
    names = [spec if isinstance(spec, str) else spec.name for spec in outputs]
    if [value["name"] for value in given] != names:
        yield f"outputs {[value['name'] for value in given]}, not {names}"
        return
    specs = [spec for spec in outputs if isinstance(spec, TensorSpec)]
    of_specs = [value for value, spec in zip(given, outputs, strict=True) if isinstance(spec, TensorSpec)]
    if not _agree(of_specs, [_wanted(spec) for spec in specs]):
        yield f"outputs {of_specs}, not {[_wanted(spec) for spec in specs]}"


def _nodes(view: View, target: Target, given: bool) -> Iterator[str]:
    known = target.operators
    # ONNX Runtime has its own operators, and has already loaded a given file.
    foreign = target.engine is not None or not given
    strange = {
        node.op_type
        for node in view.nodes
        if (node.domain and foreign) or (known is not None and node.op_type not in known)
    }
    if strange:
        yield f"operators that target {target.name} does not accept: {', '.join(sorted(strange))}"
    names = Counter(node.name for node in view.nodes)
    if not given and (names[""] or any(count > 1 for count in names.values())):
        yield "nodes without a name of their own"


def _left_behind(view: View) -> Iterator[str]:
    """Yield batch normalizations that could be folded into the convolution before them."""
    returned = {value.name for value in view.model.graph.output}
    for node in view.nodes:
        name = node.input[0] if node.op_type == "BatchNormalization" else ""
        before = view.producers.get(name)
        if before is not None and before.op_type == "Conv" and len(view.readers[name]) == 1 and name not in returned:
            yield f"batch normalization {node.name} was left behind the convolution {before.name}"


def _precision(view: View, graph: str, kept: frozenset[str]) -> Iterator[str]:
    """Yield layers whose weights do not have the type of the precision."""
    for node in view.nodes:
        if node.op_type not in _WEIGHTED or node.name in kept:
            continue
        quantized = view.producers.get(node.input[1])
        tensor = view.constants.get(node.input[1])
        if graph == "int8 Q/DQ":
            if quantized is None or quantized.op_type != "DequantizeLinear":
                yield f"{node.name}: weights that are not quantized"
        elif tensor is not None and tensor.data_type != (_HALF if graph == "float16" else _FLOAT):
            kind = onnx.TensorProto.DataType.Name(tensor.data_type)
            yield f"{node.name}: weights of {kind} in a {graph} graph"
        elif quantized is not None and quantized.op_type == "DequantizeLinear":
            yield f"{node.name}: quantized weights in a {graph} graph"


def _checker(model: bytes | str | os.PathLike[str]) -> Iterator[str]:
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        yield f"onnx.checker: {first_line(error)}"


def _sizes(view: View, target: Target, asked: Asked) -> Iterator[str]:
    dynamic, anything = asked.dynamic_batch, asked.given and target.engine is None
    ends = [*view.model.graph.input, *view.model.graph.output]
    for value in ends:
        shape = _declared(value)["shape"]
        free = [index for index, size in enumerate(shape) if not isinstance(size, int)]
        if any(isinstance(size, int) and size < 1 for size in shape) or (free and not dynamic and not anything):
            yield f"{value.name} has no static shape: {shape}"
        elif free and free != [asked.axes.get(value.name, 0)] and not anything:
            yield f"{value.name} has dynamic dimensions other than its batch: {shape}"
    places = {value.name: asked.axes.get(value.name, 0) for value in ends if _declared(value)["shape"]}
    symbols = {str(_declared(value)["shape"][place]) for value in ends if (place := places.get(value.name)) is not None}
    if dynamic and not asked.given and (len(symbols) != 1 or next(iter(symbols)).isdecimal()):
        yield f"expected a dynamic batch, and inputs and outputs begin with {', '.join(sorted(symbols))}"
    for node in view.nodes:
        if node.op_type in _SIZED_BY_VALUES:
            yield f"{node.name}: the output size of {node.op_type} depends on values"
    for value in inferred_graph(view.model, strict=True).value_info:
        rank = len(_declared(value)["shape"])
        if rank > target.dimensions:
            yield f"{value.name} has {rank} dimensions, and target {target.name} accepts {target.dimensions}"


def _weights(view: View) -> dict[str, int]:
    """Return the bytes of the constants by dtype."""
    found: Counter[str] = Counter()
    for tensor in view.constants.values():
        kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
        found[kind.name] += int(np.prod(tensor.dims, dtype=np.int64)) * kind.itemsize
    return dict(sorted(found.items()))


def _wanted(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "shape": list(spec.shape), "dtype": spec.dtype}


def _agree(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> bool:
    def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
        sizes = zip(a["shape"], b["shape"], strict=True) if len(a["shape"]) == len(b["shape"]) else [(0, 1)]
        return (a["name"], a["dtype"]) == (b["name"], b["dtype"]) and all(
            x == y or (y is None and isinstance(x, str)) for x, y in sizes
        )

    return len(found) == len(wanted) and all(map(same, found, wanted))


def _declared(value: onnx.ValueInfoProto) -> dict[str, Any]:
    kind = value.type.tensor_type
    sizes = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in kind.shape.dim]
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)).name if kind.elem_type else "unknown"
    return {"name": value.name, "shape": sizes, "dtype": dtype}
