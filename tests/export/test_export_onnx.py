"""An ONNX file as the source of an export is collapsed and verified, or returned unchanged."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import irepdeploy
from irepdeploy.cli import main
from irepdeploy.errors import CheckFailed, InputError
from irepdeploy.export import onnx_export
from irepdeploy.export.output import explain
from irepdeploy.export.request.export_request import ExportRequest
from irepdeploy.export.request.settings import Settings
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.verify.certificate import Certificate
from irepdeploy.verify.input_spec import input_spec
from support.graph_writer import onnx_model
from support.published_blocks import RepVGGBlock
from support.published_borders import DiverseBranchBlock
from support.published_networks import PUBLISHED, exported, published_network

Capture = pytest.CaptureFixture[str]
FILES = ["certificate.json", "model.onnx"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of three networks and of a plain one."""
    path = tmp_path_factory.mktemp("given")
    torch.manual_seed(0)
    branches = nn.Sequential(DiverseBranchBlock(3, 8), DiverseBranchBlock(8, 8, 2), nn.Flatten(), nn.Linear(8 * 36, 10))
    networks = {
        "repvgg": (published_network("repvgg"), PUBLISHED["repvgg"].input_shape),
        "dbb": (randomize_statistics(branches).eval(), (3, 12, 12)),
        "ireps-naive": (published_network("ireps-naive"), PUBLISHED["ireps-naive"].input_shape),
    }
    for name, (network, shape) in networks.items():
        model = onnx.load_model_from_string(exported(network, shape))
        model.metadata_props.add(key="note", value="kept")
        onnx.save(model, path / f"{name}.onnx")
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    (path / "plain.onnx").write_bytes(exported(plain, (3, 12, 12)))
    (path / "free.onnx").write_bytes(exported(published_network("repvgg"), (3, 21, 18), dynamic=True))
    return path


def export(source: object, out: Path, *options: str) -> int:
    return main(["export", str(source), "--out", str(out), *options])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize(("name", "before", "deploy"), [("repvgg", 12, 6), ("dbb", 10, 2)])
def test_a_published_network(
    name: str, before: int, deploy: int, folder: Path, tmp_path: Path, capsys: Capture
) -> None:
    source = folder / f"{name}.onnx"
    assert export(source, tmp_path) == 0
    captured = capsys.readouterr()
    assert names(tmp_path) == FILES
    certificate = Certificate.load(tmp_path / "certificate.json")
    certificate.check_files(tmp_path)
    assert certificate.ok and certificate.max_rel_error < 1e-5
    assert [(hop.source, hop.result) for hop in certificate.hops] == [("given ONNX", "model.onnx")]
    assert [group["count"] for group in certificate.hops[0].inputs] == [8, 64]
    after = operators(tmp_path / "model.onnx")
    assert after["Conv"] == deploy and set(after) <= {"Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"}
    found = certificate.onnx["collapse"]
    assert found["changed"] and found["convolutions"] == {"before": before, "after": deploy}
    proofs = certificate.blocks
    assert proofs["count"] == after["Conv"] and proofs["float64"]["max_rel_error"] <= 1e-10
    assert proofs["float64 at the border"]["max_rel_error"] <= 1e-6
    for key, field in (("float64", "error_interior"), ("float64 at the border", "error_border")):
        assert proofs[key]["max_rel_error"] == max(region[field] or 0 for region in found["regions"])
    assert all(region["macs_after"] < region["macs_before"] for region in found["regions"] if region["collapsed"])
    assert certificate.source["sha256"] and certificate.source["state"] == "onnx"
    assert "linear regions become single convolutions" in captured.err and "irepdeploy verify" in captured.err
    assert f"convolutions {before} -> {deploy}" in captured.out
    assert main(["verify", str(source), str(tmp_path / "model.onnx")]) == 0
    # Names, metadata and header stay.
    given, written = onnx.load(source), onnx.load(tmp_path / "model.onnx")
    assert [value.name for value in written.graph.input] == ["input"]
    assert [value.name for value in written.graph.output] == ["output"]
    assert {entry.key: entry.value for entry in written.metadata_props} == {"note": "kept"}
    assert (written.ir_version, written.opset_import[0].version) == (given.ir_version, given.opset_import[0].version)


