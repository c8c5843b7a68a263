"""Emit the operators of a form: a Conv for each source, their sum, and a constant if needed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from irepdeploy.onnx_collapse.cost import Cost, form_cost, window
from irepdeploy.onnx_collapse.form import Form
from irepdeploy.onnx_collapse.stencil import Stencil

__all__ = ["Emitted", "Names", "emit"]


class Names:
    """Creates names of tensors and nodes that are not yet `taken`."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = set(taken)

    def __call__(self, name: str) -> str:
        """Reserve and return `name`, with a number appended if it is taken."""
        found, number = name, 1
        while found in self._taken:
            number += 1
            found = f"{name}.{number}"
        self._taken.add(found)
        return found


@dataclass
class Emitted:
    """Operators that replace others.

    Attributes:
        nodes: Nodes by the tensor that they compute.
        arrays: Constants in float64 by name.
        same: Maps each result that needs no operator to the tensor that it equals.
        cost: Cost of the nodes.
    """

    nodes: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    same: dict[str, str] = field(default_factory=dict)
    cost: Cost = field(default_factory=Cost)

    @property
    def every_node(self) -> list[onnx.NodeProto]:
        """All nodes in order."""
        return [node for nodes in self.nodes.values() for node in nodes]


def emit(form: Form, result: str, node_name: str, names: Names, into: Emitted) -> None:
    """Emit the operators that compute the tensor `result` from a numeric form with trimmed stencils."""
    writer = _Writer(result, node_name, names, into)
    bias = form.bias
    assert bias is not None
    parts = []
    rest: Tensor | None = bias if bool((bias != 0).any()) else None
    single = len(form.terms) == 1
    for source, term in form.terms.items():
        if term.unit:
            parts.append(source)
            continue
        own = rest if rest is not None and rest.ndim == 1 and (single or not term.per_element) else None
        parts.append(writer.scaled(source, term, own) if term.per_element else writer.conv(source, term, own, form))
        rest = None if own is not None else rest
    while len(parts) > 1:
        parts[:2] = [writer.node("Add", parts[:2])]
    if rest is not None:
        constant = writer.constant("shift", rest.reshape(1, form.channels, 1, 1) if rest.ndim == 1 else rest[None])
        parts = [writer.node("Add", [parts[0], constant])]
    writer.finish(parts[0])
    moved = 2 * bias.numel() if rest is not None else 0
    into.cost += form_cost(form) + Cost(0, moved, int(rest is not None))


class _Writer:
    """Collects the nodes of one result."""

    def __init__(self, result: str, node_name: str, names: Names, into: Emitted) -> None:
        self.result, self.name, self.names, self.into = result, node_name, names, into
        self.nodes: list[onnx.NodeProto] = []

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        output = self.names(f"{self.result}.part")
        self.nodes.append(onnx.helper.make_node(kind, inputs, [output], **attributes))
        return output

    def constant(self, role: str, tensor: Tensor) -> str:
        name = self.names(f"{self.result}.{role}")
        self.into.arrays[name] = np.ascontiguousarray(tensor.numpy())
        return name

    def conv(self, source: str, term: Stencil, bias: Tensor | None, form: Form) -> str:
        rows, columns = (
            window(axis, size, dynamic=form.dynamic) for axis, size in zip(term.axes, form.sizes[source], strict=True)
        )
        kernel = term.placed(rows.offsets, columns.offsets).kernel
        assert kernel is not None
        inputs = [source, self.constant("weight", kernel)]
        if bias is not None:
            inputs.append(self.constant("bias", bias))
        return self.node(
            "Conv", inputs, dilations=[rows.dilation, columns.dilation], group=term.groups,
            kernel_shape=[rows.taps, columns.taps], pads=[rows.before, columns.before, rows.after, columns.after],
            strides=[rows.stride, columns.stride],
        )  # fmt: skip

    def scaled(self, source: str, term: Stencil, bias: Tensor | None) -> str:
        assert term.kernel is not None
        scale = term.kernel.reshape(-1)
        if bias is None:
            return self.node("Mul", [source, self.constant("scale", scale.reshape(1, -1, 1, 1))])
        # One BatchNormalization replaces a Mul and an Add.
        epsilon = np.float64(np.float32(1e-5))
        values = [scale * float(np.sqrt(1 + epsilon)), bias, torch.zeros_like(bias), torch.ones_like(bias)]
        roles = ("scale", "shift", "mean", "var")
        inputs = [source, *(self.constant(role, value) for role, value in zip(roles, values, strict=True))]
        return self.node("BatchNormalization", inputs, epsilon=float(epsilon))

    def finish(self, last: str) -> None:
        if self.nodes:
            self.nodes[-1].output[0] = self.result
        else:
            self.into.same[self.result] = last
        for node in self.nodes:
            node.name = self.names(self.name)
        self.into.nodes[self.result] = self.nodes
