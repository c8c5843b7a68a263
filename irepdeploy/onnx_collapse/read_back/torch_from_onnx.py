"""A torch network from a small ONNX graph, operator by operator: convolutions and linear layers become modules."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import torch
import torch.fx
from onnx import numpy_helper
from torch import Tensor, nn

from irepdeploy.errors import ModelError
from irepdeploy.onnx_collapse.read_back.torch_operators import OPERATORS, refused

__all__ = ["Reader", "torch_from_onnx"]


def torch_from_onnx(model: onnx.ModelProto) -> torch.fx.GraphModule:
    """The network that an ONNX graph of float32 is, in eval mode; its ``forward`` takes the graph's inputs in order.

    Raises:
        ModelError: an operator, or a form of one, that is not in `torch_operators`; it is named.
    """
    return Reader(model).module()


class Reader:
    """Walks the graph and writes a `torch.fx.Graph`."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model, self.root, self.graph = model, nn.Module(), torch.fx.Graph()
        self.constants = {
            tensor.name: torch.from_numpy(np.array(numpy_helper.to_array(tensor))) for tensor in model.graph.initializer
        }
        self.values: dict[str, Any] = {}

    def module(self) -> torch.fx.GraphModule:
        for value in self.model.graph.input:
            if value.name not in self.constants:
                self.values[value.name] = self.graph.placeholder(_identifier(value.name))
        for node in self.model.graph.node:
            self._read(node)
        results = tuple(self.value(value.name) for value in self.model.graph.output)
        self.graph.output(results[0] if len(results) == 1 else results)
        self.graph.lint()
        network = torch.fx.GraphModule(self.root, self.graph, self.model.graph.name or "Network")
        return network.eval()

    def _read(self, node: onnx.NodeProto) -> None:
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "Constant":
            self.constants[node.output[0]] = torch.from_numpy(np.array(numpy_helper.to_array(attributes["value"])))
            return
        handler = OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        where = node.name or node.output[0]
        if handler is None:
            raise ModelError(
                f"operator {node.op_type} cannot be read back into torch",
                where=where,
                hint=f"can be: {', '.join(sorted(OPERATORS))}",
            )
        found = handler(self, node, attributes)
        if len(node.output) == 1:
            self.values[node.output[0]] = found
        else:
            for place, name in enumerate(node.output):
                if name:
                    self.values[name] = self.item(found, place)

    def value(self, name: str) -> Any:
        """A computed tensor, or a constant as a buffer of the network."""
        if name not in self.values:
            if name not in self.constants:
                raise ModelError(f"damaged: nothing gives {name!r}")
            attribute = self.unique(f"constant_{_identifier(name)}")
            self.root.register_buffer(attribute, self.constants[name])
            self.values[name] = self.graph.get_attr(attribute)
        return self.values[name]

    def numbers(self, node: onnx.NodeProto, place: int) -> list[Any] | None:
        """A constant input as numbers; None where there is none."""
        if place >= len(node.input) or not node.input[place]:
            return None
        if node.input[place] not in self.constants:
            raise refused(node, "by a computed tensor")
        return list(self.constants[node.input[place]].flatten().tolist())

    def weight(self, node: onnx.NodeProto, place: int) -> Tensor | None:
        """A constant input as a tensor; None where there is none."""
        if place >= len(node.input) or not node.input[place]:
            return None
        if node.input[place] not in self.constants:
            raise refused(node, "with computed weights")
        return self.constants[node.input[place]]

    def layer(self, node: onnx.NodeProto, module: nn.Module, x: Any) -> Any:
        """Call a module that is named after the node, below the modules that the node's name tells."""
        steps = node.name.removesuffix(f"/{node.op_type}").strip("/").split("/")
        # TorchScript names a layer of a Sequential after both: stem/stem.0.
        kept = [a for a, b in zip(steps, [*steps[1:], ""], strict=True) if not b.startswith(f"{a}.")]
        path = [re.sub(r"\W", "_", step) for part in kept for step in part.split(".") if step]
        name = ".".join(path or [node.op_type.lower()])
        found, count = name, 0
        while not self._added(found, module):
            count += 1
            found = f"{name}_{count}"
        return self.graph.call_module(found, (x,))

    def _added(self, path: str, module: nn.Module) -> bool:
        """Whether there was room for a module at this place."""
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

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function."""
        return self.graph.call_function(function, args, kwargs)

    def item(self, x: Any, index: Any) -> Any:
        """``x[index]``."""
        return self.graph.call_function(operator.getitem, (x, index))

    def unique(self, name: str) -> str:
        found, count = name, 0
        while hasattr(self.root, found):
            count += 1
            found = f"{name}_{count}"
        return found


def _identifier(name: str) -> str:
    found = re.sub(r"\W", "_", name)
    return f"_{found}" if not found or found[0].isdigit() else found
