"""The typed float16 graph: correct values and types, and errors that name the tensor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx.helper import make_node, make_tensor_value_info

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import ModelError
from irepdeploy.export.engine.engine import build_engine
from irepdeploy.export.precision.fp16 import float_constants, half_graph, kept_float
from irepdeploy.export.precision.inference import outputs_of
from irepdeploy.export.writer.onnx_from_torch import onnx_from_torch, serialized
from irepdeploy.network.nets import build_plain
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.reparam.comparator import TOLERANCES, compare_outputs
from support.graph_writer import onnx_model

CHANNELS = {"y": 4, "z": 4, "Y": 6, "Z": 6}


def network(name: str, shape: tuple[int, ...]) -> onnx.ModelProto:
    torch.manual_seed(0)
    model = randomize_statistics(build_plain(name)).eval()
    return onnx_from_torch(model, [TensorSpec("input", (1, *shape))], ["logits"], metadata={"key": "value"})


def written(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], outputs: str) -> onnx.ModelProto:
    """A model of one input x (1, 4, 6, 6); outputs are that large, or with 6 channels as Y and Z."""
    return onnx_model(nodes, {"x": (1, 4, 6, 6)}, {name: (1, CHANNELS[name], 6, 6) for name in outputs}, constants)


def types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor that shape inference reaches."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    return {value.name: value.type.tensor_type.elem_type for value in values}


def images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape, dtype=np.float32)


@pytest.mark.parametrize(
    ("name", "shape"), [("vgg6", (1, 16, 16)), ("resnet18_cifar", (3, 32, 32)), ("repvgg_a0", (3, 32, 32))]
)
def test_a_network_in_half_gives_the_same(name: str, shape: tuple[int, ...]) -> None:
    model = network(name, shape)
    before = serialized(model)
    half = half_graph(model)
    assert serialized(model) == before
    onnx.checker.check_model(half, full_check=True)
    found = types(half)
    assert found.pop("input") == found.pop("logits") == TensorProto.FLOAT
    assert set(found.values()) == {TensorProto.FLOAT16}
    assert {tensor.data_type for tensor in half.graph.initializer} == {TensorProto.FLOAT16}
    assert len({node.name for node in half.graph.node}) == len(half.graph.node) == len(model.graph.node) + 2
    assert (half.ir_version, half.opset_import[0].version) == (8, 13) and half.metadata_props[0].value == "value"
    assert half.ByteSize() < 0.52 * model.ByteSize() and serialized(half) == serialized(half_graph(model))
    x = images(16, *shape)
    comparison = compare_outputs(outputs_of(model, x), outputs_of(half, x), TOLERANCES["float16"])
    assert comparison.ok, comparison.reason
    # Real half weights: not the same to the bit.
    assert comparison.max_rel_error > 1e-6


def test_statistics_beyond_half_are_folded() -> None:
    """Variances that are 0 or infinite in half, and a mean that overflows, where scale and shift are harmless."""
    rng = np.random.default_rng(0)
    gamma, var = np.array([1e-4, 1.0, 300.0, 1.0], np.float32), np.array([1e-9, 1e-8, 1e9, 1.0], np.float32)
    mean = np.array([0.0, 1e-4, 2e5, 0.5], np.float32)
    beta = rng.standard_normal(4).astype(np.float32)
    constants = {"gamma": gamma, "beta": beta, "mean": mean, "var": var}
    nodes = [
        make_node("BatchNormalization", ["x", *constants], ["y"], "bn", epsilon=1e-7),
        make_node("BatchNormalization", ["y", *constants], ["z"], "bn2", epsilon=1e-3),
    ]
    model = written(nodes, constants, "yz")
    half = half_graph(model)
    onnx.checker.check_model(half, full_check=True)
    x = images(1, 4, 6, 6)
    expected, found = outputs_of(model, x), outputs_of(half, x)
    for name in ("y", "z"):
        for channel in range(4):
            reference = expected[name][:, channel]
            assert np.abs(found[name][:, channel] - reference).max() <= 3e-3 * np.abs(reference).max()


@pytest.mark.trt
def test_tensorrt_takes_a_folded_normalization(tmp_path: Path) -> None:
    constants = {name: np.full(4, value, np.float32) for name, value in {"g": 1, "b": 2, "m": 1e5, "v": 1e10}.items()}
    constants["w"] = np.ones((4, 4, 3, 3), np.float32)
    nodes = [
        make_node("BatchNormalization", ["x", *"gbmv"], ["n"], "bn"),
        make_node("Conv", ["n", "w"], ["y"], "conv", pads=[1] * 4),
    ]
    half = half_graph(written(nodes, constants, "y"))
    report = build_engine(serialized(half), tmp_path / "m.engine", flavour="tensorrt_rtx", precision="fp16")
    assert report.layers["convolution_inputs"] == {"Half": 1}


def test_every_wiring() -> None:
    """An input read twice, an output that is also read, integers, constants in nodes, and names already in use."""
    constants = {
        "starts": np.array([0], np.int64),
        "ends": np.array([2], np.int64),
        "axes": np.array([1], np.int64),
        "x.half": np.full((1, 1, 1, 1), 0.5, np.float32),
    }
    nodes = [
        make_node("Slice", ["x", "starts", "ends", "axes"], ["front"], "slice"),
        make_node("Concat", ["front", "x"], ["Y"], "concat", axis=1),
        make_node("Constant", [], ["two"], "two", value=onnx.numpy_helper.from_array(np.array(2.0, np.float32))),
        make_node("Mul", ["Y", "two"], ["m"], "mul"),
        make_node("Add", ["m", "x.half"], ["Z"], "add"),
    ]
    model = written(nodes, constants, "YZ")
    model.graph.value_info.append(make_tensor_value_info("front", TensorProto.FLOAT, (1, 2, 6, 6)))
    half = half_graph(model)
    onnx.checker.check_model(half, full_check=True)
    assert types(half)["front"] == TensorProto.FLOAT16
    assert {name: types(half)[name] for name in "xYZ"} == dict.fromkeys("xYZ", TensorProto.FLOAT)
    x = images(3, 4, 6, 6)
    comparison = compare_outputs(outputs_of(model, x), outputs_of(half, x), TOLERANCES["float16"])
    assert comparison.ok and len(comparison.outputs) == 2


def test_an_input_of_bytes_stays_one() -> None:
    nodes = [
        make_node("Cast", ["x"], ["f"], "cast", to=TensorProto.FLOAT),
        make_node("Mul", ["f", "scale"], ["y"], "scaled"),
    ]
    model = written(nodes, {"scale": np.array(1 / 64, np.float32)}, "y")
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8
    half = half_graph(model)
    assert types(half)["x"] == TensorProto.UINT8 and types(half)["f"] == TensorProto.FLOAT16
    x = np.arange(144, dtype=np.uint8).reshape(1, 4, 6, 6)
    np.testing.assert_allclose(outputs_of(half, x)["y"], x / np.float32(64), rtol=1e-3)


@pytest.mark.parametrize("as_node", [False, True])
def test_the_scales_of_a_resize_stay_float(as_node: bool) -> None:
    scales = np.array([1, 1, 2, 2], np.float32)
    constants = {} if as_node else {"scales": scales}
    nodes = [
        make_node("Resize", ["x", "", "scales"], ["r"], "resize", mode="nearest"),
        make_node("MaxPool", ["r"], ["y"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
    ]
    if as_node:
        nodes.insert(0, make_node("Constant", [], ["scales"], "c", value=onnx.numpy_helper.from_array(scales)))
    half = half_graph(written(nodes, constants, "y"))
    onnx.checker.check_model(half, full_check=True)
    x = images(1, 4, 6, 6)
    np.testing.assert_allclose(outputs_of(half, x)["y"], x, rtol=1e-3)


def test_what_squares_stays_float32() -> None:
    """300 squared is beyond 65504."""
    nodes = [
        make_node("ReduceL2", ["x"], ["length"], "length", axes=[1], keepdims=1),
        make_node("Div", ["x", "length"], ["y"], "div"),
    ]
    half = half_graph(written(nodes, {}, "y"))
    onnx.checker.check_model(half, full_check=True)
    found = types(half)
    reduce = next(node for node in half.graph.node if node.op_type == "ReduceL2")
    assert found[reduce.input[0]] == found[reduce.output[0]] == TensorProto.FLOAT
    assert reduce.name == "length" and found["length"] == found["x.half"] == TensorProto.FLOAT16
    x = np.full((1, 4, 6, 6), 300, np.float32)
    np.testing.assert_allclose(outputs_of(half, x)["y"], 0.5, rtol=1e-3)


def test_one_that_stays_float32_and_gives_an_output_itself() -> None:
    nodes = [
        make_node("ReduceL2", ["x"], ["a"], axes=[1], keepdims=1),
        make_node("Concat", ["a", "a", "a", "a"], ["y"], "joined", axis=1),
    ]
    model = written(nodes, {}, "y")
    model.graph.output.append(make_tensor_value_info("a", TensorProto.FLOAT, (1, 1, 6, 6)))
    half = half_graph(model)
    onnx.checker.check_model(half, full_check=True)
    x = images(1, 4, 6, 6)
    for name, reference in outputs_of(model, x).items():
        np.testing.assert_allclose(outputs_of(half, x)[name], reference, rtol=2e-3)


def test_a_number_that_keeps_a_divisor_from_zero_does_not_become_zero() -> None:
    nodes = [make_node("Clip", ["x", "least"], ["c"], "clip"), make_node("Div", ["x", "c"], ["y"], "div")]
    weights = {"least": np.array(1e-12, np.float32)}
    model = written(nodes, weights, "y")
    zeros = np.zeros((1, 4, 6, 6), np.float32)
    assert not outputs_of(half_graph(model), zeros)["y"].any()
    nodes = [make_node("Mul", ["x", "w"], ["y"], "mul")]
    for values, kept in ((np.array(-1e-12), [-(2.0**-24)]), (np.array([1e-12, 1]), [0, 1]), (np.array([0.0]), [0])):
        half = half_graph(written(nodes, {"w": values.astype(np.float32)}, "y"))
        assert onnx.numpy_helper.to_array(half.graph.initializer[0]).ravel().tolist() == kept


def decoded() -> onnx.ModelProto:
    """A layer, its peaks, their positions in pixels beyond the integers of a half, and another layer."""
    constants = {
        "w": np.random.default_rng(0).standard_normal((4, 4, 1, 1)).astype(np.float32),
        "shape": np.array([0, -1], np.int64),
        "k": np.array([3], np.int64),
        "size": np.array(36, np.int64),
        "big": np.array(4097, np.float32),
        "w2": np.eye(3, dtype=np.float32),
    }
    nodes = [
        make_node("Conv", ["x", "w"], ["c"], "conv"),
        make_node("Reshape", ["c", "shape"], ["r"], "flat"),
        make_node("TopK", ["r", "k"], ["scores", "places"], "topk"),
        make_node("Mod", ["places", "size"], ["rest"], "mod"),
        make_node("Cast", ["rest"], ["f"], "cast", to=TensorProto.FLOAT),
        make_node("Add", ["f", "big"], ["centres"], "centres"),
        make_node("Mul", ["r", "big"], ["scaled"], "scaled"),
        make_node("Gemm", ["scores", "w2"], ["mixed"], "fc"),
    ]
    outputs = {"centres": (1, 3), "scores": (1, 3), "scaled": (1, 144), "mixed": (1, 3)}
    return onnx_model(nodes, {"x": (1, 4, 6, 6)}, outputs, constants)


def test_unknown_operators_stay_float32_until_the_next_layer() -> None:
    model = decoded()
    half = half_graph(model)
    onnx.checker.check_model(half, full_check=True)
    found = types(half)
    assert found["c"] == found["r"] == TensorProto.FLOAT16 and found["f"] == found["scores"] == TensorProto.FLOAT
    assert kept_float(model) == {"topk": "TopK", "centres": "Add"}
    # A constant that is read in both types.
    assert {t.name: t.data_type for t in half.graph.initializer if t.name.startswith("big")} == {
        "big": TensorProto.FLOAT, "big.half": TensorProto.FLOAT16,
    }  # fmt: skip
    x = images(1, 4, 6, 6)
    expected, got = outputs_of(model, x), outputs_of(half, x)
    # 4097 + 35 cannot be represented in float16.
    assert (got["centres"] == expected["centres"]).all() and expected["centres"].max() > 4097
    for name in ("scores", "scaled", "mixed"):
        assert np.abs(got[name] - expected[name]).max() <= 2e-3 * np.abs(expected[name]).max()


def test_operators_of_other_domains_and_bodies() -> None:
    body = onnx.helper.make_graph(
        [make_node("Add", ["m", "two"], ["inner"], "inside")], "b", [], [make_tensor_value_info("inner", 1, None)]
    )
    other = onnx.helper.make_graph(
        [make_node("Identity", ["m"], ["outer"], "same")], "o", [], [make_tensor_value_info("outer", 1, None)]
    )
    nodes = [
        make_node("Conv", ["x", "w"], ["m"], "conv"),
        make_node("If", ["yes"], ["i"], "branch", then_branch=body, else_branch=other),
        make_node("Constant", [], ["three"], "three", value_float=3.0),
        make_node("Mul", ["i", "three"], ["y"], "mul"),
    ]
    constants = {
        "w": np.ones((4, 4, 1, 1), np.float32), "two": np.array(2, np.float32), "yes": np.array(True),
    }  # fmt: skip
    model = written(nodes, constants, "y")
    half = half_graph(model)
    onnx.checker.check_model(half, full_check=True)
    x = images(1, 4, 6, 6)
    np.testing.assert_allclose(outputs_of(half, x)["y"], outputs_of(model, x)["y"], rtol=5e-3, atol=5e-3)
    assert kept_float(model)["branch"] == "If"
    foreign = make_node("Relu", ["x"], ["y"], "foreign", domain="com.example")
    kept = half_graph(written([foreign], {}, "y"))
    assert [node.op_type for node in kept.graph.node] == ["Relu"] and kept_float(written([foreign], {}, "y"))


@pytest.mark.parametrize("value", [65505.0, -7e4, np.inf, np.nan])
def test_what_half_cannot_hold_is_refused(value: float) -> None:
    weight = np.ones((4, 4, 1, 1), np.float32)
    weight[1, 2] = value
    model = written([make_node("Conv", ["x", "w"], ["y"], "layer1.0.conv")], {"w": weight}, "y")
    with pytest.raises(ModelError, match=r"layer1\.0\.conv: w holds .*65504"):
        half_graph(model)
    weight[1, 2] = 65504
    assert onnx.numpy_helper.to_array(half_graph(model_with(model, weight)).graph.initializer[0]).max() == 65504


def model_with(model: onnx.ModelProto, weight: np.ndarray) -> onnx.ModelProto:
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weight, "w"))
    return model


def test_a_normalization_that_overflows_or_is_not_constant() -> None:
    one = np.ones(4, np.float32)
    constants = {"gamma": one * 1000, "beta": one, "mean": one, "var": one * 1e-10}
    model = written([make_node("BatchNormalization", ["x", *constants], ["y"], "bn", epsilon=1e-10)], constants, "y")
    with pytest.raises(ModelError, match=r"bn: bn\.scale holds"):
        half_graph(model)
    # As torch's exporter writes equal tensors: one of them, and an Identity for the other.
    model.graph.node[0].input[4] = "copy"
    model.graph.node.insert(0, make_node("Identity", ["gamma"], ["copy"], "identity"))
    (scale, _) = float_constants(model)["bn"].values()
    assert np.allclose(scale, np.sqrt(1000))
    half_graph(model)
    model.graph.node.pop(0)
    with pytest.raises(ModelError, match="bn: the statistics of this batch normalization are not constants"):
        half_graph(model)
