"""Site: the view of a model that rules for rewriting single nodes use, and to which they add constants and nodes."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import onnx

from irepdeploy.errors import ModelError
from irepdeploy.onnx_graph.proto import distinct_name, graphs_of
from irepdeploy.onnx_graph.shapes import inferred_graph
from irepdeploy.onnx_graph.view import View

__all__ = ["Site", "drop_attributes", "set_attribute"]

_AXES_ARE_INPUTS = 18


class Site:
    """A node of a model that is being rewritten.

    Args:
        model: The model.
        opset: Opset in which new nodes are written.
        label: Name of the model in error messages.

    Attributes:
        graph: The graph that contains the node.
        node: The node.
        after: Nodes that replace the node, in order; empty if the node is kept.
    """

    def __init__(self, model: onnx.ModelProto, opset: int, label: str | None) -> None:
        self._model, self._opset, self._label = model, opset, label
        self._view = View(model)
        graphs = list(graphs_of(model))
        values = [name for graph in graphs for node in graph.node for name in (*node.input, *node.output)]
        self._names = {*values, *(tensor.name for graph in graphs for tensor in graph.initializer)}
        self.graph, self.node, self.after = model.graph, onnx.NodeProto(), list[onnx.NodeProto]()

    def move_to(self, graph: onnx.GraphProto, node: onnx.NodeProto) -> None:
        """Move to another node."""
        self.graph, self.node, self.after = graph, node, []

    @property
    def name(self) -> str:
        """Name of the node, or of its output if the node has no name."""
        return str(self.node.name or self.node.output[0])

    def given(self, place: int) -> str:
        """Return the name of an input, or "" if it is omitted."""
        return str(self.node.input[place]) if len(self.node.input) > place else ""

    def value(self, name: str) -> np.ndarray[Any, Any] | None:
        """Return the value of a constant tensor, or None."""
        return self._view.value(name)

    def needed(self, place: int, what: str) -> np.ndarray[Any, Any]:
        """Return the value of an input, or raise ModelError if it is not constant."""
        found = self.value(self.given(place))
        return self.refuse(f"with computed {what}") if found is None else found

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Return the sizes of a tensor, with None for each free one, or None if its rank is unknown."""
        if name in self._view.constants:
            return tuple(self._view.constants[name].dims)
        kind = self._types.get(name)
        if kind is None or not kind.HasField("shape"):
            return None
        return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)

    def known_shape(self, place: int) -> tuple[int | None, ...]:
        """Return the sizes of an input, or raise ModelError if its rank is unknown."""
        found = self.shape(self.given(place))
        return self.refuse("of an input of unknown rank") if found is None else found

    def kind(self, name: str) -> int:
        """Return the element type of a tensor, or float if it is unknown."""
        if name in self._view.constants:
            return int(self._view.constants[name].data_type)
        kind = self._types.get(name)
        return int(kind.elem_type) if kind is not None and kind.elem_type else int(onnx.TensorProto.FLOAT)

    def constant(self, array: Any, part: str, kind: int = onnx.TensorProto.INT64) -> str:
        """Add a constant and return its name."""
        name = distinct_name(f"{self.name}.{part}", self._names)
        array = np.asarray(array).astype(onnx.helper.tensor_dtype_to_np_dtype(kind))
        self.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return name

    def emit(self, operator: str, inputs: list[str], part: str = "", **attributes: Any) -> str:
        """Add a node to those that replace the current one, and return its output.

        Args:
            operator: Operator type.
            inputs: Names of the inputs.
            part: Suffix of the names of the node and its output. Without it, the output is that of the current node.
            attributes: Attributes of the node.
        """
        output = distinct_name(f"{self.name}.{part}", self._names) if part else self.node.output[0]
        name = f"{self.name}.{part}" if part else self.node.name
        self.after.append(onnx.helper.make_node(operator, inputs, [output], name, **attributes))
        return output

    def reduced(self, operator: str, data: str, axes: list[int], part: str) -> str:
        """Add a reduction that keeps the reduced dimensions, and return its output."""
        if self._opset >= _AXES_ARE_INPUTS:
            return self.emit(operator, [data, self.constant(axes, f"{part}.axes")], part, keepdims=1)
        return self.emit(operator, [data], part, axes=axes, keepdims=1)

    def refuse(self, what: str) -> NoReturn:
        """Raise ModelError because the current node cannot be rewritten."""
        raise ModelError(f"{self.node.op_type} {self.name!r} {what}", where=self._label)

    @cached_property
    def _types(self) -> dict[str, Any]:
        graph = inferred_graph(self._model, data_prop=True)
        values = (*graph.input, *graph.value_info, *graph.output)
        return {value.name: value.type.tensor_type for value in values}


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Set an attribute of a node, replacing an existing one."""
    drop_attributes(node, name)
    node.attribute.append(onnx.helper.make_attribute(name, value))


def drop_attributes(node: onnx.NodeProto, *names: str) -> None:
    """Remove attributes from a node, if it has them."""
    for index in reversed(range(len(node.attribute))):
        if node.attribute[index].name in names:
            del node.attribute[index]
