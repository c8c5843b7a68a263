"""The audit: every way in which a written file can be other than what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from irepdeploy.errors import CheckFailed
from irepdeploy.export.audit import audit
from irepdeploy.export.onnx_from_torch import onnx_from_torch, serialized
from irepdeploy.export.target import target_of
from irepdeploy.runtime.runner import TensorSpec
from irepdeploy.testing.networks import random_network

SPEC = TensorSpec("input", (1, 3, 16, 16))


@pytest.fixture(scope="module")
def content() -> bytes:
    return serialized(onnx_from_torch(random_network("resnet18_cifar"), [SPEC], ["logits"]))


def audited(path: Path, content: bytes) -> dict[str, object]:
    path.write_bytes(content)
    return audit(path, target_of("ort"), [SPEC], ["logits"])


def test_a_good_file_is_described(tmp_path: Path, content: bytes) -> None:
    facts = audited(tmp_path / "m.onnx", content)
    assert facts["opset"] == 13 and facts["ir_version"] == 8 and facts["size_bytes"] == len(content)
    assert facts["operators"] == {"Add": 8, "Conv": 20, "Flatten": 1, "Gemm": 1, "GlobalAveragePool": 1, "Relu": 17}
    assert facts["inputs"] == [{"name": "input", "shape": [1, 3, 16, 16], "dtype": "float32"}]
    assert facts["outputs"] == [{"name": "logits", "shape": [1, 10], "dtype": "float32"}]


def other_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 18


def other_ir(model: onnx.ModelProto) -> None:
    model.ir_version = 10


def free_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def other_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def other_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "scores"


def foreign_operator(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Sigmoid"


def foreign_domain(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Relu").domain = "com.example"


def nameless(model: onnx.ModelProto) -> None:
    model.graph.node[3].name = ""


def same_name(model: onnx.ModelProto) -> None:
    model.graph.node[3].name = model.graph.node[4].name


def left_behind(model: onnx.ModelProto) -> None:
    position, relu = next((i, node) for i, node in enumerate(model.graph.node) if node.op_type == "Relu")
    names = [f"bn{index}" for index in range(4)]
    for name in names:
        array = onnx.numpy_helper.to_array(model.graph.initializer[1])
        model.graph.initializer.append(onnx.numpy_helper.from_array(abs(array) + 1, name))
    bn = onnx.helper.make_node("BatchNormalization", [relu.input[0], *names], ["bn"], name="bn")
    relu.input[0] = "bn"
    model.graph.node.insert(position, bn)


def elsewhere(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value="weights.bin")


def wrong_shape(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 11


def unordered(model: onnx.ModelProto) -> None:
    first = model.graph.node[0]
    del model.graph.node[0]
    model.graph.node.append(first)


FAULTS = {
    other_opset: "opset .*18",
    other_ir: "IR version 10, not 8",
    free_batch: "inputs .*batch",
    other_input: "inputs .*float16",
    other_output: "outputs .*scores",
    foreign_operator: "target ort does not take: Sigmoid",
    foreign_domain: "does not take: Relu",
    nameless: "without a name",
    same_name: "without a name",
    left_behind: "bn was left behind the convolution conv1",
    elsewhere: "another file",
    wrong_shape: "onnx.checker",
    unordered: "onnx.checker",
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_found(tmp_path: Path, content: bytes, fault: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load_model_from_string(content)
    fault(model)
    with pytest.raises(CheckFailed, match=FAULTS[fault]):
        audited(tmp_path / "m.onnx", model.SerializeToString())


def test_a_file_of_weights_beside_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx.data").write_bytes(b"")
    with pytest.raises(CheckFailed, match="beside"):
        audited(tmp_path / "m.onnx", content)


def test_bytes_that_are_no_model(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(CheckFailed, match="cannot be read again"):
        audited(tmp_path / "m.onnx", content[: len(content) // 2])
