"""An ONNX model that scales its input, for tests of measurements."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from onnx import helper, numpy_helper

__all__ = ["scale_model"]


def scale_model(
    shape: Sequence[int | str] = ("batch", 1, 8, 8),
    weight: float = 2.0,
    dtype: str = "float32",
    name: str = "input",
    quantized: bool = False,
    depth: int = 1,
) -> bytes:
    """Return the bytes of a model that multiplies its input, optionally quantized first, by `weight` `depth` times."""
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights = [numpy_helper.from_array(np.full((1, 1), weight, dtype), "weight")]
    steps = ["scaled" if quantized else name, *(f"step{index}" for index in range(1, depth)), "logits"]
    nodes = [helper.make_node("Mul", [before, "weight"], [after]) for before, after in itertools.pairwise(steps)]
    if quantized:
        weights.append(numpy_helper.from_array(np.array(0.05, dtype), "scale"))
        weights.append(numpy_helper.from_array(np.array(0, np.int8), "zero"))
        nodes.insert(0, helper.make_node("QuantizeLinear", [name, "scale", "zero"], ["bytes"]))
        nodes.insert(1, helper.make_node("DequantizeLinear", ["bytes", "scale", "zero"], ["scaled"]))
    values = [helper.make_tensor_value_info(value, kind, shape) for value in (name, "logits")]
    graph = helper.make_graph(nodes, "scale", values[:1], values[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model.SerializeToString()
