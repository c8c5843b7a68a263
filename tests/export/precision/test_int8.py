"""Explicit Q/DQ: the forms that TensorRT and ONNX Runtime need, the values, and errors."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.helper import make_node

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.errors import InputError, ModelError
from irepdeploy.export.engine.engine import build_engine
from irepdeploy.export.precision.fp16 import FLOAT32_KEY
from irepdeploy.export.precision.inference import arrays_of, outputs_of
from irepdeploy.export.precision.int8 import quantizable, quantized
from irepdeploy.export.precision.ranges import tensor_ranges
from irepdeploy.export.writer.onnx_from_torch import serialized
from irepdeploy.reparam.comparator import Tolerance, compare_outputs
from support.graph_writer import onnx_model

INT8 = Tolerance(0.1, 0.99)


def images(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *shape), dtype=np.float32)


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {output: node for node in model.graph.node for output in node.output}


@pytest.mark.parametrize("activations", ["int8", "uint8"])
def test_a_network_in_int8(residual: onnx.ModelProto, activations: str) -> None:
    before = serialized(residual)
    model = quantized(residual, images(16, 3, 16, 16), activations=activations)
    assert serialized(residual) == before
    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, [(entry.domain, entry.version) for entry in model.opset_import]) == (8, [("", 13)])
    assert [(item.key, item.value) for item in model.metadata_props] == [("key", "value")]
    assert model.producer_name == "irepdeploy" and not model.graph.value_info
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names) and set(quantizable(residual)) <= set(names)
    assert model.ByteSize() < 0.27 * residual.ByteSize()
    x = images(16, 3, 16, 16, seed=1)
    comparison = compare_outputs(outputs_of(residual, x), outputs_of(model, x), INT8)
    assert comparison.ok, comparison.reason
    assert comparison.max_rel_error > 1e-4


def test_the_form_that_tensorrt_wants(residual: onnx.ModelProto) -> None:
    model = quantized(residual, images(4, 3, 16, 16))
    made, arrays = producers(model), arrays_of(model)
    for name in quantizable(residual):
        node = next(node for node in model.graph.node if node.name == name)
        activation, weight = made[node.input[0]], made[node.input[1]]
        assert activation.op_type == weight.op_type == "DequantizeLinear"
        assert made[activation.input[0]].op_type == "QuantizeLinear"
        integers, scale, zero = (arrays[name] for name in weight.input)
        assert integers.dtype == zero.dtype == np.int8 and not zero.any()
        assert scale.shape == zero.shape == (len(integers),)
        assert np.abs(integers.reshape(len(integers), -1).astype(int)).max(1).min() == 127
        assert arrays[activation.input[2]].dtype == np.int8 and arrays[activation.input[2]] == 0
        assert arrays[node.input[2]].dtype == np.float32
    # No Q/DQ between a convolution and its ReLU.
    quantized_tensors = [made.get(node.input[0]) for node in model.graph.node if node.op_type == "QuantizeLinear"]
    assert {None if node is None else node.op_type for node in quantized_tensors} == {None, "Relu", "Flatten"}


def test_weights_are_rounded_to_nearest(vgg6: onnx.ModelProto) -> None:
    for per_channel in (True, False):
        model = quantized(vgg6, images(2, 1, 16, 16), per_channel=per_channel)
        arrays, floats = arrays_of(model), arrays_of(vgg6)
        for name in quantizable(vgg6):
            weight, scale = floats[f"{name}.weight"], arrays[f"{name}.weight_scale"]
            assert scale.size == (len(weight) if per_channel else 1)
            steps = scale.reshape(-1, *[1] * (weight.ndim - 1))
            error = np.abs(arrays[f"{name}.weight_quantized"] * steps - weight)
            assert (error <= steps * 0.5001).all()


def test_the_form_that_onnxruntime_wants(residual: onnx.ModelProto) -> None:
    model = quantized(residual, images(4, 3, 16, 16), activations="uint8")
    arrays = arrays_of(model)
    zeros = {arrays[node.input[2]].dtype.name for node in model.graph.node if node.op_type == "QuantizeLinear"}
    assert zeros == {"uint8"}
    assert "Relu" not in Counter(node.op_type for node in model.graph.node)
    with OrtRunner(serialized(model)) as runner:
        x = images(1, 3, 16, 16, seed=1)
        found = runner.infer({"input": x})
    assert compare_outputs(outputs_of(residual, x), found, INT8).ok


def test_layers_kept_in_float(residual: onnx.ModelProto) -> None:
    layers = quantizable(residual)
    kept = ["layer1.0.conv2", "layer2.0.downsample.0", "fc"]
    calibration = images(4, 3, 16, 16)
    for activations in ("int8", "uint8"):
        model = quantized(residual, calibration, keep_float=kept, activations=activations)
        onnx.checker.check_model(model, full_check=True)
        made, arrays = producers(model), arrays_of(model)
        for node in model.graph.node:
            if node.name in layers:
                weights_float = node.input[1] in arrays and arrays[node.input[1]].dtype == np.float32
                reads = made.get(node.input[0])
                reads_float = reads is None or reads.op_type != "DequantizeLinear"
                assert (weights_float, reads_float) == (node.name in kept, node.name in kept)
    whole = quantized(residual, calibration, keep_float=layers)
    assert Counter(node.op_type for node in whole.graph.node) == Counter(n.op_type for n in residual.graph.node)
    assert np.array_equal(outputs_of(whole, calibration)["logits"], outputs_of(residual, calibration)["logits"])


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_layer_quantized_alone_keeps_its_relu(residual: onnx.ModelProto, place: int) -> None:
    layers = quantizable(residual)
    others = [name for name in layers if name != layers[place]]
    model = quantized(residual, images(4, 3, 16, 16), keep_float=others, activations="uint8")
    onnx.checker.check_model(model, full_check=True)
    x = images(4, 3, 16, 16, seed=1)
    found = compare_outputs(outputs_of(residual, x), outputs_of(model, x), Tolerance(0.02, 0.9999))
    assert found.ok, found.reason


@pytest.mark.parametrize("captured", ["a", "r", "nothing"])
def test_a_relu_of_an_output_and_of_subgraphs(captured: str) -> None:
    """Layers kept in float and subgraphs read what the ReLU leaves, also if its tensor is an output of the model."""
    weights = {"A.w": images(4, 3, 3, 3), "B.w": images(4, 4, 3, 3), "flag": np.array(True)}
    nodes = [
        make_node("Conv", ["x", "A.w"], ["a"], "A"),
        make_node("Relu", ["a"], ["r"], "relu"),
        make_node("Conv", ["r", "B.w"], ["b"], "B"),
    ]
    outputs = {"b": [None] * 4, "r": [None] * 4}
    if captured != "nothing":
        result = onnx.helper.make_tensor_value_info("n", onnx.TensorProto.FLOAT, [None] * 4)
        body = onnx.helper.make_graph([make_node("Neg", [captured], ["n"])], "body", [], [result])
        nodes.append(make_node("If", ["flag"], ["branch"], "if", then_branch=body, else_branch=body))
        outputs = {"b": [None] * 4, "branch": [None] * 4}
    model, x = onnx_model(nodes, {"x": ["n", 3, 6, 6]}, outputs, weights), images(4, 3, 6, 6)
    for kept in ([], ["B"]):
        result = quantized(model, x, keep_float=kept, activations="uint8")
        onnx.checker.check_model(result, full_check=True)
        found = compare_outputs(outputs_of(model, x), outputs_of(result, x), Tolerance(0.05, 0.999))
        assert found.ok, found.reason


def test_parts_that_stay_float32_are_not_quantized(residual: onnx.ModelProto) -> None:
    part = onnx.ModelProto.FromString(serialized(residual))
    part.metadata_props.add(key=FLOAT32_KEY, value="layer2")
    within = {node.name for node in part.graph.node if node.name.startswith("layer2.")}
    model = quantized(part, images(4, 3, 16, 16), activations="uint8")
    made = producers(model)
    inside = [node for node in model.graph.node if node.name in within]
    assert {node.op_type for node in inside} >= {"Conv", "Add", "Relu"}
    # Its inputs may be rounded, and nothing between its nodes.
    for dequantize in (made[name] for node in inside for name in node.input if name in made):
        if dequantize.op_type == "DequantizeLinear":
            assert made[made[dequantize.input[0]].input[0]].name not in within


@pytest.mark.trt
def test_tensorrt_runs_kept_layers_in_float(residual: onnx.ModelProto, tmp_path: Path) -> None:
    model = quantized(residual, images(2, 3, 16, 16), keep_float=["layer1.0.conv2", "layer2.0.downsample.0"])
    report = build_engine(serialized(model), tmp_path / "m.engine", flavour="tensorrt_rtx", precision="int8")
    assert report.layers["convolution_inputs"] == {"Int8": 8, "Float": 2}


def test_the_same_bytes_in_another_process(vgg6: onnx.ModelProto, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(serialized(vgg6))
    x = images(4, 1, 16, 16)
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys, numpy, onnx\n"
        "from irepdeploy.export.precision.int8 import quantized\n"
        "from irepdeploy.export.writer.onnx_from_torch import serialized\n"
        "sys.stdout.buffer.write(serialized(quantized(onnx.load('m.onnx'), numpy.load('x.npy'))))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, check=True)
    assert done.stdout == serialized(quantized(vgg6, x)) == serialized(quantized(vgg6, ranges=tensor_ranges(vgg6, x)))
    assert done.stderr == b""


def test_no_files_and_no_words(
    vgg6: onnx.ModelProto,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a file for what is in memory")

    for name in ("TemporaryDirectory", "NamedTemporaryFile", "mkdtemp", "mkstemp"):
        monkeypatch.setattr(tempfile, name, refuse)
    # With a bias that is computed the quantizer warns.
    model = onnx.ModelProto()
    model.CopyFrom(vgg6)
    model.graph.node[-1].input[2] = "computed"
    model.graph.node.insert(0, make_node("Relu", ["head.bias"], ["computed"], "computed"))
    with caplog.at_level(logging.DEBUG):
        quantized(model, images(2, 1, 16, 16), activations="uint8")
        logging.warning("heard")
    assert caplog.messages == ["heard"] and capfd.readouterr() == ("", "")


def written(nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], opset: int = 13) -> onnx.ModelProto:
    return onnx_model(nodes, {"x": (1, 2, 4, 4)}, {"y": (1, 2, 4, 4)}, constants, opset=opset)


def test_dead_channels_and_a_dead_map() -> None:
    weight = np.zeros((2, 2, 1, 1), np.float32)
    weight[1] = 0.5
    nodes = [
        make_node("Conv", ["x", "dead"], ["h"], "dead"),
        make_node("Conv", ["h", "w"], ["y"], "second"),
    ]
    model = written(nodes, {"dead": weight * 0, "w": weight})
    result = quantized(model, images(2, 2, 4, 4))
    onnx.checker.check_model(result, full_check=True)
    assert not outputs_of(result, images(2, 2, 4, 4))["y"].any()


def test_bad_input(vgg6: onnx.ModelProto) -> None:
    x = images(2, 1, 16, 16)
    with pytest.raises(InputError, match="calibrate"):
        quantized(vgg6)
    with pytest.raises(InputError, match="no layer 'nothing'"):
        quantized(vgg6, x, keep_float=["nothing"])
    with pytest.raises(InputError, match="unknown kind of activations 'int4'"):
        quantized(vgg6, x, activations="int4")
    with pytest.raises(ModelError, match="nothing to quantize"):
        quantized(written([make_node("Relu", ["x"], ["y"], "relu")], {}), images(1, 2, 4, 4))
    conv = [make_node("Conv", ["x", "w"], ["y"], "conv")]
    with pytest.raises(ModelError, match="opset 12"):
        quantized(written(conv, {"w": np.ones((2, 2, 1, 1), np.float32)}, opset=12), images(1, 2, 4, 4))
    for value in (np.inf, np.nan):
        with pytest.raises(ModelError, match="conv: w is not finite"):
            quantized(written(conv, {"w": np.full((2, 2, 1, 1), value, np.float32)}), images(1, 2, 4, 4))
    with pytest.raises(ModelError, match="activation 'y' is not finite"):
        quantized(written(conv, {"w": np.full((2, 2, 1, 1), 3e38, np.float32)}), images(1, 2, 4, 4))
