"""View of an ONNX model: its nodes, its constants, and the producer and the readers of each tensor."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import onnx

from irepdeploy.onnx_graph.proto import constants_of, graphs_of, opset_of

__all__ = ["View"]


class View:
    """Index of a model, including subgraphs.

    Attributes:
        model: The model.
        graphs: All graphs, starting with the outer ones.
        nodes: All nodes.
        producers: The node that computes each tensor.
        readers: The nodes that read each tensor.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.graphs = list(graphs_of(model))
        self.nodes = [node for graph in self.graphs for node in graph.node]
        self.producers = {output: node for node in self.nodes for output in node.output if output}
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    @cached_property
    def constants(self) -> dict[str, onnx.TensorProto]:
        """Initializers and the tensors of Constant nodes, by name."""
        return {name: tensor for graph in self.graphs for name, tensor in constants_of(graph).items()}

    @property
    def opset(self) -> int:
        """Version of ONNX's own operator set."""
        return opset_of(self.model)

    def fixed(self, name: str) -> bool:
        """Return whether a tensor is a constant or an omitted input."""
        producer = self.producers.get(name)
        return not name or name in self.constants or (producer is not None and producer.op_type == "Constant")

    def value(self, name: str) -> np.ndarray | None:
        """Return a constant as an array, or None if it is not a constant or is stored in another file."""
        tensor = self.constants.get(name)
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL:
            return None
        return onnx.numpy_helper.to_array(tensor)
