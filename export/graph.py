"""OnnxGraph: one ONNX model while it is being written.

Everything is put straight into one ``ModelProto``: onnx's helpers copy every initialiser, which doubles the memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import torch

import irepdeploy
from irepdeploy.errors import ModelError

__all__ = ["Emitter", "OnnxGraph", "Value"]


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its name, its static shape and its numpy dtype by name."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"


class OnnxGraph:
    """A graph that grows node by node; every name in it is unique.

    Args:
        name: the graph's name.
        reserved: names that only inputs and outputs may have.
    """

    def __init__(self, name: str, *, opset: int, ir_version: int, reserved: Sequence[str]) -> None:
        self.model = onnx.ModelProto(
            ir_version=ir_version, producer_name="irepdeploy", producer_version=irepdeploy.__version__
        )
        self.model.opset_import.add(domain="", version=opset)
        self.model.graph.name = name
        self._names = set(reserved)
        self._initializers: dict[Hashable, str] = {}

    def unique(self, name: str) -> str:
        """`name`, with a number behind it where it is taken."""
        candidate, count = name, 0
        while candidate in self._names:
            count += 1
            candidate = f"{name}_{count}"
        self._names.add(candidate)
        return candidate

    def initializer(self, key: Hashable, name: str, tensor: torch.Tensor) -> str:
        """Name of the initialiser that holds `tensor`; equal keys share one."""
        if key not in self._initializers:
            array = tensor.detach().cpu().contiguous().numpy()
            self._initializers[key] = self.unique(name)
            self.model.graph.initializer.add(
                name=self._initializers[key],
                dims=array.shape,
                data_type=onnx.helper.np_dtype_to_tensor_dtype(array.dtype),
                raw_data=array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes(),
            )
        return self._initializers[key]

    def node(self, operator: str, name: str, inputs: Sequence[str], attributes: Mapping[str, object]) -> str:
        """Append a node and return the name of its output, which is the node's own."""
        name = self.unique(name)
        node = self.model.graph.node.add(op_type=operator, name=name, input=inputs, output=[name])
        node.attribute.extend(onnx.helper.make_attribute(key, attributes[key]) for key in sorted(attributes))
        return name

    def add_input(self, value: Value) -> None:
        """Declare an input."""
        self.model.graph.input.append(_value_info(value))

    def finish(self, outputs: Mapping[str, Value], metadata: Mapping[str, str]) -> onnx.ModelProto:
        """Name the outputs, drop what nothing reads, and return the model."""
        graph = self.model.graph
        produced = {node.output[0] for node in graph.node}
        renamed: dict[str, str] = {}
        for name, value in outputs.items():
            if value.name in produced and value.name not in renamed:
                renamed[value.name] = name
            else:
                source = renamed.get(value.name, value.name)
                graph.node.add(op_type="Identity", name=self.unique(f"{name}.identity"), input=[source], output=[name])
            graph.output.append(_value_info(Value(name, value.shape, value.dtype)))
        for node in graph.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
            node.output[:] = [renamed.get(name, name) for name in node.output]
        self._drop_unread()
        for key in sorted(metadata):
            self.model.metadata_props.add(key=key, value=metadata[key])
        return self.model

    def _drop_unread(self) -> None:
        graph = self.model.graph
        read = {output.name for output in graph.output}
        for index in reversed(range(len(graph.node))):
            if graph.node[index].output[0] in read:
                read.update(graph.node[index].input)
            else:
                del graph.node[index]
        for index in reversed(range(len(graph.initializer))):
            if graph.initializer[index].name not in read:
                del graph.initializer[index]


@dataclass(frozen=True)
class Emitter:
    """What a handler writes one operator of the network with.

    Args:
        name: path of the module, or of the function within its module.
        shape: shape of the operator's result.
        folded: the batch normalisations to fold into a convolution, in their order.
    """

    graph: OnnxGraph
    name: str
    shape: tuple[int, ...]
    dtype: str
    folded: tuple[torch.nn.BatchNorm2d, ...] = ()

    def node(
        self, operator: str, inputs: Sequence[Value | str], shape: tuple[int, ...] | None = None, **attributes: object
    ) -> Value:
        """Append a node; `shape` where the result is not yet the operator's own."""
        names = [item.name if isinstance(item, Value) else item for item in inputs]
        output = self.graph.node(operator, self.name, names, attributes)
        return Value(output, self.shape if shape is None else shape, self.dtype)

    def weight(self, name: str, tensor: torch.Tensor, key: Hashable | None = None) -> str:
        """An initialiser ``<module path>.<name>``; `key` says what else it depends on than on the tensor."""
        return self.graph.initializer((id(tensor), name) if key is None else key, f"{self.name}.{name}", tensor)

    def constant(self, value: float) -> Value:
        """A number as an initialiser of the operator's dtype."""
        name = self.graph.unique(f"{self.name}.constant")
        self.graph.model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(value, self.dtype), name))
        return Value(name, (), self.dtype)

    def refuse(self, what: str) -> ModelError:
        """The error for something that this writer has no ONNX for."""
        return ModelError(what, where=self.name)


def _value_info(value: Value) -> onnx.ValueInfoProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
    return onnx.helper.make_tensor_value_info(value.name, kind, value.shape)
