"""Forms of ONNX operators that some target refuses, or worse, misreads: one check each, by name.

A target names those that may not stand in its files (`Target.forbidden`). A check yields what it finds, as text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property

import numpy as np
import onnx

__all__ = ["FORMS", "View", "all_graphs"]


class View:
    """A model, looked at: its nodes, those of subgraphs included, its constants and who makes and reads what."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graphs = list(all_graphs(model.graph))
        self.nodes = [node for graph in self.graphs for node in graph.node]
        self.producers = {output: node for node in self.nodes for output in node.output if output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    @cached_property
    def constants(self) -> dict[str, onnx.TensorProto]:
        """Initialisers and results of Constant nodes."""
        found = {tensor.name: tensor for graph in self.graphs for tensor in graph.initializer}
        for node in self.nodes:
            if node.op_type == "Constant":
                found.update((node.output[0], item.t) for item in node.attribute if item.name == "value")
        return found

    @property
    def opset(self) -> int:
        """Version of ONNX's own operators that the model names."""
        return max((entry.version for entry in self.model.opset_import if entry.domain in ("", "ai.onnx")), default=0)

    def fixed(self, name: str) -> bool:
        """Whether a tensor is known without running: a constant, or none at all."""
        producer = self.producers.get(name)
        return not name or name in self.constants or (producer is not None and producer.op_type == "Constant")

    def value(self, name: str) -> np.ndarray | None:
        """A constant as an array; None where it is none or lies in another file."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        return onnx.numpy_helper.to_array(tensor)


def all_graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph, and those inside its nodes."""
    yield graph
    for node in graph.node:
        for item in node.attribute:
            for inner in (item.g, *item.graphs):
                if inner.node or inner.initializer:
                    yield from all_graphs(inner)


def attribute(node: onnx.NodeProto, name: str, default: object = None) -> object:
    """An attribute's value, text decoded."""
    for item in node.attribute:
        if item.name == name:
            value = onnx.helper.get_attribute_value(item)
            return value.decode() if isinstance(value, bytes) else value
    return default


def _reduce_axes(view: View) -> Iterator[str]:
    # The parsers of TensorRT 8.5 and 8.6 never read that input, and reduce over every dimension.
    for node in view.nodes:
        if node.op_type.startswith("Reduce") and len(node.input) > 1:
            yield f"{node.name}: {node.op_type} with its axes as an input"


def _reduce_computed(view: View) -> Iterator[str]:
    for node in view.nodes:
        if node.op_type.startswith("Reduce") and not all(view.fixed(name) for name in node.input[1:]):
            yield f"{node.name}: {node.op_type} over axes that are computed"


def _shape_computed(view: View) -> Iterator[str]:
    for node in view.nodes:
        given = {
            "Pad": node.input[1:4],
            "Slice": node.input[3:4],
            "Squeeze": node.input[1:],
            "Unsqueeze": node.input[1:],
        }
        if not all(view.fixed(name) for name in given.get(node.op_type, ())):
            yield f"{node.name}: {node.op_type} by a computed tensor"


def _clip(view: View) -> Iterator[str]:
    for node in view.nodes:
        if node.op_type == "Clip" and not all(view.fixed(name) for name in node.input[1:]):
            yield f"{node.name}: Clip with computed bounds"


def _float64(view: View) -> Iterator[str]:
    double = onnx.TensorProto.DOUBLE
    for name, tensor in view.constants.items():
        if tensor.data_type == double:
            yield f"{name}: a float64 tensor"
    for node in view.nodes:
        if node.op_type == "Cast" and attribute(node, "to") == double:
            yield f"{node.name}: a cast to float64"


def _int32_bias(view: View) -> Iterator[str]:
    for node in view.nodes:
        tensor = view.constants.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if tensor is not None and tensor.data_type == onnx.TensorProto.INT32:
            yield f"{node.name}: DequantizeLinear of an int32 bias (quantise with QuantizeBias=False)"


def _uint8_quantised(view: View) -> Iterator[str]:
    for node in view.nodes:
        # Without a zero point QuantizeLinear gives uint8.
        if node.op_type == "QuantizeLinear":
            zero = view.constants.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
            if zero is None or zero.data_type == onnx.TensorProto.UINT8:
                yield f"{node.name}: quantised to uint8"


def _zero_point(view: View) -> Iterator[str]:
    for node in view.nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2:
            zero = view.value(node.input[2])
            if zero is not None and np.any(zero):
                yield f"{node.name}: a zero point that is not zero"


def _resize(view: View) -> Iterator[str]:
    for node in view.nodes:
        if node.op_type == "Resize":
            mode = attribute(node, "mode", "nearest")
            place = attribute(node, "coordinate_transformation_mode", "half_pixel")
            if mode not in ("nearest", "linear") or place == "tf_crop_and_resize" or attribute(node, "antialias", 0):
                yield f"{node.name}: Resize by {mode}, {place}"


def _uint8_input(view: View) -> Iterator[str]:
    for value in view.model.graph.input:
        others = [node for node in view.readers.get(value.name, []) if node.op_type != "Cast"]
        if value.type.tensor_type.elem_type == onnx.TensorProto.UINT8 and others:
            yield f"input {value.name}: uint8 that is read by something other than a Cast"


FORMS: dict[str, Callable[[View], Iterator[str]]] = {
    "Reduce with axes as input": _reduce_axes,
    "Reduce with computed axes": _reduce_computed,
    "Pad, Slice or Squeeze by a computed tensor": _shape_computed,
    "Clip bounds computed": _clip,
    "float64 tensor": _float64,
    "bias as int32 DequantizeLinear": _int32_bias,
    "quantised to uint8": _uint8_quantised,
    "zero point not zero": _zero_point,
    "Resize by cubic or cropping": _resize,
    "uint8 input not cast": _uint8_input,
}
