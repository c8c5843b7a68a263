"""Write an ONNX graph node by node, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Free = str | int


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
        """Write a constant as an initializer, or now and then as a node."""
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
