"""Small handwritten ONNX graphs, and comparison of the outputs of two models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from irepdeploy.onnx_collapse import Collapse, collapse

Array = np.ndarray[Any, Any]
ModelOf = Callable[..., onnx.ModelProto]


@pytest.fixture
def model_of() -> ModelOf:
    """``model_of(nodes, constants, inputs, outputs)``: a node is (kind, inputs, outputs, attributes)."""
    return _model_of


def _model_of(
    nodes: Sequence[Any],
    constants: Mapping[str, Any],
    inputs: Mapping[str, Sequence[int | str | None]],
    outputs: Sequence[str] = ("y",),
    *,
    opset: int = 17,
    ir_version: int = 8,
    kind: int = TensorProto.FLOAT,
    listed: bool = False,
) -> onnx.ModelProto:
    written = [
        item
        if isinstance(item, onnx.NodeProto)
        else helper.make_node(item[0], item[1], item[2], f"{item[0]}_{place}", **(item[3] if len(item) > 3 else {}))
        for place, item in enumerate(nodes)
    ]
    floats = helper.tensor_dtype_to_np_dtype(kind)
    tensors = []
    for name, value in constants.items():
        array = np.asarray(value)
        tensors.append(numpy_helper.from_array(array.astype(floats) if array.dtype.kind == "f" else array, name))
    given = [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()]
    if listed:
        given += [helper.make_tensor_value_info(item.name, item.data_type, item.dims) for item in tensors]
    made = [helper.make_tensor_value_info(name, kind, [None] * 4) for name in outputs]
    graph = helper.make_graph(written, "small", given, made, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


@pytest.fixture
def collapsed() -> Callable[..., Collapse]:
    """``collapsed(nodes, constants, inputs, outputs)``: a graph's Collapse, whose outputs ONNX Runtime found equal.

    Further arguments are `sizes` and `tolerance` of the comparison, `border` of the collapse, and those of `model_of`.
    """
    return _collapsed


def _collapsed(
    *graph: Any,
    sizes: Sequence[Mapping[str, Sequence[int]] | None] = (None,),
    tolerance: float = 1e-5,
    border: Literal["refuse", "map"] = "refuse",
    **options: Any,
) -> Collapse:
    model = _model_of(*graph, **options)
    found = collapse(model, border=border)
    for each in sizes:
        assert _largest_difference(model, found.content, each) < tolerance
    if not found.changed:
        assert found.content == model.SerializeToString(deterministic=True)
    return found


@pytest.fixture
def largest_difference() -> Callable[..., float]:
    """``max|a - b| / max|a|`` over all outputs of two models in ONNX Runtime, float32, unoptimized."""
    return _largest_difference


def _largest_difference(one: onnx.ModelProto, other: bytes, sizes: Mapping[str, Sequence[int]] | None = None) -> float:
    rng = np.random.default_rng(0)
    fixed = {item.name for item in one.graph.initializer}
    feeds = {}
    for value in one.graph.input:
        if value.name in fixed:
            continue
        kind = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        feeds[value.name] = np.asarray(rng.standard_normal((sizes or {}).get(value.name, dims))).astype(kind)
    worst = 0.0
    for a, b in zip(*(_run(content, feeds) for content in (one.SerializeToString(), other)), strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        if a.size:
            worst = max(worst, float(np.abs(a.astype(float) - b).max()) / max(float(np.abs(a).max()), 1e-30))
    return worst


def _run(content: bytes, feeds: Mapping[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, dict(feeds))
    return found
