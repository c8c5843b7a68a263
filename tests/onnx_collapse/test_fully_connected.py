"""Batch normalizations next to a fully connected layer become part of its weights."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from irepdeploy.onnx_collapse import Collapse, collapse

LAYERS = {
    "gemm": "y = Gemm (x, w, b)",
    "transposed": "y = Gemm <transB = 1> (x, v, b)",
    "scaled": "y = Gemm <alpha = 0.5, beta = 3.0> (x, w, b)",
    "input transposed": "t = Transpose <perm = [1, 0]> (x)\n y = Gemm <transA = 1> (t, w, b)",
    "no bias": "y = Gemm (x, w)",
    "one number": "y = Gemm (x, w, c)",
    "matmul": "y = MatMul (x, w)",
    "matmul and bias": "m = MatMul (x, w)\n y = Add (b, m)",
}
INSIDE, OUTSIDE = 6, 5


def network(body: str, *, kind: str = "float", x: str = "N, 6", y: str = "N, 5", seed: int = 0) -> onnx.ModelProto:
    text = f"""<ir_version: 8, opset_import: ["" : 17]> net ({kind}[{x}] x) => ({kind}[{y}] out) {{ {body} }}"""
    model = onnx.parser.parse_model(text)
    rng = np.random.default_rng(seed)
    arrays: dict[str, Any] = {
        "w": rng.normal(size=(INSIDE, OUTSIDE)),
        "v": rng.normal(size=(OUTSIDE, INSIDE)),
        "b": rng.normal(size=OUTSIDE),
        "c": rng.normal(size=1),
        "rows": rng.normal(size=(3, 1)),
    }
    for name, size in (("p", INSIDE), ("q", OUTSIDE), ("r", OUTSIDE)):
        arrays |= {f"{name}{place}": rng.uniform(0.5, 2, size) * [1, 1, -1, 1][place] for place in range(4)}
    read = {name for node in model.graph.node for name in node.input}
    dtype = {"float": np.float32, "float16": np.float16, "double": np.float64}[kind]
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(array.astype(dtype), name) for name, array in arrays.items() if name in read
    )
    return model


def run(model: onnx.ModelProto | bytes, x: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = model if isinstance(model, bytes) else model.SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    (out,) = session.run(None, {"x": x})
    return np.asarray(out).astype(np.float64)


def checked(model: onnx.ModelProto) -> tuple[Collapse, Counter[str]]:
    found = collapse(model)
    value = model.graph.input[0].type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.elem_type)
    x = np.random.default_rng(9).normal(size=[item.dim_value or 7 for item in value.shape.dim]).astype(dtype)
    expected = run(model, x)
    assert np.abs(run(found.content, x) - expected).max() <= 16 * np.finfo(dtype).eps * np.abs(expected).max()
    return found, Counter(node.op_type for node in found.model.graph.node)


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("kind", ["float", "double", "float16"])
def test_normalization_behind_a_layer(layer: str, kind: str) -> None:
    body = f"{LAYERS[layer]}\n n = BatchNormalization <epsilon = 0.1> (y, q0, q1, q2, q3)\n out = Relu (n)"
    found, left = checked(network(body, kind=kind))
    assert left == Counter({"Gemm": 1, "Relu": 1}) + Counter({"Transpose": int("perm" in body)})
    (row,) = [row for row in found.regions if row.collapsed]
    assert row.error_interior is not None and row.error_interior <= 1e-10 and row.macs_after == INSIDE * OUTSIDE
    assert row.operators_in["BatchNormalization"] == 1 and not row.reason
    again = collapse(found.content)
    assert not again.changed


def test_normalizations_on_both_sides() -> None:
    body = """
        a = Relu (x)
        m = BatchNormalization (a, p0, p1, p2, p3)
        y = Gemm <transB = 1> (m, v, b)
        n = BatchNormalization (y, q0, q1, q2, q3)
        out = BatchNormalization (n, r0, r1, r2, r3)
    """
    found, left = checked(network(body))
    assert left == Counter({"Relu": 1, "Gemm": 1})
    assert next(row for row in found.regions if row.collapsed).operators_in == {"BatchNormalization": 3, "Gemm": 1}


def test_one_normalization_between_two_layers_is_taken_once() -> None:
    body = """
        y = MatMul (x, w)
        n = BatchNormalization (y, q0, q1, q2, q3)
        z = Gemm (n, v, c)
        out = Relu (z)
    """
    _, left = checked(network(body, y="N, 6"))
    assert left == Counter({"Gemm": 2, "Relu": 1})


@pytest.mark.parametrize(
    "body",
    [
        "y = Gemm (x, w, b)\n n = BatchNormalization (y, q0, q1, q2, q3)\n out = Mul (y, n)",
        "y = MatMul (x, w)\n n = BatchNormalization (y, q0, q1, q2, q3)\n out = Add (n, y)",
        "a = Relu (x)\n m = BatchNormalization (a, p0, p1, p2, p3)\n y = Gemm (m, w, b)\n"
        " s = ReduceMean <axes = [1]> (m)\n out = Add (y, s)",
    ],
)
def test_a_tensor_that_others_read_stays(body: str) -> None:
    model = network(body)
    found, left = checked(model)
    assert not found.changed and left["BatchNormalization"] == 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "u = Relu (w)\n s = ReduceMean <keepdims = 1> (x)\n k = Add (u, s)\n y = Gemm (x, k, b)",
            "computed at run time",
        ),
        ("y = Gemm (x, w, rows)", "its bias differs by row"),
    ],
)
def test_a_layer_that_stays_has_a_reason(body: str, reason: str) -> None:
    sizes = {"x": "3, 6", "y": "3, 5"}
    body += "\n n = BatchNormalization (y, q0, q1, q2, q3)\n out = Relu (n)"
    found, left = checked(network(body, **sizes))
    assert left["BatchNormalization"] == 1
    assert any(reason in row.reason for row in found.regions), found.regions


def test_a_normalization_over_an_axis_that_is_not_the_last_stays() -> None:
    body = "y = MatMul (x, w)\n n = BatchNormalization (y, q0, q1, q2, q3)\n out = Relu (n)"
    _, left = checked(network(body, x="N, 5, 6", y="N, 5, 5"))
    assert left["BatchNormalization"] == 1
