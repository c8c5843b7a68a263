"""Measure the ranges of weights and activations on real inputs, and compare them with fp16.

The largest fp16 number is 65504; below 2^-14 it loses bits. The figures of a batch normalization are those of its
effective scale and shift, which every runtime computes with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx

from irepdeploy.board.json_values import json_safe
from irepdeploy.onnx_graph.model_file import open_model
from irepdeploy.onnx_graph.shapes import tensor_types

from .fp16 import FP16_MAX, FP16_SMALLEST_NORMAL, float_constants
from .inference import PROBE, Inputs, run_parts, samples_in, with_outputs

__all__ = ["NodeRange", "RangeReport", "range_report", "tensor_ranges"]


@dataclass(frozen=True)
class NodeRange:
    """Ranges of one node; a figure is None if the node has no such tensor.

    Args:
        tensor: Name of its output, or of the model's input.
        max_weight: Largest ``|w|`` of its constants.
        lost_weights: Share of the nonzero weights below 2^-14.
        max_activation: Largest ``|x|`` of its output over all inputs; infinity if it overflowed.
    """

    node: str
    operator: str
    tensor: str
    max_weight: float | None
    lost_weights: float | None
    max_activation: float | None

    @property
    def overflow(self) -> str | None:
        """Description of the value beyond fp16, or None."""
        for kind, value in (("weight", self.max_weight), ("activation", self.max_activation)):
            if value is not None and not value <= FP16_MAX:
                return f"{kind} {value:.4g} of {self.node} ({self.tensor})"
        return None


@dataclass(frozen=True)
class RangeReport:
    """Ranges of each node in the order of the graph, and the number of inputs they were measured on.

    Nodes of `kept` stay float32 and cannot overflow.
    """

    nodes: tuple[NodeRange, ...]
    samples: int
    kept: frozenset[str] = frozenset()

    @property
    def ok(self) -> bool:
        """Whether every value fits fp16."""
        return self.first_overflow is None

    @property
    def first_overflow(self) -> str | None:
        """Description of the first tensor beyond 65504, or None."""
        halves = (node for node in self.nodes if node.node not in self.kept)
        return next((node.overflow for node in halves if node.overflow is not None), None)

    @property
    def max_weight(self) -> float:
        """The largest ``|w|``; 0 without weights."""
        return max((node.max_weight for node in self.nodes if node.max_weight is not None), default=0.0)

    @property
    def max_activation(self) -> float:
        """The largest ``|x|``."""
        return max((node.max_activation for node in self.nodes if node.max_activation is not None), default=0.0)

    @property
    def underflowing(self) -> tuple[str, ...]:
        """Nodes with a nonzero output below 2^-14, of which fp16 keeps few bits."""
        return tuple(
            node.node
            for node in self.nodes
            if node.max_activation is not None and 0 < node.max_activation < FP16_SMALLEST_NORMAL
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object; numbers that are not finite become text."""
        return json_safe(
            {
                "ok": self.ok,
                "samples": self.samples,
                "fp16_max": FP16_MAX,
                "fp16_smallest_normal": FP16_SMALLEST_NORMAL,
                "max_weight": self.max_weight,
                "max_activation": self.max_activation,
                "first_overflow": self.first_overflow,
                "underflowing": list(self.underflowing),
                "nodes": [asdict(node) for node in self.nodes],
            }
        )


def range_report(model: onnx.ModelProto | bytes, inputs: Inputs, kept: Iterable[str] = ()) -> RangeReport:
    """Measure the largest weight and activation of every node of a float32 model; those of `kept` stay float32."""
    proto = open_model(model)
    ranges = tensor_ranges(proto, inputs)
    weights = float_constants(proto)
    nodes = [
        NodeRange(value.name, "Input", value.name, None, None, _peak(ranges, value.name))
        for value in proto.graph.input
        if value.name in ranges
    ]
    for node in proto.graph.node:
        own = [values for values in weights.get(node.name or node.output[0], {}).values() if values.size]
        nodes.append(
            NodeRange(
                node.name or node.output[0],
                node.op_type,
                node.output[0],
                max((float(np.abs(values).max()) for values in own), default=None),
                _lost(own),
                _peak(ranges, node.output[0]),
            )
        )
    return RangeReport(tuple(nodes), samples_in(inputs), frozenset(kept))


def tensor_ranges(model: onnx.ModelProto, inputs: Inputs) -> dict[str, tuple[float, float]]:
    """Measure the minimum and maximum of every float32 tensor except initializers, over all inputs.

    The extremes are computed inside the graph, so that only one batch of activations is in memory.
    """
    kinds = {name: value.type.tensor_type.elem_type for name, value in tensor_types(model).items()}
    names = sorted(name for name, kind in kinds.items() if kind == onnx.TensorProto.FLOAT)
    content = _probed(model, names)
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    for _, outputs in run_parts(content, inputs):
        extremes = np.array([float(value) for value in outputs.values()]).reshape(-1, 2)
        low, high = np.minimum(low, extremes[:, 0]), np.maximum(high, extremes[:, 1])
    return {name: (float(low[index]), float(high[index])) for index, name in enumerate(names)}


def _probed(model: onnx.ModelProto, names: list[str]) -> bytes:
    """Replace the outputs by the extremes of these tensors."""
    nodes, outputs = [], []
    for index, name in enumerate(names):
        for kind in ("Min", "Max"):
            # Without axes, all of them are reduced in every opset.
            output = f"{PROBE}{index}.{kind}"
            nodes.append(onnx.helper.make_node(f"Reduce{kind}", [name], [output], output, keepdims=0))
            outputs.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, ()))
    return with_outputs(model, outputs, nodes)


def _peak(ranges: Mapping[str, tuple[float, float]], name: str) -> float | None:
    if name not in ranges:
        return None
    peak = np.abs(ranges[name]).max()
    # An overflow in float32 may have become NaN on the way.
    return float("inf") if np.isnan(peak) else float(peak)


def _lost(values: list[np.ndarray[Any, Any]]) -> float | None:
    sizes = np.abs(np.concatenate([array.ravel() for array in values])) if values else np.zeros(0)
    nonzero = int(np.count_nonzero(sizes))
    return int(np.count_nonzero(sizes[sizes > 0] < FP16_SMALLEST_NORMAL)) / nonzero if nonzero else None