def test_nothing_to_collapse(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    assert export(folder / "plain.onnx", tmp_path) == 0
    assert (tmp_path / "model.onnx").read_bytes() == (folder / "plain.onnx").read_bytes()
    assert "the model is unchanged" in capsys.readouterr().out
    certificate = Certificate.load(tmp_path / "certificate.json")
    assert certificate.ok and certificate.onnx["collapse"]["changed"] is False
    # The same bytes need no comparison on every input.
    assert [group["count"] for group in certificate.hops[0].inputs] == [1, 1]
    # A second collapse changes nothing.
    assert export(folder / "repvgg.onnx", tmp_path / "a") == export(tmp_path / "a/model.onnx", tmp_path / "b") == 0
    assert (tmp_path / "a/model.onnx").read_bytes() == (tmp_path / "b/model.onnx").read_bytes()


def test_switched_off(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    assert export(folder / "dbb.onnx", tmp_path, "--no-collapse") == 0
    assert (tmp_path / "model.onnx").read_bytes() == (folder / "dbb.onnx").read_bytes()
    captured = capsys.readouterr()
    assert "switched off" in captured.out and "become single convolutions" not in captured.err


def test_explained(folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(folder / "dbb.onnx"), "--explain"]) == 0
    out = capsys.readouterr().out
    assert "region" in out and "MACs after" in out and "convolutions 10 -> 2" in out
    assert "kept in" not in out
    assert main(["export", str(folder / "ireps-naive.onnx"), "--explain"]) == 0
    out = capsys.readouterr().out
    # After a convolution and after an average pool; the first block and five others are named.
    assert out.count("kept in /blocks/blocks.0") == out.count("not a convolution at the border") == 2
    assert out.count("  likewise behind '/blocks/blocks.1") == out.count(" and 2 more\n") == 2
    assert main(["export", str(folder / "ireps-naive.onnx"), "--explain", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["changed"] and found["convolutions"]["before"] == 60
    assert any("border" in region["reason"] for region in found["regions"])
    assert main(["export", str(folder / "plain.onnx"), "--explain"]) == 0
    assert "the model is unchanged" in capsys.readouterr().out
    assert names(tmp_path) == []


def test_a_map_at_the_border(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    assert export(folder / "ireps-naive.onnx", tmp_path / "refused") == 0
    assert "note: 6 regions are not fully merged: in /blocks/blocks.0" in capsys.readouterr().err
    assert export(folder / "ireps-naive.onnx", tmp_path / "mapped", "--border", "map") == 0
    refused, mapped = (operators(tmp_path / name / "model.onnx") for name in ("refused", "mapped"))
    assert refused["Conv"] > mapped["Conv"] == mapped["Add"] == 6


def test_lower_precisions(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    assert export(folder / "dbb.onnx", tmp_path, "--precision", "fp32,fp16,int8") == 0
    assert names(tmp_path) == sorted([*FILES, "model.fp16.onnx", "model.int8.onnx"])
    certificate = Certificate.load(tmp_path / "certificate.json")
    assert [hop.result for hop in certificate.hops] == ["model.onnx", "model.fp16.onnx", "model.int8.onnx"]
    assert certificate.ok and operators(tmp_path / "model.int8.onnx")["QuantizeLinear"] > 0
    assert export(folder / "dbb.onnx", tmp_path / "board", "--target", "xavier-jp5") == 0
    assert "trtexec" in capsys.readouterr().out


@pytest.mark.parametrize("target", ["ort", "xavier-jp5"])
def test_an_input_shape_fixes_every_size_the_batch_too(target: str, folder: Path, tmp_path: Path) -> None:
    options = ["--input-shape", "2x3x17x20", "--target", target]
    assert export(folder / "free.onnx", tmp_path, *options) == 0
    shape = onnx.load(tmp_path / "model.onnx").graph.input[0].type.tensor_type.shape
    assert [dim.dim_value for dim in shape.dim] == [2, 3, 17, 20]


def test_sizes_that_are_free(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    source = folder / "free.onnx"
    assert export(source, tmp_path / "none") == 2
    assert "--input-shape" in capsys.readouterr().err
    np.save(tmp_path / "x.npy", np.zeros((2, 3, 33, 20), np.float32) + 1)
    np.save(tmp_path / "four.npy", np.zeros((2, 4, 33, 20), np.float32))
    assert export(source, tmp_path / "none", "--inputs", str(tmp_path / "four.npy")) == 2
    assert "expected inputs input float32 ?x3x?x?, got shape (2, 4, 33, 20)" in capsys.readouterr().err
    # The printed command works unchanged.
    capsys.readouterr()
    assert export(source, tmp_path / "free", "--inputs", str(tmp_path / "x.npy")) == 0
    (hop,) = Certificate.load(tmp_path / "free/certificate.json").hops
    assert [group["count"] for group in hop.inputs] == [8, 2]
    shape = onnx.load(tmp_path / "free/model.onnx").graph.input[0].type.tensor_type.shape
    assert [dim.dim_param for dim in shape.dim] == ["N", "", "H", "W"]
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.endswith("--input-shape 'input:?x3x33x20'") and main(shlex.split(line.partition("irepdeploy ")[2])) == 0
    assert (
        main(["verify", str(tmp_path / "free/model.onnx"), "--certificate", f"{tmp_path}/free/certificate.json"]) == 0
    )
    assert "not compared" not in capsys.readouterr().out
    assert export(source, tmp_path / "fixed", "--input-shape", "1x3x24x28") == 0
    model = onnx.load(tmp_path / "fixed/model.onnx")
    assert [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 24, 28]
    assert model.graph.output[0].type.tensor_type.shape.dim[0].dim_value == 1
    assert operators(tmp_path / "fixed/model.onnx")["Conv"] == 6
    certificate = Certificate.load(tmp_path / "fixed/certificate.json")
    # The digest is that of the given file.
    assert certificate.source["sha256"] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert [group["shape"] for group in certificate.hops[0].inputs] == [[3, 24, 28]] * 2
    # An engine is built for one batch size or for a range.
    xavier = ("--target", "xavier-jp5", "--input-shape")
    capsys.readouterr()
    assert export(source, tmp_path / "board", *xavier, "?x3x24x28") == 2
    assert "--input-shape input:1x3x24x28, or --dynamic-batch" in capsys.readouterr().err
    assert export(source, tmp_path / "board", *xavier, "1x3x24x28") == 0
    assert "Shapes" not in capsys.readouterr().out
    assert export(source, tmp_path / "board", *xavier, "1x3x24x28", "--dynamic-batch", "1:2:4") == 0
    assert "--optShapes=input:2x3x24x28" in capsys.readouterr().out


def broken(content: bytes, **options: Any) -> Any:
    from irepdeploy.onnx_collapse import collapse

    found = collapse(content, **options)
    weight = next(tensor for tensor in found.model.graph.initializer if len(tensor.dims) == 4)
    array = onnx.numpy_helper.to_array(weight).copy()
    array[0] += 1
    weight.raw_data = array.tobytes()
    return found


def test_a_wrong_collapse_leaves_nothing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(onnx_export, "collapse", broken)
    assert export(folder / "repvgg.onnx", tmp_path) == 1
    assert names(tmp_path) == ["certificate.failed.json"] and "differ" in capsys.readouterr().err
    with pytest.raises(CheckFailed):
        irepdeploy.export_model(folder / "repvgg.onnx", tmp_path)


def test_the_function(folder: Path, tmp_path: Path) -> None:
    certificate = irepdeploy.export_model(folder / "repvgg.onnx", tmp_path, border="map", collapse=True)
    assert certificate.ok and certificate.source["file"] == str(folder / "repvgg.onnx")
    with pytest.raises(InputError, match="class"):
        irepdeploy.export_model(folder / "repvgg.onnx", tmp_path, model_factory=nn.Identity)


def small(dtype: int = TensorProto.FLOAT, opset: int = 13) -> onnx.ModelProto:
    weights = {"w": np.ones((2, 3, 1, 1), helper.tensor_dtype_to_np_dtype(dtype))}
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], "conv")]
    shapes = {"x": [1, 3, 8, 8]}, {"y": [1, 2, 8, 8]}
    return onnx_model(nodes, *shapes, weights, opset=opset, kinds={"x": dtype, "y": dtype})


def test_files_that_are_none(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "garbage.onnx").write_bytes(b"garbage" * 99)
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "cut.onnx").write_bytes((folder / "dbb.onnx").read_bytes()[:5000])
    strange = small()
    strange.graph.node[0].op_type = "Sinc"
    onnx.save(strange, tmp_path / "strange.onnx")
    onnx.save(small(), tmp_path / "out.onnx", save_as_external_data=True, location="out.data", size_threshold=0)
    assert export(tmp_path / "out.onnx", tmp_path / "whole") == 0 and "model.onnx" in names(tmp_path / "whole")
    (tmp_path / "out.data").unlink()
    for name, options, text in (
        ("none.onnx", (), "no such"),
        ("garbage.onnx", (), "not an ONNX model"),
        ("empty.onnx", (), "ONNX model"),
        ("cut.onnx", (), "ONNX model"),
        ("strange.onnx", (), "Sinc"),
        ("out.onnx", (), "external data cannot be read"),
    ):
        capsys.readouterr()
        assert export(tmp_path / name, tmp_path / "out", *options) == 2, name
        err = capsys.readouterr().err
        assert text in err and name in err and "Traceback" not in err, (name, err)
        assert "model.onnx" not in names(tmp_path / "out")


def test_options_that_do_not_fit(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    source = folder / "repvgg.onnx"
    for arguments, text in (
        ([str(source), "--output-names", "a"], "--output-names"),
        ([str(source), "--border", "blur"], "refuse or map"),
        ([str(source), "--input-shape", "1x3x22x18"], "only dynamic dimensions can be chosen, and this input has none"),
        ([str(source), "--input-shape", "y:1x3x21x18", "--input-shape", "z:1x2"], "unknown input y"),
        ([str(source), "--dynamic-batch", "1:2:4"], "batch dimension of this ONNX file is static"),
        ([str(source), "--explain", "--no-collapse"], "--explain"),
        ([str(source), "--explain", "--model", "m:Net"], "--model"),
    ):
        capsys.readouterr()
        assert main(["export", *arguments, "--out", str(tmp_path / "out")]) == 2, arguments
        err = capsys.readouterr().err
        assert text in err and "Traceback" not in err, (arguments, err)
        assert "model.onnx" not in names(tmp_path / "out")


def branched() -> onnx.ModelProto:
    """Two parallel 1x1 convolutions and a Relu."""
    model = small()
    graph = model.graph
    graph.initializer.append(onnx.numpy_helper.from_array(np.full((2, 3, 1, 1), 0.5, np.float32), "v"))
    graph.node[0].output[0] = "a"
    graph.node.append(helper.make_node("Conv", ["x", "v"], ["b"], "other"))
    graph.node.append(helper.make_node("Add", ["a", "b"], ["sum"], "add"))
    graph.node.append(helper.make_node("Relu", ["sum"], ["y"], "relu"))
    return model


def test_a_newer_format_is_written_as_the_target_takes_it(tmp_path: Path) -> None:
    model = branched()
    model.ir_version = 10
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value="somewhere")
    onnx.save(model, tmp_path / "new.onnx")
    assert export(tmp_path / "new.onnx", tmp_path / "ort") == 0
    assert export(tmp_path / "new.onnx", tmp_path / "board", "--target", "xavier-jp5") == 0
    assert onnx.load(tmp_path / "ort/model.onnx").ir_version == 10
    assert onnx.load(tmp_path / "board/model.onnx").ir_version == 8
    assert Certificate.load(tmp_path / "board/certificate.json").onnx["ir_version_given"] == 10
    assert operators(tmp_path / "board/model.onnx") == {"Conv": 1, "Relu": 1}


def test_initializers_among_the_inputs_and_metadata_of_others(tmp_path: Path) -> None:
    model = branched()
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [2, 3, 1, 1]))
    for key, value in (("irepdeploy.dataset", "../../etc"), ("irepdeploy.net", "\u001b[31m"), ("x", "")):
        model.metadata_props.add(key=key, value=value)
    onnx.save(model, tmp_path / "m.onnx")
    assert export(tmp_path / "m.onnx", tmp_path / "out") == 0
    certificate = Certificate.load(tmp_path / "out/certificate.json")
    assert certificate.source["dataset"] is None and certificate.source["parameters"] == 12
    assert [(entry.key, entry.value) for entry in onnx.load(tmp_path / "out/model.onnx").metadata_props] == [
        (entry.key, entry.value) for entry in model.metadata_props
    ]


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    model = branched()
    model.graph.input.append(helper.make_tensor_value_info("m", TensorProto.FLOAT, [1, 2, 8, 8]))
    model.graph.node.append(helper.make_node("Mul", ["y", "m"], ["masked"], "mask"))
    model.graph.output.append(helper.make_tensor_value_info("masked", TensorProto.FLOAT, [1, 2, 8, 8]))
    onnx.save(model, tmp_path / "m.onnx")
    assert export(tmp_path / "m.onnx", tmp_path / "out", "--precision", "fp32,fp16") == 0
    certificate = Certificate.load(tmp_path / "out/certificate.json")
    assert certificate.ok and [found["name"] for found in certificate.hops[0].comparison["outputs"]] == ["y", "masked"]
    assert operators(tmp_path / "out/model.onnx") == {"Conv": 1, "Relu": 1, "Mul": 1}


