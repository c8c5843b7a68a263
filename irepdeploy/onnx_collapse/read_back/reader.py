"""The `torch.fx` graph that an ONNX graph is read into."""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import onnx
import torch
import torch.fx
from onnx import numpy_helper
from torch import Tensor, nn

from irepdeploy.errors import ModelError

__all__ = ["Reader", "identifier", "refused"]


def refused(node: onnx.NodeProto, form: str) -> ModelError:
    """Return the error for an operator in a form that cannot be read."""
    return ModelError(f"{node.op_type} {form} cannot be read back into torch", where=node.name or node.output[0])


class Reader:
    """Write a `torch.fx.Graph` while an ONNX graph is read in order; `root` holds its layers and buffers."""

    def __init__(self, initializers: Iterable[onnx.TensorProto]) -> None:
        self.root, self.graph = nn.Module(), torch.fx.Graph()
        self.constants = {tensor.name: _tensor(tensor) for tensor in initializers}
        self.values: dict[str, Any] = {}

    def constant(self, name: str, tensor: onnx.TensorProto) -> None:
        """Add a constant."""
        self.constants[name] = _tensor(tensor)

    def value(self, name: str) -> Any:
        """Return a computed tensor, or a constant as a buffer of the network."""
        if name not in self.values:
            if name not in self.constants:
                raise ModelError(f"damaged: no node gives {name!r}")
            names = _numbered(f"constant_{identifier(name)}")
            attribute = next(attribute for attribute in names if not hasattr(self.root, attribute))
            self.root.register_buffer(attribute, self.constants[name])
            self.values[name] = self.graph.get_attr(attribute)
        return self.values[name]

    def numbers(self, node: onnx.NodeProto, place: int) -> list[Any] | None:
        """Return a constant input as numbers; None if it is omitted."""
        tensor = self._constant(node, place, "by a computed tensor")
        return None if tensor is None else list(tensor.flatten().tolist())

    def weight(self, node: onnx.NodeProto, place: int) -> Tensor | None:
        """Return a constant input as a tensor; None if it is omitted."""
        return self._constant(node, place, "with computed weights")

    def _constant(self, node: onnx.NodeProto, place: int, form: str) -> Tensor | None:
        if place >= len(node.input) or not node.input[place]:
            return None
        if node.input[place] not in self.constants:
            raise refused(node, form)
        return self.constants[node.input[place]]

    def layer(self, node: onnx.NodeProto, module: nn.Module, x: Any) -> Any:
        """Call a module that is named after the node and placed below the modules in the node's name."""
        steps = node.name.removesuffix(f"/{node.op_type}").strip("/").split("/")
        # TorchScript names a layer of a Sequential after both: stem/stem.0.
        kept = [a for a, b in zip(steps, [*steps[1:], ""], strict=True) if not b.startswith(f"{a}.")]
        path = [re.sub(r"\W", "_", step) for part in kept for step in part.split(".") if step]
        name = ".".join(path or [node.op_type.lower()])
        found = next(path for path in _numbered(name) if self._added(path, module))
        return self.graph.call_module(found, (x,))

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function."""
        return self.graph.call_function(function, args, kwargs)

    def item(self, x: Any, index: Any) -> Any:
        """Write ``x[index]``."""
        return self.graph.call_function(operator.getitem, (x, index))

    def _added(self, path: str, module: nn.Module) -> bool:
        """Add a module at `path`; return False if that name is taken."""
        *folders, last = path.split(".")
        inside = self.root
        for step in folders:
            if not hasattr(inside, step):
                inside.add_module(step, nn.Module())
            inside = getattr(inside, step)
            if type(inside) is not nn.Module:
                return False
        if hasattr(inside, last):
            return False
        inside.add_module(last, module)
        return True


def identifier(name: str) -> str:
    """Return a name as a Python identifier."""
    found = re.sub(r"\W", "_", name)
    return f"_{found}" if not found or found[0].isdigit() else found


def _numbered(name: str) -> Iterator[str]:
    """Yield the name, and the same with the numbers 1, 2 and so on behind it."""
    yield name
    yield from (f"{name}_{count}" for count in itertools.count(1))


def _tensor(tensor: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(np.array(numpy_helper.to_array(tensor)))
