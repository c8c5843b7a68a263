"""Running a model in memory: batches, inputs by name, and types of tensors."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.helper import make_node, make_tensor_value_info

from irepdeploy.errors import InputError, ModelError
from irepdeploy.export.precision.inference import (
    free_batch,
    outputs_of,
    run_parts,
    samples_in,
    with_outputs,
)
from irepdeploy.export.writer.onnx_from_torch import serialized
from irepdeploy.onnx_graph.shapes import tensor_types
from support.graph_writer import onnx_model


def written(
    nodes: list[onnx.NodeProto], shapes: dict[str, tuple[int | str, ...]], outputs: dict[str, tuple[int | str, ...]]
) -> onnx.ModelProto:
    constants = {
        "shape": np.array([2, 8], np.int64),
        "w": np.ones((8, 3), np.float32),
        "zero": np.array([0], np.int64),
        "one": np.array([1], np.int64),
    }
    return onnx_model(nodes, shapes, outputs, constants)


def images(count: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, *shape), dtype=np.float32)


RELU = [make_node("Relu", ["x"], ["y"])]
RESHAPED = [make_node("Reshape", ["x", "shape"], ["r"]), make_node("MatMul", ["r", "w"], ["y"])]
SUMMED = [make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1), make_node("Add", ["x", "m"], ["y"])]


@pytest.mark.parametrize(
    ("nodes", "batch", "parts"),
    [(RELU, 1, [16, 16, 5]), (RELU, 2, [2] * 18 + [1]), (RELU, "n", [16, 16, 5]), (RESHAPED, 2, [2] * 18 + [1])],
)
def test_batches(nodes: list[onnx.NodeProto], batch: int | str, parts: list[int]) -> None:
    width = 3 if nodes is RESHAPED else 8
    model = written(nodes, {"x": (batch, 8)}, {"y": (batch, width)})
    model.graph.value_info.append(make_tensor_value_info("unused", TensorProto.FLOAT, (batch, 8)))
    before = serialized(model)
    x = images(37, 8)
    assert [count for count, _ in run_parts(model, x)] == parts
    expected = x @ np.ones((8, 3), np.float32) if nodes is RESHAPED else np.maximum(x, 0)
    np.testing.assert_allclose(outputs_of(model, x)["y"], expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(outputs_of(before, x)["y"], expected, rtol=0, atol=1e-5)
    assert serialized(model) == before


def test_what_mixes_a_batch_runs_one_by_one() -> None:
    x = images(3, 8)
    model = written(SUMMED, {"x": (1, 8)}, {"y": (1, 8)})
    np.testing.assert_allclose(outputs_of(model, x)["y"], 2 * x, rtol=0, atol=1e-6)
    for node in (
        make_node("Concat", ["x", "x"], ["y"], axis=0),
        make_node("Flatten", ["x"], ["y"], axis=0),
        make_node("ReduceMax", ["x"], ["y"], axes=[0]),
        make_node("Slice", ["x", "zero", "one", "zero"], ["y"]),
    ):
        model = written([node], {"x": (1, 8)}, {"y": (1, "b")})
        assert [count for count, _ in run_parts(model, x)] == [1, 1, 1]


def test_inputs_by_name() -> None:
    model = written([make_node("Add", ["a", "b"], ["y"])], {"a": (1, 8), "b": (1, 8)}, {"y": (1, 8)})
    a, b = images(5, 8), images(5, 8) + 1
    assert np.array_equal(outputs_of(model, {"b": b, "a": a})["y"], a + b)
    assert samples_in({"a": a, "b": b}) == samples_in(a) == 5
    with pytest.raises(InputError, match=r"expected inputs \['a', 'b'\], got \['a'\]"):
        outputs_of(model, a)
    with pytest.raises(InputError, match="the same number of inputs for each name"):
        outputs_of(model, {"a": a, "b": b[:4]})


def test_other_outputs() -> None:
    model = written(RESHAPED, {"x": (2, 8)}, {"y": (2, 3)})
    before = serialized(model)
    x = images(3, 8)
    r = make_tensor_value_info("r", TensorProto.FLOAT, None)
    assert np.array_equal(outputs_of(with_outputs(model, [r]), x)["r"], x)
    n = make_tensor_value_info("n", TensorProto.FLOAT, None)
    found = outputs_of(with_outputs(model, [r, n], [make_node("Neg", ["y"], ["n"])]), x)
    np.testing.assert_allclose(found["n"], -x.sum(1, keepdims=True).repeat(3, 1), rtol=0, atol=1e-5)
    assert set(found) == {"r", "n"} and serialized(model) == before


def test_what_is_large_runs_alone() -> None:
    assert free_batch({"a": images(2, 1, 64, 64)}) == 16
    assert free_batch({"a": images(2, 8), "b": images(2, 1, 1, 65)}) == 1


def test_what_cannot_be_run() -> None:
    with pytest.raises(ModelError, match="ONNX Runtime lacks an operator"):
        outputs_of(written([make_node("Nonsense", ["x"], ["y"])], {"x": (1, 8)}, {"y": (1, 8)}), images(1, 8))


def test_an_output_without_a_batch_is_one_value_for_each_run() -> None:
    model = written([make_node("ReduceMean", ["x"], ["y"], keepdims=0)], {"x": (2, 8)}, {"y": ()})
    x = images(4, 8)
    np.testing.assert_allclose(outputs_of(model, x)["y"], x.reshape(2, -1).mean(1), rtol=0, atol=1e-6)


def test_types_of_tensors() -> None:
    model = written(RESHAPED, {"x": (2, 8)}, {"y": (2, 3)})
    found = {name: value.type.tensor_type.elem_type for name, value in tensor_types(model).items()}
    assert found == dict.fromkeys(("x", "r", "y"), TensorProto.FLOAT)


def test_a_constant_that_is_joined_keeps_the_batch() -> None:
    node = onnx.helper.make_node("Concat", ["x", "c"], ["y"], "joined", axis=1)
    constant = {"c": np.ones((1, 1, 2, 2), np.float32)}
    model = onnx_model([node], {"x": (1, 3, 2, 2)}, {"y": (1, 4, 2, 2)}, constant)
    x = np.random.default_rng(0).standard_normal((5, 3, 2, 2), dtype=np.float32)
    assert outputs_of(model, x)["y"].shape == (5, 4, 2, 2)
