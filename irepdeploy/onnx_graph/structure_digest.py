"""Digest of the structure of an ONNX model: everything that it computes, except for weights and names.

Two models with the same digest have the same operators with the same attributes, connected in the same way, with
weights and inputs of the same shapes and types, so that a runtime does the same work for both.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import onnx

from irepdeploy.errors import ModelError
from irepdeploy.onnx_graph.model_file import OnnxModel, label_of, open_model

__all__ = ["structure_digest"]

_COMMUTATIVE = {"Add", "And", "Equal", "Max", "Mean", "Min", "Mul", "Or", "Sum", "Xor"}
_PASSED = {"Dropout", "Identity"}
# Constants of these operators are not weights, but define what is computed. So do integers and scalars, except in
# quantized networks, where they are weights like any other.
_SHAPING = {"Clip", "Pad", "Range", "Resize", "Upsample"}
_WHOLE = {onnx.TensorProto.INT64, onnx.TensorProto.BOOL, onnx.TensorProto.STRING}
_QUANTIZING = {"DequantizeLinear", "QuantizeLinear"}
# Attributes whose default is this number for each axis.
_DEFAULTS = {"strides": 1, "dilations": 1, "pads": 0, "output_padding": 0}


@dataclass(frozen=True)
class _Read:
    """One input of a node, which is output `place` of `vertex`; `detail` describes a constant for this reader."""

    vertex: _Vertex
    place: int
    detail: str

    @property
    def tree(self) -> str:
        return _hashed(self.vertex.tree, self.place, self.detail)


class _Vertex:
    """A node, a constant or an input; `tree` is the digest of the expression that computes it."""

    def __init__(self, label: object, reads: list[_Read]) -> None:
        self.label = label
        self.reads = reads
        self.tree = _hashed(label, [read.tree for read in reads])


def structure_digest(model: OnnxModel) -> str:
    """Return the digest of a model's structure as 64 hexadecimal digits.

    The digest does not depend on weights, names, the order of nodes in the file, nodes that no output needs or that
    only pass on their input, attributes with their default values, whether constants are nodes, the order of operands
    of commutative operators, versions, and metadata. It depends on everything else: the order of inputs and outputs,
    types and shapes of inputs (all names of dynamic dimensions are equivalent), and whether two nodes read the same
    weight. Integers, scalars, and constants that determine a result (bounds, paddings, scales of a resize) are included
    with their values; in subgraphs and functions, names are included too.

    Models with different structures never have the same digest. Models with the same structure may have different ones
    in a single case: if operands that differ only in their weights are swapped, and another node also reads one of
    them.

    Raises:
        ModelError: The model has no outputs, a tensor has no producer, or a constant that is included with its value is
            stored in another file.
    """
    opened = open_model(model, weights=False)
    graph = opened.graph
    if not graph.output:
        raise ModelError("not an ONNX model, or one without outputs", where=label_of(model))
    given, tensors = _sources(graph)
    lines: list[object] = [[_type(value.type) for value in graph.input if value.name not in tensors]]
    for node in graph.node:
        _add(node, given, tensors)
    numbers: dict[_Vertex, int] = {}
    for output in graph.output:
        if output.name not in given:
            raise ModelError("no node computes this output", where=output.name)
        vertex, place = given[output.name]
        lines += _numbered(vertex, numbers)
        lines.append((numbers[vertex], place))
    lines += [function.SerializeToString(deterministic=True) for function in opened.functions]
    return _hashed(*lines)


def _sources(graph: onnx.GraphProto) -> tuple[dict[str, tuple[_Vertex, int]], dict[str, onnx.TensorProto]]:
    """Return the inputs and constants as vertices by name, and the tensors of the constants."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    given = {name: (_Vertex("constant", []), 0) for name in tensors}
    for sparse in graph.sparse_initializer:
        given[sparse.values.name] = (_Vertex(("sparse", list(sparse.dims), sparse.values.data_type), []), 0)
    inputs = [value for value in graph.input if value.name not in given]
    given.update((value.name, (_Vertex(("input", index), []), 0)) for index, value in enumerate(inputs))
    return given, tensors


