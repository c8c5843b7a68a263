"""Build an ONNX model node by node.

Everything is written into a single ``ModelProto``, since onnx's helpers copy every initializer and double the memory.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch

import irepdeploy
from irepdeploy.errors import ModelError
from irepdeploy.onnx_graph.proto import distinct_name, drop_unread

__all__ = ["BATCH", "FREE", "Emitter", "NeedsOpset", "Normalization", "OnnxGraph", "Value"]

# Placeholder for a dynamic size, and the name of the dynamic batch dimension in the file.
FREE = -1
BATCH = "N"


class NeedsOpset(ModelError):
    """Raised for an operator that ONNX supports only from a later `opset` on."""

    def __init__(self, opset: int, what: str, *, where: object = None, hint: str | None = None) -> None:
        super().__init__(what, where=where, hint=hint)
        self.opset = opset


@dataclass(frozen=True)
class Value:
    """A tensor of the graph.

    Args:
        shape: Sizes; `FREE` if a size depends on the batch.
        dtype: Name of its numpy dtype.
        tensor: The value of a constant that is not in the file yet.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    tensor: torch.Tensor | None = field(default=None, compare=False)


class OnnxGraph:
    """An ONNX model under construction; every name in it is unique and not in `reserved`."""

    def __init__(self, name: str, *, opset: int, ir_version: int, reserved: Sequence[str]) -> None:
        self.model = onnx.ModelProto(
            ir_version=ir_version, producer_name="irepdeploy", producer_version=irepdeploy.__version__
        )
        self.opset = opset
        self.model.opset_import.add(domain="", version=opset)
        self.model.graph.name = name
        self._names = set(reserved)
        self._initializers: dict[Hashable, str] = {}
        self._batch: str | None = None

    def unique(self, name: str) -> str:
        """Return `name`, with a number appended if it is taken."""
        return distinct_name(name, self._names)

    def initializer(self, key: Hashable, name: str, tensor: torch.Tensor) -> str:
        """Return the name of the initializer of `tensor`; equal keys share an initializer."""
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

    def name_of(self, value: Value) -> str:
        """Return the name of `value` in the file; a constant is written on first use."""
        if value.tensor is None:
            return value.name
        return self.initializer(("constant", id(value.tensor)), value.name, value.tensor)

    def node(self, operator: str, name: str, inputs: Sequence[str], attributes: Mapping[str, object]) -> str:
        """Append a node and return the name of its output, which equals the name of the node."""
        return self.several(operator, name, inputs, attributes, 1)[0]

    def several(
        self, operator: str, name: str, inputs: Sequence[str], attributes: Mapping[str, object], count: int
    ) -> list[str]:
        """Append a node of this many outputs and return their names; the first equals the name of the node."""
        name = self.unique(name)
        outputs = [name, *(self.unique(f"{name}.out{place}") for place in range(1, count))]
        node = self.model.graph.node.add(op_type=operator, name=name, input=inputs, output=outputs)
        node.attribute.extend(onnx.helper.make_attribute(key, attributes[key]) for key in sorted(attributes))
        return outputs

    def add_input(self, value: Value) -> None:
        """Declare an input of the model."""
        self.model.graph.input.append(_value_info(value))

    def stretched(self, value: Value) -> Value:
        """Expand a constant of one row to the dynamic batch."""
        if self._batch is None:
            first, axis = next(
                (item, axis)
                for item in self.model.graph.input
                for axis, dim in enumerate(item.type.tensor_type.shape.dim)
                if dim.dim_param
            )
            ends = [("starts", axis), ("ends", axis + 1), ("axes", 0)]
            sizes = self.node("Shape", "batch.shape", [first.name], {})
            cut = [self.initializer(("batch", name), f"batch.{name}", torch.tensor([at])) for name, at in ends]
            self._batch = self.node("Slice", "batch", [sizes, *cut], {})
        rest = self.initializer(("rest", value.shape[1:]), f"{value.name}.sizes", torch.tensor(value.shape[1:]).long())
        shape = self.node("Concat", f"{value.name}.shape", [self._batch, rest], {"axis": 0})
        found = self.node("Expand", f"{value.name}.stretched", [self.name_of(value), shape], {})
        return replace(value, name=found, tensor=None)

    def finish(self, outputs: Mapping[str, Value], metadata: Mapping[str, str]) -> onnx.ModelProto:
        """Name the outputs, drop unused nodes and initializers, and return the model."""
        graph = self.model.graph
        named = {name: replace(value, name=self.name_of(value), tensor=None) for name, value in outputs.items()}
        produced = {name for node in graph.node for name in node.output}
        renamed: dict[str, str] = {}
        for name, value in named.items():
            if value.name in produced and value.name not in renamed:
                renamed[value.name] = name
            else:
                source = renamed.get(value.name, value.name)
                graph.node.add(op_type="Identity", name=self.unique(f"{name}.identity"), input=[source], output=[name])
            graph.output.append(_value_info(replace(value, name=name)))
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
            if not read.isdisjoint(graph.node[index].output):
                read.update(graph.node[index].input)
            else:
                del graph.node[index]
        drop_unread(graph)


