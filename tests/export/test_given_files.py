"""ONNX files written by other tools: old opsets, any order, float16, training mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from irepdeploy.cli import main
from irepdeploy.onnx_graph.proto import opset_of
from irepdeploy.verify.certificate import Certificate
from support.graph_writer import onnx_model

Capture = pytest.CaptureFixture[str]
RNG = np.random.default_rng(0)


def branches(opset: int = 13, kind: Any = np.float32, *more: onnx.NodeProto, **options: Any) -> onnx.ModelProto:
    """Build two parallel convolutions that become one."""
    weights = {name: (0.3 * RNG.standard_normal((4, 3, k, k))).astype(kind) for name, k in (("w", 3), ("v", 1))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], "three", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "v"], ["b"], "one"),
        helper.make_node("Add", ["a", "b"], ["y"], "sum"),
        *more,
    ]
    ends = {name: helper.np_dtype_to_tensor_dtype(np.dtype(kind)) for name in "xy"}
    return onnx_model(nodes, {"x": (1, 3, 8, 8)}, {"y": (1, 4, 8, 8)}, weights, opset=opset, kinds=ends, **options)


def export(model: onnx.ModelProto, folder: Path, *options: str) -> int:
    onnx.save(model, folder / "m.onnx")
    return main(["export", str(folder / "m.onnx"), "--out", str(folder / "o"), *options])


def certified(folder: Path) -> Certificate:
    certificate = Certificate.load(folder / "o/certificate.json")
    certificate.check_files(folder / "o")
    assert certificate.ok
    return certificate


@pytest.mark.parametrize(
    ("opset", "options", "written"),
    [
        (7, ("--target", "xavier-jp5"), 13),
        (12, ("--target", "orin-jp6"), 13),
        (18, ("--target", "xavier-jp5"), 17),
        (11, (), 11),
    ],
)
def test_opsets_are_converted_where_the_target_needs_another(
    opset: int, options: tuple[str, ...], written: int, tmp_path: Path, capsys: Capture
) -> None:
    assert export(branches(opset), tmp_path, *options) == 0
    assert opset_of(onnx.load(tmp_path / "o/model.onnx")) == written
    certificate = certified(tmp_path)
    by = f" by onnx.version_converter {onnx.__version__}" if written > opset else ""
    note = f"opset {opset} {'converted to' if by else 'written as'} {written}{by}"
    is_converted = opset != written
    assert certificate.onnx["changes"] == [note] * is_converted and (note in capsys.readouterr().err) == is_converted
    assert [hop.result for hop in certificate.hops] == [f"opset {written}"] * is_converted + ["model.onnx"]
    assert {hop.source for hop in certificate.hops} == {"given ONNX"} and certificate.target["opset"] == written
    assert main(["verify", str(tmp_path / "o/model.onnx"), "--certificate", str(tmp_path / "o/certificate.json")]) == 0


def test_int8_of_an_old_opset(tmp_path: Path, capsys: Capture) -> None:
    assert export(branches(11), tmp_path, "--precision", "fp32,int8") == 0
    assert opset_of(onnx.load(tmp_path / "o/model.int8.onnx")) == 13
    capsys.readouterr()


@pytest.mark.parametrize("target", ["ort", "xavier-jp5"])
def test_group_normalization_of_the_opset_that_deprecated_it(target: str, tmp_path: Path, capsys: Capture) -> None:
    node = helper.make_node("GroupNormalization", ["y", "scale", "bias"], ["z"], num_groups=2)
    model = branches(18, np.float32, node)
    for name in ("scale", "bias"):
        array = RNG.standard_normal(2).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("z", TensorProto.FLOAT, ("n", 4, 8, 8)))
    assert export(model, tmp_path, "--target", target, "--input-shape", "2x3x8x8") == 0
    assert "1 GroupNormalization, deprecated in opset 18, written as other operators" in capsys.readouterr().err
    certified(tmp_path)
    assert "GroupNormalization" not in {node.op_type for node in onnx.load(tmp_path / "o/model.onnx").graph.node}


@pytest.mark.parametrize("declared", [None, ("n", 4, 8, 8)])
def test_outputs_behind_operators_of_onnx_runtime_keep_what_is_known(declared: Any, tmp_path: Path) -> None:
    model = branches(17, np.float32, helper.make_node("QuickGelu", ["y"], ["z"], domain="com.microsoft"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("z", TensorProto.FLOAT, declared))
    assert export(model, tmp_path, "--input-shape", "2x3x8x8") == 0
    (output,) = onnx.load(tmp_path / "o/model.onnx").graph.output
    sizes = [dim.dim_value for dim in output.type.tensor_type.shape.dim]
    assert sizes == ([0, 4, 8, 8] if declared else [0, 0, 0, 0])


def test_what_the_converter_cannot_convert_is_refused_before_anything_runs(tmp_path: Path, capsys: Capture) -> None:
    node = helper.make_node("AveragePool", ["y"], ["z"], kernel_shape=[2, 2], dilations=[2, 2], pads=[1, 1, 1, 1])
    model = branches(20, np.float32, node)
    model.graph.output[0].name = "z"
    assert export(model, tmp_path, "--target", "xavier-jp5") == 2
    err = capsys.readouterr().err
    assert "cannot be converted from opset 20 to 17" in err and "AveragePool" in err and len(err.splitlines()) == 1
    assert not (tmp_path / "o/model.onnx").exists()


def test_a_wrong_conversion_fails_its_own_hop(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    from irepdeploy.export import onnx_source

    def wrong(model: onnx.ModelProto, opset: int, label: str, **takes: object) -> onnx.ModelProto:
        other = onnx.version_converter.convert_version(model, opset)
        weight = other.graph.initializer[0]
        weight.raw_data = (2 * np.frombuffer(weight.raw_data, np.float32)).tobytes()
        return other

    monkeypatch.setattr(onnx_source, "converted", wrong)
    assert export(branches(12), tmp_path, "--target", "xavier-jp5") == 1
    assert "given ONNX and opset 13 differ" in capsys.readouterr().err


def test_nodes_in_any_order(tmp_path: Path, capsys: Capture) -> None:
    model = branches()
    model.graph.node.insert(0, model.graph.node.pop())
    assert export(model, tmp_path) == 0
    assert "nodes sorted" in capsys.readouterr().err
    assert [node.op_type for node in onnx.load(tmp_path / "o/model.onnx").graph.node] == ["Conv"]
    assert "nodes sorted" in certified(tmp_path).onnx["changes"][0]
    assert export(model, tmp_path, "--no-collapse") == 0
    onnx.checker.check_model(onnx.load(tmp_path / "o/model.onnx"))
    assert main(["export", str(tmp_path / "m.onnx"), "--explain"]) == 0


def test_weights_of_float16_are_kept(tmp_path: Path, capsys: Capture) -> None:
    assert export(branches(13, np.float16), tmp_path) == 0
    (weight,) = onnx.load(tmp_path / "o/model.onnx").graph.initializer
    assert weight.data_type == TensorProto.FLOAT16 and certified(tmp_path).onnx["precision"] == "fp16"
    (hop,) = certified(tmp_path).hops
    assert hop.stated.max_rel_error == 1e-2
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "m.onnx"), str(tmp_path / "o/model.onnx")]) == 0


def test_precisions_of_a_float16_file(tmp_path: Path, capsys: Capture) -> None:
    half = branches(13, np.float16)
    assert export(half, tmp_path, "--precision", "fp16") == 0
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["certificate.json", "model.onnx"]
    assert export(half, tmp_path, "--target", "xavier-jp5") == 0
    out = capsys.readouterr().out
    assert "--fp16" in out and "--saveEngine=model.fp16.engine" in out and "fp32" not in out
    for precision in ("fp32", "fp32,fp16", "int8"):
        assert export(half, tmp_path, "--precision", precision) == 2
        assert "the weights of this file are fp16" in capsys.readouterr().err


def test_training_mode(tmp_path: Path, capsys: Capture) -> None:
    constants = {name: RNG.uniform(0.5, 2, 4).astype(np.float32) for name in ("scale", "shift", "mean", "var")}
    norm = helper.make_node(
        "BatchNormalization", ["y", *constants], ["z", "new_mean", "new_var"], "norm", training_mode=1
    )
    model = branches(14, np.float32, norm)
    model.graph.output[0].name = "z"
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in constants.items())
    assert export(model, tmp_path) == 0
    note = "1 BatchNormalization in training mode, converted to inference mode as by net.eval()"
    assert note in capsys.readouterr().err
    assert certified(tmp_path).onnx["changes"] == [note]
    assert [node.op_type for node in onnx.load(tmp_path / "o/model.onnx").graph.node] == ["Conv"]
    assert main(["export", str(tmp_path / "m.onnx"), "--explain"]) == 0
    assert note in capsys.readouterr().err
    # The suggested next command, and the certificate: the given file is also compared in inference form.
    assert main(["verify", str(tmp_path / "m.onnx"), str(tmp_path / "o/model.onnx")]) == 0
    assert note in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "o/model.onnx"), "--certificate", str(tmp_path / "o/certificate.json")]) == 0
    model.graph.output.append(helper.make_tensor_value_info("new_mean", TensorProto.FLOAT, (4,)))
    assert export(model, tmp_path) == 2
    assert "'norm' is in training mode, and its running statistics are used" in capsys.readouterr().err


def test_outputs_without_a_shape(tmp_path: Path) -> None:
    model = branches()
    model.graph.output[0].type.tensor_type.ClearField("shape")
    assert export(model, tmp_path, "--no-collapse") == 0
    found = onnx.load(tmp_path / "o/model.onnx").graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in found] == [1, 4, 8, 8]
    assert certified(tmp_path).onnx["changes"] == ["sizes of its outputs declared"]


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_int8_is_measured_on_the_inputs_that_it_is_calibrated_with(
    scale: float, tmp_path: Path, capsys: Capture
) -> None:
    """Random inputs of the comparison are outside the ranges of most data."""
    np.save(tmp_path / "x.npy", scale * RNG.random((16, 3, 8, 8), np.float32))
    given = ("--inputs", str(tmp_path / "x.npy"))
    assert export(branches(13), tmp_path, "--precision", "fp32,int8", *given) == 0
    hop = certified(tmp_path).hops[-1]
    assert (hop.result, [group["count"] for group in hop.inputs]) == ("model.int8.onnx", [16])
    assert "random" not in hop.inputs[0]["name"] and hop.figures[-1] == "cosine 0.99"
    assert " inf " not in capsys.readouterr().out
    check = ["verify", str(tmp_path / "o/model.int8.onnx"), "--certificate", str(tmp_path / "o/certificate.json")]
    assert main(check) == 0
    assert "calibrated with inputs of its own: give them with --inputs" in capsys.readouterr().out
    assert main([*check, *given]) == 0
    assert "the same" in capsys.readouterr().out


def test_int8_of_a_network_without_data_says_so(tmp_path: Path, capsys: Capture) -> None:
    weights = {"w": (0.3 * RNG.standard_normal((6, 4))).astype(np.float32)}
    model = onnx_model([helper.make_node("Gemm", ["x", "w"], ["y"])], {"x": (1, 6)}, {"y": (1, 4)}, weights)
    assert export(model, tmp_path, "--precision", "fp32,int8") == 0
    note = "int8 was calibrated and measured on random inputs: give real ones with --inputs FILE"
    assert note in capsys.readouterr().err and note in certified(tmp_path).precisions["int8"]["notes"]


@pytest.mark.parametrize(
    ("inputs", "notes"),
    [
        (RNG.random((1, 3, 8, 8), np.float32), ["int8 was calibrated on 1 input, "]),
        (np.repeat(RNG.random((2, 3, 8, 8), np.float32), 6, 0), ["int8 was calibrated on 2 different of 12 inputs, "]),
        (np.full((16, 3, 8, 8), 0.5, np.float32), ["on 1 different of 16 inputs, ", "inputs that are 0.5 everywhere"]),
        (RNG.random((8, 3, 8, 8), np.float32), []),
    ],
    ids=["one", "copies", "constant", "enough"],
)
def test_inputs_that_show_no_ranges_for_int8(
    inputs: np.ndarray, notes: list[str], tmp_path: Path, capsys: Capture
) -> None:
    np.save(tmp_path / "x.npy", inputs)
    assert export(branches(17), tmp_path, "--precision", "int8", "--inputs", str(tmp_path / "x.npy")) == 0
    found = [note for note in certified(tmp_path).precisions["int8"]["notes"] if "calibrated" in note]
    assert len(found) == len(notes) and all(text in note for text, note in zip(notes, found, strict=True))
    err = capsys.readouterr().err
    assert all(f"note: {note}\n" in err for note in found)


def test_weights_among_the_inputs_are_constants(tmp_path: Path, capsys: Capture) -> None:
    model = branches(17)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    assert export(model, tmp_path, "--precision", "fp32,fp16") == 0
    assert "note: 2 weights listed among the inputs made constant" in capsys.readouterr().err
    # Those of a branch are merged like any other.
    assert [node.op_type for node in onnx.load(tmp_path / "o/model.onnx").graph.node] == ["Conv"]
    for name in ("model.onnx", "model.fp16.onnx"):
        (value,) = onnx.load(tmp_path / "o" / name).graph.input
        assert value.name == "x" and value.type.tensor_type.elem_type == TensorProto.FLOAT


def test_operators_of_onnx_runtime_alone(tmp_path: Path, capsys: Capture) -> None:
    gelu = helper.make_node("Gelu", ["y"], ["z"], "gelu", domain="com.microsoft")
    model = branches(13, np.float32, gelu)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.output[0].name = "z"
    assert export(model, tmp_path) == 0
    assert certified(tmp_path).onnx["operators"] == {"Conv": 1, "Gelu": 1}
    assert export(model, tmp_path, "--target", "xavier-jp5") == 2
    assert "operators that target xavier-jp5 does not accept: Gelu" in capsys.readouterr().err


def test_outputs_that_declare_a_batch_or_a_rank_that_they_do_not_have(tmp_path: Path) -> None:
    """As in recurrent networks and text recognizers of public packages; ONNX Runtime follows the operators."""
    rows = helper.make_node("Reshape", ["y", "rows"], ["z"], "rows")
    mean = helper.make_node("ReduceMean", ["y"], ["m"], "mean", axes=[0, 2, 3], keepdims=0)
    model = branches(13, np.float32, rows, mean)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([4, 1, -1]), "rows"))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, "w"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["r", "s"]))
    model.graph.output.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, ["n"]))
    assert export(model, tmp_path, "--input-shape", "x:1x3x8x8") == 0
    shapes = {output["name"]: output["shape"] for output in certified(tmp_path).onnx["outputs"]}
    assert shapes == {"z": [4, 1, 64], "m": [4]}


def test_functions_are_written_out_in_inference_form(tmp_path: Path) -> None:
    """A block as a function, whose Dropout is in training mode."""
    body = [
        helper.make_node("Constant", [], ["r"], value_float=0.5),
        helper.make_node("Constant", [], ["t"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True])),
        helper.make_node("Dropout", ["a", "r", "t"], ["b"]),
    ]
    model = branches(13, np.float32, helper.make_node("Block", ["y"], ["z"], domain="mine"))
    model.graph.output[0].name = "z"
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.functions.append(helper.make_function("mine", "Block", ["a"], ["b"], body, [helper.make_opsetid("", 13)]))
    assert export(model, tmp_path) == 0
    changes = certified(tmp_path).onnx["changes"]
    assert changes == [
        "functions written out",
        "1 Dropout in training mode, converted to inference mode as by net.eval()",
    ]
    assert {node.op_type for node in onnx.load(tmp_path / "o/model.onnx").graph.node} == {"Conv"}
    assert main(["verify", str(tmp_path / "m.onnx"), str(tmp_path / "o/model.onnx")]) == 0


@pytest.mark.parametrize("by_axis", [False, True])
def test_sparse_weights_become_dense(by_axis: bool, tmp_path: Path) -> None:
    model = branches()
    dense = np.zeros((4, 3, 3, 3), np.float32)
    places = np.array([0, 13, 107])
    dense.reshape(-1)[places] = [1, 2, 3]
    (weights,) = (item for item in model.graph.initializer if item.name == "w")
    model.graph.initializer.remove(weights)
    indices = np.stack(np.unravel_index(places, dense.shape), 1) if by_axis else places
    values = onnx.numpy_helper.from_array(np.array([1, 2, 3], np.float32), "w")
    sparse = helper.make_sparse_tensor(values, onnx.numpy_helper.from_array(indices, "i"), dense.shape)
    model.graph.sparse_initializer.append(sparse)
    assert export(model, tmp_path) == 0
    (conv,) = onnx.load(tmp_path / "o/model.onnx").graph.node
    assert certified(tmp_path).onnx["changes"] == ["1 sparse initializer written as dense"] and conv.op_type == "Conv"
    sparse.indices.CopyFrom(onnx.numpy_helper.from_array(indices + 99, "i"))
    model.graph.sparse_initializer[0].CopyFrom(sparse)
    assert export(model, tmp_path) == 2
