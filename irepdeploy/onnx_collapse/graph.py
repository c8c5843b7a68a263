"""Graph: the operators of an ONNX model in order, the producer and the readers of each tensor, and the constants."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from irepdeploy.errors import ModelError, one_line
from irepdeploy.onnx_graph.check import check_graph
from irepdeploy.onnx_graph.proto import captured_by, opset_of
from irepdeploy.onnx_graph.shapes import Shape, Shapes

__all__ = ["FLOATS", "Array", "Constant", "Graph", "Operator", "kind_of", "widened"]

Array = np.ndarray[Any, Any]

# Element types of the convolutions that can be written.
FLOATS: dict[int, np.dtype[Any]] = {
    onnx.TensorProto.FLOAT: np.dtype(np.float32),
    onnx.TensorProto.FLOAT16: np.dtype(np.float16),
    onnx.TensorProto.DOUBLE: np.dtype(np.float64),
}
_OWN = ("", "ai.onnx")
# Size in bytes of the cache of decoded initializers. A weight is read about six times while its region is collapsed.
_MOST_DECODED = 1 << 26


@dataclass(frozen=True, eq=False)
class Operator:
    """A node of the graph.

    Attributes:
        index: Position of the node in the model.
        node: The node.
        kind: Operator type, see `kind_of`.
        inputs: Names of the inputs, empty if omitted.
        outputs: Names of the outputs, empty if omitted.
        captured: Names of outer tensors that its subgraphs read.
    """

    index: int
    node: onnx.NodeProto
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    captured: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the node, or of its first output if the node has no name."""
        return self.node.name or next(filter(None, self.outputs), self.kind)

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Values of the attributes by name, without references to attributes of a function."""
        return {
            item.name: onnx.helper.get_attribute_value(item) for item in self.node.attribute if not item.ref_attr_name
        }

    def input(self, place: int) -> str:
        """Return the name of an input, or "" if it is omitted."""
        return self.inputs[place] if place < len(self.inputs) else ""


@dataclass(frozen=True)
class Constant:
    """A value that is known before the model runs.

    Attributes:
        native: The value as the model computes it.
        exact: The value with unrounded floats, if it was computed in float64.
    """

    native: Array
    exact: Array | None = None

    @cached_property
    def wide(self) -> Array:
        """The value with floats in float64."""
        return widened(self.native if self.exact is None else self.exact)


@dataclass
class Graph:
    """A model that is being collapsed: its operators in order, except folded and unused ones, and its constants."""

    model: onnx.ModelProto
    opset: int
    operators: list[Operator]
    initializers: dict[str, onnx.TensorProto]
    outputs: set[str]
    folded: dict[str, Constant] = field(default_factory=dict)
    shapes: Shapes = field(default_factory=Shapes)
    producers: dict[str, Operator] = field(default_factory=dict)
    readers: dict[str, list[Operator]] = field(default_factory=dict)
    _decoded: dict[str, Constant] = field(default_factory=dict)
    _decoded_bytes: int = 0

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Graph:
        """Index a model, without operators whose results are not used; raise ModelError if it is damaged."""
        proto = model.graph
        opset = opset_of(model)
        given = {value.name for value in proto.input}
        # Since IR version 4, an initializer of an input is only a default value.
        fixed = (item for item in proto.initializer if model.ir_version < 4 or item.name not in given)
        initializers = {item.name: item for item in fixed}
        check_graph(model)
        operators = []
        for index, node in enumerate(proto.node):
            captured = tuple(captured_by(node))
            operator = Operator(index, node, kind_of(node), tuple(node.input), tuple(node.output), captured)
            operators.append(operator)
        outputs = {value.name for value in proto.output}
        graph = cls(model, opset, operators, initializers, outputs)
        graph.index()
        return graph

    def index(self) -> None:
        """Remove unused operators, and index the others again."""
        needed = set(self.outputs)
        live = []
        for operator in reversed(self.operators):
            if not needed.isdisjoint(filter(None, operator.outputs)):
                live.append(operator)
                needed.update(operator.inputs, operator.captured)
        self.operators = live[::-1]
        self.producers = {name: operator for operator in self.operators for name in operator.outputs if name}
        self.readers = {}
        for operator in self.operators:
            for name in dict.fromkeys((*operator.inputs, *operator.captured)):
                self.readers.setdefault(name, []).append(operator)

    def is_constant(self, name: str) -> bool:
        """Return whether the tensor is known before the model runs."""
        return name in self.initializers or name in self.folded

    def constant(self, name: str) -> Constant | None:
        """Return the value of a constant tensor, or None if it is computed at run time."""
        found = self.folded.get(name) or self._decoded.get(name)
        if found is None and name in self.initializers:
            found = Constant(_array(self.initializers[name]))
            self._decoded_bytes += found.native.nbytes
            if self._decoded_bytes > _MOST_DECODED:
                self._decoded, self._decoded_bytes = {}, found.native.nbytes
            self._decoded[name] = found
        return found

    def shape(self, name: str) -> Shape | None:
        """Return the sizes of a tensor, with None for each dynamic one, or None if the rank is unknown."""
        return self.shapes.exact(name)

    def nominal(self, name: str) -> tuple[int, ...] | None:
        """Return the sizes of a tensor, with a nominal number for each dynamic one."""
        return self.shapes.nominal(name)


def kind_of(node: onnx.NodeProto) -> str:
    """Return the operator type of a node, prefixed by the domain if it is not ONNX's own."""
    return node.op_type if node.domain in _OWN else f"{node.domain}::{node.op_type}"


def widened(array: Array) -> Array:
    """Return the array with floats in float64."""
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _array(tensor: onnx.TensorProto) -> Array:
    try:
        return numpy_helper.to_array(tensor)
    except (TypeError, ValueError) as error:
        raise ModelError(f"damaged: the initializer {tensor.name!r} cannot be decoded: {one_line(error)}") from error
