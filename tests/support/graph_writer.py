"""Write an ONNX graph node by node, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Free = str | int
Shape = Sequence[Free | None] | None


def onnx_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Shape],
    outputs: Mapping[str, Shape],
    constants: Mapping[str, Any] | None = None,
    *,
    opset: int = 13,
    ir_version: int = 8,
    kinds: Mapping[str, int] | None = None,
) -> onnx.ModelProto:
    """Build a model of one graph.

    Args:
        nodes: Nodes in topological order.
        inputs: Shapes by name; None for a shape that is not declared.
        outputs: Shapes in the same form.
        constants: Arrays, or numbers that become float32 arrays of one value, by name.
        opset: Opset of the default domain.
        ir_version: Version of the file format.
        kinds: Element types of the inputs and outputs that are not float32.
    """
    given, made = (
        [helper.make_tensor_value_info(name, (kinds or {}).get(name, TensorProto.FLOAT), shape) for name, shape in side]
        for side in (inputs.items(), outputs.items())
    )
    arrays = {
        name: np.asarray(value) if isinstance(value, np.ndarray | np.generic) else np.array([value], np.float32)
        for name, value in (constants or {}).items()
    }
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(list(nodes), "graph", given, made, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


class GraphWriter:
    """Collects nodes and constants, and names them."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def node(self, kind: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> Any:
        """Write a node and return its output, or the tuple of its outputs."""
        names = [f"{kind.lower()}{len(self.nodes)}_{place}" for place in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, f"n{len(self.nodes)}", **attributes))
        return names[0] if outputs == 1 else tuple(names)

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Write a constant as an initializer, or occasionally as a node."""
        tensor = numpy_helper.from_array(np.asarray(value, dtype), f"c{len(self.constants)}_{len(self.nodes)}")
        if self.rng.random() < 0.1:
            name: str = self.node("Constant", [], value=tensor)
            return name
        self.constants.append(tensor)
        return str(tensor.name)

    def model(self, inputs: dict[str, Sequence[Free]], outputs: Sequence[str], opset: int) -> onnx.ModelProto:
        """Return the model written so far."""
        given = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
        made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in outputs]
        graph = helper.make_graph(self.nodes, "random", given, made, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
