"""Bounds of an ONNX model, because a small file can describe more than any computer can hold.

Shape inference, the checker and ONNX Runtime expand functions where they are called, and every reader of a constant
allocates the shape that the constant declares. Both are counted here in advance.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable

import numpy as np
import onnx

from irepdeploy.errors import ModelError
from irepdeploy.limits import check_memory, size_text
from irepdeploy.onnx_graph.proto import constants_of, graphs_of, subgraphs_of, tensors_of

__all__ = ["check_bounds", "check_constants", "check_external", "check_sizes"]

_MOST_NODES = 1 << 20
_LONGEST_CALL = 50
# Lower bound on the bits of an element of any type.
_FEWEST_BITS = 2
# Bytes of one element of any other type, such as a complex number.
_MOST_BYTES = 16
# The input that determines the size of the result, as an integer number of pixels, repeats or elements.
_SIZED = {"ConstantOfShape": 0, "Expand": 1, "OneHot": 1, "Pad": 1, "Range": 1, "Resize": 3, "Tile": 1, "TopK": 1}
_NUMBERS = {onnx.TensorProto.INT32, onnx.TensorProto.INT64, onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE}
_LARGEST_SIZE, _MOST_SIZES = 1 << 24, 64

_Function = tuple[str, str, str]


def check_bounds(model: onnx.ModelProto, label: str) -> None:
    """Raise ModelError for functions that call themselves, or more than a million nodes with functions expanded."""
    functions = {(item.domain, item.name, getattr(item, "overload", "")): item for item in model.functions}
    counts: dict[_Function, int] = {}

    def count(nodes: Iterable[onnx.NodeProto], callers: tuple[_Function, ...]) -> int:
        total = 0
        for node in nodes:
            key = (node.domain, node.op_type, getattr(node, "overload", ""))
            total += count_of(key, callers) if key in functions else 1
        return total

    def count_of(key: _Function, callers: tuple[_Function, ...]) -> int:
        if key in callers:
            raise ModelError(f"its function {key[1]!r} calls itself", where=label)
        if len(callers) > _LONGEST_CALL:
            raise ModelError(f"its functions are nested more than {_LONGEST_CALL} deep", where=label)
        if key not in counts:
            counts[key] = count(_every_node(functions[key].node), (*callers, key))
        return counts[key]

    # Functions that are never called are checked too, because shape inference processes them.
    total = sum(count(graph.node, ()) if functions else len(graph.node) for graph in graphs_of(model))
    for key in functions:
        total = max(total, count_of(key, ()))
    if total > _MOST_NODES:
        raise ModelError(f"expected at most {_MOST_NODES:,} nodes, got {total:,} with functions expanded", where=label)


def check_constants(model: onnx.ModelProto, label: str) -> None:
    """Raise ModelError if a constant stores more or fewer numbers than its shape has; skip those in other files."""
    for tensor in tensors_of(model):
        if _is_external(tensor):
            continue
        elements = math.prod(tensor.dims)
        if any(size < 0 for size in tensor.dims) or not _holds(tensor, elements):
            shape = "x".join(map(str, tensor.dims)) or "a scalar"
            raise ModelError(f"damaged: the constant {tensor.name!r} does not hold {shape} numbers", where=label)


def check_external(model: onnx.ModelProto, folder: str, label: str) -> None:
    """Check the sizes of constants that are stored in other files.

    Raises:
        ModelError: A file stores more bytes for a constant than its shape needs.
        RunError: The constants do not fit into the memory of this machine.
        ValueError: The location of a constant is not valid.
    """
    total, root = 0, os.path.realpath(folder)
    for tensor in filter(_is_external, tensors_of(model)):
        info = onnx.external_data_helper.ExternalDataInfo(tensor)
        file = os.path.join(root, os.path.normpath(info.location))
        # onnx itself refuses links, other folders, and anything that is not a file.
        if os.path.isabs(info.location) or os.path.realpath(file) != file or not os.path.isfile(file):
            continue
        size = os.stat(file).st_size - (info.offset or 0) if info.length is None else info.length
        _, itemsize = _STORED.get(tensor.data_type, ("", _MOST_BYTES))
        if size > math.prod(tensor.dims) * itemsize:
            raise ModelError(f"damaged: {size_text(size)} are stored for the constant {tensor.name!r}", where=label)
        total += size
    check_memory(total, "the weights beside it", label)


def check_sizes(model: onnx.ModelProto, label: str) -> None:
    """Raise ModelError if a constant requests a dimension too large for shape inference, which lists every number."""
    for graph in graphs_of(model):
        constants = constants_of(graph)
        for node in graph.node:
            place = _SIZED.get(node.op_type)
            if place is None or len(node.input) <= place or node.input[place] not in constants:
                continue
            tensor = constants[node.input[place]]
            if math.prod(tensor.dims) > _MOST_SIZES or tensor.data_type not in _NUMBERS or _is_external(tensor):
                continue
            largest = max(map(float, onnx.numpy_helper.to_array(tensor).reshape(-1)), default=0.0)
            if largest > _LARGEST_SIZE:
                what = f"{node.op_type}: expected sizes of at most {_LARGEST_SIZE:,}, got {largest:,.0f}"
                raise ModelError(what, where=f"{label}, {node.name or node.output[0]}")


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _holds(tensor: onnx.TensorProto, elements: int) -> bool:
    kind = tensor.data_type
    if kind not in _STORED:
        return elements * _FEWEST_BITS <= 8 * tensor.ByteSize()
    field, itemsize = _STORED[kind]
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data) == elements * itemsize
    return len(getattr(tensor, field)) == elements


def _every_node(nodes: Iterable[onnx.NodeProto]) -> Iterable[onnx.NodeProto]:
    for node in nodes:
        yield node
        for graph in subgraphs_of(node):
            yield from graph.node


# Field and bytes of an element, for types whose elements are stored individually.
_STORED: dict[int, tuple[str, int]] = {
    kind: (onnx.helper.tensor_dtype_to_field(kind), np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)).itemsize)
    for kind in (
        onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16,
        onnx.TensorProto.BOOL, onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT16,
        onnx.TensorProto.UINT16, onnx.TensorProto.INT32, onnx.TensorProto.UINT32, onnx.TensorProto.INT64,
        onnx.TensorProto.UINT64,
    )
}  # fmt: skip
