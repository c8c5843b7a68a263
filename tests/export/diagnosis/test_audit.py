"""The audit finds every way in which a written file can differ from the request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import CheckFailed
from irepdeploy.export.diagnosis.audit import Asked, audit
from irepdeploy.export.target.target import Target, target_of
from irepdeploy.export.writer.onnx_from_torch import onnx_from_torch, serialized
from support.graph_writer import onnx_model
from support.networks import small_resnet

SPEC = TensorSpec("input", (1, 3, 16, 16))


@pytest.fixture(scope="module")
def content(residual: onnx.ModelProto) -> bytes:
    return serialized(residual)


def audited(path: Path, content: bytes) -> dict[str, object]:
    path.write_bytes(content)
    return audit(path, target_of("xavier-jp5"), [SPEC], ["logits"])


def test_a_good_file_is_described(tmp_path: Path, content: bytes) -> None:
    facts = audited(tmp_path / "m.onnx", content)
    assert facts["opset"] == 13 and facts["ir_version"] == 8 and facts["size_bytes"] == len(content)
    assert facts["operators"] == {"Add": 4, "Conv": 10, "Flatten": 1, "Gemm": 1, "GlobalAveragePool": 1, "Relu": 9}
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
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Mish"


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
    foreign_operator: "target xavier-jp5 does not accept: Mish",
    foreign_domain: "does not accept: Relu",
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


def check(
    path: Path, nodes: Sequence[onnx.NodeProto], constants: dict[str, np.ndarray], **options: Any
) -> dict[str, Any]:
    """Audit a graph from x (1, 4, 8, 8) to y of any shape, for a target that forbids every form."""
    kind, opset = options.pop("kind", TensorProto.FLOAT), options.pop("opset", 13)
    outputs = {"y": options.pop("shape", [1, 4, 8, 8])}
    model = onnx_model(nodes, {"x": [1, 4, 8, 8]}, outputs, constants, opset=opset, kinds={"x": kind})
    path.write_bytes(model.SerializeToString())
    spec = TensorSpec("x", (1, 4, 8, 8), np.dtype(helper.tensor_dtype_to_np_dtype(kind)).name)
    target = options.pop("target", target_of("xavier-jp5"))
    return audit(path, target, [spec], ["y"], Asked(opset=opset, **options))


def node(operator: str, inputs: Sequence[str], output: str = "y", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(operator, list(inputs), [output], name=f"{operator}.{output}", **attributes)


F32 = np.float32
KERNEL, SCALE = np.ones((4, 4, 1, 1), F32), np.array(0.1, F32)
FORMS: dict[str, tuple[list[onnx.NodeProto], dict[str, np.ndarray], str, dict[str, Any]]] = {
    "axes as an input": (
        [node("ReduceSum", ["x", "axes"], keepdims=1)],
        {"axes": np.array([2, 3])},
        "ReduceSum with its axes as an input",
        {"shape": [1, 4, 1, 1]},
    ),
    "computed axes": (
        [node("Shape", ["x"], "s"), node("ReduceMean", ["x", "s"])],
        {},
        "ReduceMean over computed axes",
        {"opset": 18, "target": target_of("trt-10")},
    ),
    "computed pads": (
        [node("Shape", ["x"], "s"), node("Concat", ["s", "s"], "p", axis=0), node("Pad", ["x", "p"])],
        {},
        "Pad by a computed tensor",
        {},
    ),
    "computed bounds": (
        [node("ReduceMax", ["x"], "m", keepdims=0), node("Clip", ["x", "", "m"])],
        {},
        "Clip with computed bounds",
        {},
    ),
    "float64": ([node("Cast", ["x"], "d", to=11), node("Cast", ["d"], to=1)], {}, "cast to float64", {}),
    "float64 constant": (
        [node("Cast", ["c"], "d", to=1), node("Add", ["x", "d"])],
        {"c": np.ones(1)},
        "float64 tensor",
        {},
    ),
    "cubic": (
        [node("Resize", ["x", "", "s"], mode="cubic")],
        {"s": np.ones(4, F32)},
        "Resize by cubic",
        {},
    ),
    "uint8 input": (
        [node("Transpose", ["x"], "t", perm=[0, 1, 3, 2]), node("Cast", ["t"], to=1)],
        {},
        "uint8 that is read by something other",
        {"kind": TensorProto.UINT8},
    ),
    "int32 bias": (
        [
            node("DequantizeLinear", ["w", "scale", "zero"], "kernel"),
            node("DequantizeLinear", ["b", "scale"], "bias"),
            node("Conv", ["x", "kernel", "bias"]),
        ],
        {"w": np.ones((4, 4, 1, 1), np.int8), "b": np.ones(4, np.int32), "scale": SCALE, "zero": np.array(0, np.int8)},
        "int32 bias",
        {"precision": "int8"},
    ),
    "zero point": (
        [node("DequantizeLinear", ["w", "scale", "zero"], "kernel"), node("Conv", ["x", "kernel"])],
        {"w": np.ones((4, 4, 1, 1), np.int8), "scale": SCALE, "zero": np.array(3, np.int8)},
        "zero point that is not zero",
        {"precision": "int8"},
    ),
    "uint8 activations": (
        [
            node("QuantizeLinear", ["x", "scale", "zero"], "q"),
            node("DequantizeLinear", ["q", "scale", "zero"]),
        ],
        {"scale": SCALE, "zero": np.array(0, np.uint8)},
        "quantized to uint8",
        {"precision": "int8"},
    ),
}


@pytest.mark.parametrize("kind", FORMS)
def test_a_form_that_a_parser_misreads_is_found(tmp_path: Path, kind: str) -> None:
    nodes, constants, reason, options = FORMS[kind]
    with pytest.raises(CheckFailed, match=reason):
        check(tmp_path / "m.onnx", nodes, constants, **options)
    free = replace(options.get("target", target_of("xavier-jp5")), forbidden=frozenset())
    check(tmp_path / "m.onnx", nodes, constants, **{**options, "target": free})


CONV = [node("Conv", ["x", "w"])]
QUANTIZED = [node("DequantizeLinear", ["w", "scale", "zero"], "kernel"), node("Conv", ["x", "kernel"])]
INT8 = {"w": np.ones((4, 4, 1, 1), np.int8), "scale": SCALE, "zero": np.array(0, np.int8)}
HALF = [
    node("Cast", ["x"], "h", to=TensorProto.FLOAT16),
    node("Conv", ["h", "w"], "c"),
    node("Cast", ["c"], to=TensorProto.FLOAT),
]


def test_each_precision_as_its_route_has_it(tmp_path: Path) -> None:
    path, typed = tmp_path / "m.onnx", target_of("trt-11")
    assert check(path, CONV, {"w": KERNEL})["weights"] == {"float32": 64}
    facts = check(path, HALF, {"w": KERNEL.astype(np.float16)}, target=typed, precision="fp16")
    assert facts["weights"] == {"float16": 32}
    check(path, QUANTIZED, INT8, precision="int8")
    # With TensorRT 8 the builder makes fp16 of a float32 graph.
    check(path, CONV, {"w": KERNEL}, precision="fp16")
    for nodes, constants, precision, reason in (
        (CONV, {"w": KERNEL}, "fp16", "weights of FLOAT in a float16 graph"),
        (HALF, {"w": KERNEL.astype(np.float16)}, "fp32", "weights of FLOAT16 in a float32 graph"),
        (CONV, {"w": KERNEL}, "int8", "weights that are not quantized"),
        (QUANTIZED, INT8, "fp32", "quantized weights in a float32 graph"),
    ):
        with pytest.raises(CheckFailed, match=reason):
            check(path, nodes, constants, target=typed, precision=precision)
    check(path, CONV, {"w": KERNEL}, target=typed, precision="int8", kept=frozenset({"Conv.y"}))


def test_a_free_batch_only_where_it_was_asked_for(tmp_path: Path, content: bytes) -> None:
    spec, path = TensorSpec("input", (None, 3, 16, 16)), tmp_path / "m.onnx"
    free = serialized(onnx_from_torch(small_resnet(), [spec], ["logits"]))
    path.write_bytes(free)
    xavier = target_of("xavier-jp5")
    outputs = [TensorSpec("logits", (None, 10))]
    facts = audit(path, xavier, [spec], outputs, Asked(dynamic_batch=True))
    assert facts["inputs"][0]["shape"] == ["N", 3, 16, 16] and facts["outputs"][0]["shape"] == ["N", 10]
    with pytest.raises(CheckFailed, match="input has no static shape"):
        audit(path, xavier, [spec], outputs)
    with pytest.raises(CheckFailed, match=r"outputs .*10.*not .*11"):
        audit(path, xavier, [spec], [TensorSpec("logits", (None, 11))], Asked(dynamic_batch=True))
    path.write_bytes(content)
    with pytest.raises(CheckFailed, match="expected a dynamic batch"):
        audit(path, xavier, [SPEC], ["logits"], Asked(dynamic_batch=True))
    model = onnx.load_model_from_string(free)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "H"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckFailed, match="input has dynamic dimensions other than its batch"):
        audit(path, xavier, [TensorSpec("input", (None, 3, None, 16))], ["logits"], Asked(dynamic_batch=True))


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    nodes = [node("Add", ["a", "b"], "sum"), node("Relu", ["sum"], "active")]
    model = onnx_model(nodes, dict.fromkeys("ab", (1, 4)), dict.fromkeys(("sum", "active"), (1, 4)))
    path = tmp_path / "m.onnx"
    path.write_bytes(serialized(model))
    specs = [TensorSpec(name, (1, 4)) for name in "ab"]
    facts = audit(path, target_of("ort"), specs, ["sum", TensorSpec("active", (1, 4))])
    assert [value["name"] for value in facts["outputs"]] == ["sum", "active"]
    for inputs, outputs in (
        (specs[:1], ["sum", "active"]),
        (specs[::-1], ["sum", "active"]),
        (specs, ["active", "sum"]),
    ):
        with pytest.raises(CheckFailed, match=r"inputs|outputs"):
            audit(path, target_of("ort"), inputs, outputs)


def test_limits_of_the_target(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(CheckFailed, match="bytes, and target small accepts 1,000"):
        audit(path, replace(target_of("ort"), name="small", max_bytes=1000), [SPEC], ["logits"])
    with pytest.raises(CheckFailed, match="4 dimensions, and target flat accepts 3"):
        audit(path, replace(target_of("ort"), name="flat", dimensions=3), [SPEC], ["logits"])
    with pytest.raises(CheckFailed, match="opset 13, and target new accepts 18 to 20"):
        audit(path, Target("new", opset=18, opsets=(18, 20)), [SPEC], ["logits"], Asked(opset=13))


def test_what_lies_in_a_subgraph_is_seen(tmp_path: Path) -> None:
    def branch(operator: str) -> onnx.GraphProto:
        ends = [helper.make_tensor_value_info(f"{operator}.out", TensorProto.FLOAT, [1, 4, 8, 8])]
        return helper.make_graph([node(operator, ["x"], f"{operator}.out")], operator, [], ends)

    nodes = [node("If", ["c"], then_branch=branch("Relu"), else_branch=branch("Mish"))]
    with pytest.raises(CheckFailed, match="does not accept: Mish"):
        check(tmp_path / "m.onnx", nodes, {"c": np.array(True)}, opset=14)


def test_sizes_that_depend_on_values(tmp_path: Path) -> None:
    nodes = [
        node("NonZero", ["x"], "z"),
        node("Cast", ["z"], "f", to=1),
        node("ReduceSum", ["f"], "s"),
        node("Add", ["x", "s"]),
    ]
    with pytest.raises(CheckFailed, match="the output size of NonZero depends on values"):
        check(tmp_path / "m.onnx", nodes, {})
