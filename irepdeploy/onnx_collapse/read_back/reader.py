"""Reader: writes a `torch.fx` graph while an ONNX graph is read."""

from __future__ import annotations

import itertools
import keyword
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import torch
import torch.fx
from onnx import numpy_helper
from torch import Tensor, nn

from irepdeploy.errors import ModelError
from irepdeploy.onnx_graph.proto import opset_of
from irepdeploy.onnx_graph.shapes import inferred_graph

__all__ = ["Reader", "constant_tensor", "identifier", "refused"]

_FLOATS = (
    onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16,
)  # fmt: skip


def refused(node: onnx.NodeProto, form: str) -> ModelError:
    """Return the error for an operator in a form that cannot be read."""
    return ModelError(f"{node.op_type} {form} cannot be read back into torch", where=node.name or node.output[0])


class Reader:
    """Writes a `torch.fx.Graph` while an ONNX graph is read in order.

    Args:
        model: The model.
        twice: Shapes of tensors for twice the batch, see `torch_from_onnx`.

    Attributes:
        graph: The graph that is written.
        root: Module with its layers and buffers.
        opset: Opset of the model.
        constants: Constants of the ONNX graph by name.
        values: Nodes of the written graph by the name of their tensor.
    """

    def __init__(self, model: onnx.ModelProto, twice: Mapping[str, tuple[int | None, ...]] | None = None) -> None:
        self.twice = twice or {}
        self.root, self.graph = nn.Module(), torch.fx.Graph()
        self.opset = opset_of(model)
        self.constants = {tensor.name: _tensor(tensor) for tensor in model.graph.initializer}
        self.values: dict[str, Any] = {}
        graph = inferred_graph(model, data_prop=True)
        self._types = {value.name: value.type.tensor_type for value in (*graph.input, *graph.value_info, *graph.output)}

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """Return the sizes of a tensor, with None for each unknown size, or None if its rank is unknown."""
        if name in self.constants:
            return tuple(self.constants[name].shape)
        kind = self._types.get(name)
        if kind is None or not kind.HasField("shape"):
            return None
        return tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim)

    def rank(self, node: onnx.NodeProto, place: int = 0) -> int:
        """Return the number of dimensions of an input, or raise ModelError if it is unknown."""
        shape = self.shape(node.input[place])
        if shape is None:
            raise refused(node, "of a tensor of unknown rank")
        return len(shape)

    def is_float(self, name: str) -> bool:
        """Return whether a tensor contains floats; if its type is unknown, it is assumed to."""
        if name in self.constants:
            return self.constants[name].is_floating_point()
        kind = self._types.get(name)
        return kind is None or kind.elem_type in _FLOATS

    def constant(self, name: str, tensor: onnx.TensorProto) -> None:
        """Add a constant."""
        self.constants[name] = _tensor(tensor)

    def value(self, name: str) -> Any:
        """Return a computed tensor, or a constant as a buffer of the network."""
        if name not in self.values:
            if name not in self.constants:
                raise ModelError(f"damaged: no node computes {name!r}")
            names = _numbered(f"constant_{identifier(name)}")
            attribute = next(attribute for attribute in names if not hasattr(self.root, attribute))
            self.root.register_buffer(attribute, self.constants[name])
            self.values[name] = self.graph.get_attr(attribute)
        return self.values[name]

    def numbers(self, node: onnx.NodeProto, place: int) -> list[Any] | None:
        """Return a constant input as numbers, or None if it is omitted."""
        tensor = self._constant(node, place, "by a computed tensor")
        return None if tensor is None else list(tensor.flatten().tolist())

    def weight(self, node: onnx.NodeProto, place: int) -> Tensor | None:
        """Return a constant input as a tensor, or None if it is omitted."""
        return self._constant(node, place, "with computed weights")

    def _constant(self, node: onnx.NodeProto, place: int, form: str) -> Tensor | None:
        if place >= len(node.input) or not node.input[place]:
            return None
        if node.input[place] not in self.constants:
            raise refused(node, form)
        return self.constants[node.input[place]]

    def integers(self, node: onnx.NodeProto, place: int, attributes: dict[str, Any], name: str) -> list[int] | None:
        """Return integers that are an attribute in old opsets and an input in new ones, or None if both are absent."""
        return list(attributes[name]) if name in attributes else self.numbers(node, place)

    def layer(self, node: onnx.NodeProto, module: nn.Module, x: Any) -> Any:
        """Add and call a module, named after the node and nested as in the node's name."""
        steps = node.name.removesuffix(f"/{node.op_type}").strip("/").split("/")
        # TorchScript repeats the name of a Sequential in the name of its layer: stem/stem.0.
        kept = [a for a, b in zip(steps, [*steps[1:], ""], strict=True) if not b.startswith(f"{a}.")]
        path = [re.sub(r"\W", "_", step) for part in kept for step in part.split(".") if step]
        return self.graph.call_module(self._placed(path or [node.op_type.lower()], module), (x,))

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Write a call of a function."""
        return self.graph.call_function(function, args, kwargs)

    def item(self, x: Any, index: Any) -> Any:
        """Write ``x[index]``."""
        return self.graph.call_function(operator.getitem, (x, index))

    def method(self, name: str, x: Any, *args: Any) -> Any:
        """Write a call of a method of a tensor."""
        return self.graph.call_method(name, (x, *args))

    def _placed(self, path: list[str], module: nn.Module) -> str:
        """Add a module at a path and return the path, with numbers appended to names that are taken."""
        inside, found = self.root, []
        for step in path[:-1]:
            # A function that a module calls directly has the name of the module, which may later need submodules.
            free = (name for name in _numbered(step) if _is_folder(inside, name) or not hasattr(inside, name))
            found.append(next(free))
            if not hasattr(inside, found[-1]):
                inside.add_module(found[-1], nn.Module())
            inside = getattr(inside, found[-1])
        found.append(next(name for name in _numbered(path[-1]) if not hasattr(inside, name)))
        inside.add_module(found[-1], module)
        return ".".join(found)


def _is_folder(inside: nn.Module, name: str) -> bool:
    return type(getattr(inside, name, None)) is nn.Module


def constant_tensor(attributes: dict[str, Any]) -> onnx.TensorProto:
    """Return the tensor of a Constant node, from whichever attribute contains it."""
    if "value" in attributes:
        tensor: onnx.TensorProto = attributes["value"]
        return tensor
    for name, kind in (("value_float", np.float32), ("value_int", np.int64)):
        for attribute in (name, f"{name}s"):
            if attribute in attributes:
                return numpy_helper.from_array(np.array(attributes[attribute], kind))
    raise ModelError(f"a Constant of {', '.join(attributes)} cannot be read back into torch")


def identifier(name: str) -> str:
    """Convert a name to a Python identifier."""
    found = re.sub(r"\W", "_", name)
    return f"_{found}" if not found or found[0].isdigit() else found


def _numbered(name: str) -> Iterator[str]:
    """Yield the name, unless it is a Python keyword, followed by the name with the numbers 1, 2 and so on appended."""
    if not keyword.iskeyword(name):
        yield name
    yield from (f"{name}_{count}" for count in itertools.count(1))


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