class Normalization(NamedTuple):
    """Statistics and weights of a batch normalization; `key` identifies it."""

    mean: torch.Tensor
    var: torch.Tensor
    weight: torch.Tensor | None
    bias: torch.Tensor | None
    eps: float
    key: Hashable

    @classmethod
    def of(cls, module: Any) -> Normalization:
        """Return the normalization of a torch module with running statistics."""
        statistics = (module.running_mean, module.running_var)
        return cls(*statistics, module.weight, module.bias, module.eps, id(module))


@dataclass(frozen=True)
class Emitter:
    """Writes the nodes of one operator of the network; passed to its handler.

    Args:
        name: Path of the module, or of the function within its module.
        found: Result of the operator: a Value, or a tuple of Values.
        folded: Batch normalizations to fold into a convolution, in order.
    """

    graph: OnnxGraph
    name: str
    found: Value | tuple[Value, ...]
    folded: tuple[Normalization, ...] = ()

    @property
    def parts(self) -> tuple[Value, ...]:
        """The results of the operator."""
        return self.found if isinstance(self.found, tuple) else (self.found,)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first result."""
        return self.parts[0].shape

    @property
    def opset(self) -> int:
        """Opset of the file."""
        return self.graph.opset

    @property
    def dtype(self) -> str:
        """Name of the numpy dtype of the first result."""
        return self.parts[0].dtype

    def node(
        self,
        operator: str,
        inputs: Sequence[Value | None],
        shape: tuple[int, ...] | None = None,
        *,
        part: str = "",
        type_of: str | None = None,
        **attributes: Any,
    ) -> Value:
        """Append a node and return its output.

        Args:
            operator: ONNX operator.
            inputs: None omits an optional input.
            shape: Shape of the output, if not that of the whole operator.
            part: Suffix of the node's name, for an operator of several nodes.
            type_of: Dtype of the output, if not that of the whole operator.
            attributes: ONNX attributes.
        """
        names = ["" if item is None else self.graph.name_of(item) for item in inputs]
        output = self.graph.node(operator, f"{self.name}.{part}" if part else self.name, names, attributes)
        return Value(output, self.shape if shape is None else shape, type_of or self.dtype)

    def several(
        self, operator: str, inputs: Sequence[Value], found: Sequence[tuple[tuple[int, ...], str]], **attributes: Any
    ) -> tuple[Value, ...]:
        """Append a node of several outputs, each with a shape and a dtype, and return them."""
        names = [self.graph.name_of(item) for item in inputs]
        outputs = self.graph.several(operator, self.name, names, attributes, len(found))
        return tuple(Value(name, *each) for name, each in zip(outputs, found, strict=True))

    def weight(self, name: str, tensor: torch.Tensor, key: Hashable) -> Value:
        """Return an initializer ``<module path>.<name>``; equal keys share an initializer."""
        tensor = tensor.detach()
        found = self.graph.initializer(key, f"{self.name}.{name}", tensor)
        return Value(found, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))

    def constant(self, value: float | Sequence[float] | torch.Tensor, name: str = "constant") -> Value:
        """Return an initializer of the operator's dtype."""
        tensor = torch.as_tensor(value, dtype=getattr(torch, self.dtype))
        return self.weight(name, tensor, object())

    def ints(self, name: str, values: Sequence[int]) -> Value:
        """Return an int64 initializer, such as sizes, axes or indices."""
        return self.weight(name, torch.tensor(list(values), dtype=torch.int64), object())

    def refuse(self, what: str) -> ModelError:
        """Return the error for an unsupported operator."""
        return ModelError(what, where=self.name)


def _value_info(value: Value) -> onnx.ValueInfoProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
    sizes = [BATCH if size == FREE else size for size in value.shape]
    return onnx.helper.make_tensor_value_info(value.name, kind, sizes)