def test_nodes_without_names(tmp_path: Path) -> None:
    model = branched()
    model.graph.node.append(helper.make_node("Conv", ["y", "z"], ["end"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((2, 2, 3, 3), np.float32), "z"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("end", TensorProto.FLOAT, [1, 2, 6, 6]))
    for node in model.graph.node:
        node.name = ""
    onnx.save(model, tmp_path / "m.onnx")
    for options in ((), ("--no-collapse",)):
        assert export(tmp_path / "m.onnx", tmp_path / "out", "--precision", "fp32,fp16,int8", *options) == 0
        names_in = [node.name for node in onnx.load(tmp_path / "out/model.int8.onnx").graph.node]
        assert len(set(names_in)) == len(names_in) and all(names_in)


def test_what_does_not_run_is_named_by_its_file(tmp_path: Path, capsys: Capture) -> None:
    wrong, nan = branched(), branched()
    wrong.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.ones((2, 5, 1, 1), np.float32), "v"))
    nan.graph.initializer[1].CopyFrom(onnx.numpy_helper.from_array(np.full((2, 3, 1, 1), np.nan, np.float32), "v"))
    for name, model, text in (("wrong.onnx", wrong, "cannot run"), ("nan.onnx", nan, "NaN or infinite")):
        onnx.save(model, tmp_path / name)
        capsys.readouterr()
        assert export(tmp_path / name, tmp_path / "out") == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert f"{tmp_path / name}: " in last and text in last, last
    assert "holds NaN or infinity" in irepdeploy.collapse(nan).regions[0].reason


