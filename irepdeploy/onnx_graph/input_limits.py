"""Limits of integer inputs (token IDs, classes, sample rates), as far as the graph of a model reveals them."""

from __future__ import annotations

import onnx

from irepdeploy.onnx_graph.proto import attribute_of, inputs_of
from irepdeploy.onnx_graph.view import View

__all__ = ["input_limits"]

_WHOLE = {
    onnx.TensorProto.INT8, onnx.TensorProto.INT16, onnx.TensorProto.INT32, onnx.TensorProto.INT64,
    onnx.TensorProto.UINT8, onnx.TensorProto.UINT16, onnx.TensorProto.UINT32, onnx.TensorProto.UINT64,
}  # fmt: skip
# Operators that pass the numbers of their first input on.
_PASSED = {
    "Cast", "Concat", "Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Tile",
    "Transpose", "Unsqueeze",
}  # fmt: skip


def input_limits(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Return the smallest and largest value of each integer input that is an index or is compared with constants.

    Indices of Gather and OneHot must lie within the size of the table, minus any constant that was added to them. An
    input that is only compared with constants is limited to one of them, since other values would take a path that no
    real input takes.
    """
    view = View(model)
    found = {}
    for value in inputs_of(model.graph):
        if value.type.tensor_type.elem_type in _WHOLE:
            limits = _limits(view, value.name)
            if limits is not None:
                found[value.name] = limits
    return found


def _limits(view: View, name: str) -> tuple[int, int] | None:
    sizes: list[int] = []
    compared: list[int] = []
    least = 0
    # Each tensor to visit, with the constant that was added to the input on the way.
    waiting, seen = [(name, 0)], {name}
    while waiting:
        current, offset = waiting.pop()
        for node in view.readers.get(current, ()):
            places = [place for place, read in enumerate(node.input) if read == current]
            found = []
            if node.op_type in ("Gather", "GatherElements", "GatherND") and 1 in places:
                found = _size(view, node)
            elif node.op_type == "OneHot" and 0 in places:
                found = _value(view, node.input[1])
            elif node.op_type == "Equal":
                compared += [value - offset for value in _value(view, node.input[1 - places[0]])]
            sizes += [size - offset for size in found]
            least = max([least, -offset] if found else [least])
            added = _added(view, node, places)
            if added is not None:
                following = [output for output in node.output if output and output not in seen]
                waiting += [(output, offset + added) for output in following]
                seen.update(following)
    if sizes:
        # Indices are not negative, so none is valid if the added constant exceeds the size of the table.
        return (least, min(sizes) - 1) if least < min(sizes) else None
    return (compared[0], compared[0]) if compared else None


def _added(view: View, node: onnx.NodeProto, places: list[int]) -> int | None:
    """Return the constant that a node adds to the numbers it passes on, or None if it does anything else."""
    if node.op_type in _PASSED and 0 in places:
        return 0
    if node.op_type == "Add" or (node.op_type == "Sub" and places == [0]):
        for value in _value(view, node.input[1 - places[0]]):
            return value if node.op_type == "Add" else -value
    return None


def _size(view: View, node: onnx.NodeProto) -> list[int]:
    """Return the length, along the axis of a node, of the constant from which it selects."""
    table = view.constants.get(node.input[0])
    if table is None:
        table = _quantized(view, node.input[0])
    axis = attribute_of(node, "axis", 0)
    return [] if table is None or not -len(table.dims) <= axis < len(table.dims) else [table.dims[axis]]


def _quantized(view: View, name: str) -> onnx.TensorProto | None:
    """Return the stored table that a cast or a dequantization reads."""
    producer = view.producers.get(name)
    if producer is None or producer.op_type not in ("Cast", "DequantizeLinear", "Identity"):
        return None
    return view.constants.get(producer.input[0])


def _value(view: View, name: str) -> list[int]:
    """Return a constant of one number as a list, or an empty list."""
    found = view.value(name)
    return [int(found.reshape(-1)[0])] if found is not None and found.size == 1 else []
