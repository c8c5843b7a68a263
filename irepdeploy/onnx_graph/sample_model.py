"""A small network as an ONNX file, for checking machines."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from onnx import TensorProto, helper, numpy_helper

__all__ = ["sample_model"]

_CHANNELS = (3, 16, 16, 16)
_SIZE, _CLASSES = 32, 10
# Versions that TensorRT 8.5 supports.
_OPSET, _IR_VERSION = 13, 8


def sample_model() -> bytes:
    """Return a float32 network of three 3x3 convolutions with ReLU, pooling and a classifier.

    It maps (1, 3, 32, 32) to (1, 10). The weights are seeded and keep activations near 1. A DLA can run all but the
    last part of the network.
    """
    rng = np.random.default_rng(0)
    weights, nodes, last = [], [], "input"
    for index, (before, after) in enumerate(pairwise(_CHANNELS)):
        kernel = rng.standard_normal((after, before, 3, 3)) * np.sqrt(2 / (9 * before))
        weights += [_weight(f"w{index}", kernel), _weight(f"b{index}", rng.standard_normal(after) * 0.1)]
        names = [last, f"w{index}", f"b{index}"]
        nodes.append(helper.make_node("Conv", names, [f"c{index}"], f"conv{index}", pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"], f"relu{index}"))
        last = f"r{index}"
    weights.append(_weight("w", rng.standard_normal((_CLASSES, _CHANNELS[-1]))))
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", "w"], ["logits"], "head", transB=1),
    ]
    takes = helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, _CHANNELS[0], _SIZE, _SIZE])
    gives = helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, _CLASSES])
    graph = helper.make_graph(nodes, "sample", [takes], [gives], weights)
    opsets = [helper.make_opsetid("", _OPSET)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION).SerializeToString()


def _weight(name: str, values: np.ndarray) -> TensorProto:
    return numpy_helper.from_array(np.ascontiguousarray(values, dtype=np.float32), name)