def test_an_input_of_another_name_or_type(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    for asked, text in (("other:1x3x21x18", "unknown input other"), ("1x3x21x18:int64", "not int64")):
        capsys.readouterr()
        assert export(folder / "free.onnx", tmp_path, "--input-shape", asked) == 2
        assert text in capsys.readouterr().err


def test_names_of_a_file_do_not_reach_the_terminal_as_commands(tmp_path: Path, capsys: Capture) -> None:
    model = branched()
    model.graph.node[2].name = "\x1b[2Jevil\nline"
    onnx.save(model, tmp_path / "x.onnx")
    assert export(tmp_path / "x.onnx", tmp_path / "out") == 0
    assert main(["export", str(tmp_path / "x.onnx"), "--explain"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\\x1b[2Jevil\\nline" in out


def test_a_network_is_written_and_explained(capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    net = nn.Sequential(RepVGGBlock(8, 8), nn.Conv2d(8, 4, 1)).eval()
    request = ExportRequest(net, tmp_path, settings=Settings.of({"input_shape": (1, 8, 9, 7)}))
    explain("block", "refuse", True, request=request)
    out, err = capsys.readouterr()
    facts = json.loads(out)
    assert facts["changed"] and "fused and written" in err and not list(tmp_path.iterdir())
    assert main(["export", "vgg6", "--explain"]) == 0
    assert "nothing found" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_explained_with_sizes(folder: Path, capsys: Capture) -> None:
    explain(str(folder / "free.onnx"), "refuse", False)
    nominal = capsys.readouterr().out
    explain(str(folder / "free.onnx"), "refuse", False, [input_spec("1x3x21x18")])
    assert capsys.readouterr().out.splitlines()[-1] != nominal.splitlines()[-1]