def _add(node: onnx.NodeProto, given: dict[str, tuple[_Vertex, int]], tensors: dict[str, onnx.TensorProto]) -> None:
    constant = next((item.t for item in node.attribute if item.name == "value"), None)
    if node.op_type == "Constant" and constant is not None:
        tensors[node.output[0]] = constant
        given[node.output[0]] = (_Vertex("constant", []), 0)
        return
    reads = [_read(name, node, given, tensors) for name in node.input]
    if node.op_type in _PASSED and not node.domain:
        given[node.output[0]] = (reads[0].vertex, reads[0].place)
        if node.input[0] in tensors:
            tensors[node.output[0]] = tensors[node.input[0]]
        return
    if node.op_type in _COMMUTATIVE:
        reads.sort(key=lambda read: read.tree)
    outputs = [bool(name) for name in node.output]
    vertex = _Vertex((node.domain, node.op_type, outputs, _attributes(node, tensors)), reads)
    given.update((name, (vertex, place)) for place, name in enumerate(node.output) if name)


def _read(
    name: str, node: onnx.NodeProto, given: Mapping[str, tuple[_Vertex, int]], tensors: Mapping[str, onnx.TensorProto]
) -> _Read:
    if not name:
        return _Read(_NOTHING, 0, "")
    if name not in given:
        raise ModelError(f"a node reads {name!r}, which no earlier node computes", where=node.name or node.op_type)
    vertex, place = given[name]
    return _Read(vertex, place, _constant(tensors[name], node.op_type) if name in tensors else "")


def _constant(tensor: onnx.TensorProto, reader: str) -> str:
    scalar_or_whole = not tensor.dims or tensor.data_type in _WHOLE
    told = reader in _SHAPING or (scalar_or_whole and reader not in _QUANTIZING)
    return _tensor(tensor) if told else repr((tensor.data_type, list(tensor.dims)))


def _tensor(tensor: onnx.TensorProto) -> str:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        raise ModelError(
            "a constant that defines the structure is stored in another file",
            where=tensor.name,
            hint="save the model in one file",
        )
    return repr((tensor.data_type, list(tensor.dims), onnx.numpy_helper.to_array(tensor).tobytes()))


def _attributes(node: onnx.NodeProto, tensors: Mapping[str, onnx.TensorProto]) -> list[tuple[str, str]]:
    """Return name and value of the attributes that differ from their defaults."""
    defaults = {}
    if onnx.defs.has(node.op_type, node.domain):
        defaults = onnx.defs.get_schema(node.op_type, node.domain).attributes
    found = []
    for item in node.attribute:
        value = onnx.helper.get_attribute_value(item)
        default = defaults[item.name].default_value if item.name in defaults else onnx.AttributeProto()
        if default.type == item.type and value == onnx.helper.get_attribute_value(default):
            continue
        if item.name in _DEFAULTS and all(number == _DEFAULTS[item.name] for number in value):
            continue
        # This attribute follows from the shape of the weights.
        if item.name == "kernel_shape" and len(node.input) > 1 and node.input[1] in tensors:
            continue
        found.append((item.name, _text(value)))
    return sorted(found)


def _text(value: Any) -> str:
    if isinstance(value, onnx.TensorProto):
        return _tensor(value)
    if hasattr(value, "SerializeToString"):
        return repr(value.SerializeToString(deterministic=True))
    return repr(value if isinstance(value, int | float | str | bytes) else [_text(each) for each in value])


def _type(kind: onnx.TypeProto) -> object:
    if not kind.HasField("tensor_type"):
        return kind.SerializeToString(deterministic=True)
    tensor = kind.tensor_type
    if not tensor.HasField("shape"):
        return tensor.elem_type, None
    return tensor.elem_type, [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]


def _numbered(root: _Vertex, numbers: dict[_Vertex, int]) -> list[object]:
    """Assign numbers to the vertices that `root` needs, depth first, and return a line for each new one."""
    lines: list[object] = []
    stack = [root]
    while stack:
        vertex = stack[-1]
        missing = next((read.vertex for read in vertex.reads if read.vertex not in numbers), None)
        if missing is not None:
            stack.append(missing)
            continue
        stack.pop()
        if vertex not in numbers:
            numbers[vertex] = len(numbers)
            lines.append((vertex.label, [(numbers[read.vertex], read.place, read.detail) for read in vertex.reads]))
    return lines


def _hashed(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


_NOTHING = _Vertex("nothing", [])
