"""An export in several precisions, for targets with and without an engine; each file is checked and certified."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import irepdeploy
from irepdeploy.cli import main
from irepdeploy.errors import CheckFailed, InputError, MissingError
from irepdeploy.export.engine import engines
from irepdeploy.verify.certificate import Certificate
from support.networks import random_network
from support.operator_networks import decoded

Capture = pytest.CaptureFixture[str]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_every_precision_for_onnx_runtime(tmp_path: Path, capsys: Capture) -> None:
    assert main(["export", "vgg6", "--precision", "fp32,fp16,int8", "--no-simplify", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "fp16: weights up to" in printed and "int8: loss" in printed
    certificate = Certificate.load(tmp_path / "certificate.json")
    certificate.check_files(tmp_path)
    assert [artefact.file for artefact in certificate.artefacts] == [
        "model.onnx",
        "fused.pt",
        "model.fp16.onnx",
        "model.int8.onnx",
    ]
    hops = {hop.result: hop for hop in certificate.hops}
    assert 0 < hops["model.fp16.onnx"].error < 1e-2 and hops["model.int8.onnx"].comparison["ok"]
    assert certificate.precisions["fp16"]["ranges"]["max_weight"] > 0
    assert certificate.precisions["int8"]["max_drop"] == 0.5
    half = onnx.load(tmp_path / "model.fp16.onnx")
    assert {tensor.data_type for tensor in half.graph.initializer} == {onnx.TensorProto.FLOAT16}
    # A smaller export into the same folder removes the files that its certificate does not list.
    assert main(["export", "vgg6", "--no-simplify", "--out", str(tmp_path)]) == 0
    assert names(tmp_path) == ["certificate.json", "fused.pt", "model.onnx"]


def test_a_board_gets_its_onnx_and_the_lines_to_type(tmp_path: Path, capsys: Capture) -> None:
    assert main(["export", "vgg6", "--target", "xavier-jp5", "--no-simplify", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "on the board" in printed and "--fp16" in printed and "--noTF32" in printed
    model = tmp_path / "model.onnx"
    assert f"from the desk: irepdeploy jetson bench USER@HOST {model} --precision fp32,fp16\n" in printed
    certificate = Certificate.load(tmp_path / "certificate.json")
    # TensorRT 8.5 makes fp16 from the fp32 file, by a flag.
    assert names(tmp_path) == ["certificate.json", "fused.pt", "model.onnx"]
    assert certificate.engine["status"] == "to be built on the board" and set(certificate.engine["commands"]) == {
        "fp32",
        "fp16",
    }
    assert "ranges" in certificate.precisions["fp16"]


@pytest.mark.parametrize("options", [("--trt",), ("--target", "rtx")])
def test_without_tensorrt_the_verified_onnx_stays(
    options: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(engines, "installed_version", lambda flavour: None)
    assert main(["export", "vgg6", *options, "--no-simplify", "--out", str(tmp_path)]) == 3
    captured = capsys.readouterr()
    assert "ONNX written and verified; no engine" in captured.err and "not installed here" in captured.err
    assert "model.onnx" in captured.out
    certificate = Certificate.load(tmp_path / "certificate.json")
    assert certificate.ok and certificate.engine["status"] == "not built"
    assert names(tmp_path) == ["certificate.json", "fused.pt", "model.fp16.onnx", "model.onnx"]


def test_another_tensorrt_than_the_targets_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "installed_version", lambda flavour: "11.4.0")
    with pytest.raises(MissingError, match=r"11\.4\.0 is installed here, and trt-10 is for 10"):
        irepdeploy.export_model("vgg6", tmp_path, target="trt-10", precision="fp32", simplify=False)
    assert Certificate.load(tmp_path / "certificate.json").engine["status"] == "not built"


@pytest.mark.trt
def test_engines_are_built_and_not_said_to_run(tmp_path: Path, capsys: Capture) -> None:
    arguments = ["export", "vgg6", "--target", "rtx", "--precision", "fp32,fp16,int8", "--no-simplify"]
    assert main([*arguments, "--out", str(tmp_path), "--json"]) == 0
    value = json.loads(capsys.readouterr().out)
    assert value["engine"]["status"] == "built" and value["engine"]["run"] == "not run"
    assert [built["precision"] for built in value["engine"]["engines"]] == ["fp32", "fp16", "int8"]
    for built in value["engine"]["engines"]:
        # Six convolutions went in.
        assert built["layers"]["convolutions"] == 6 and built["run"] == "not run"
        assert (tmp_path / built["engine"]).stat().st_size == built["size_bytes"]
        assert json.loads((tmp_path / built["sidecar"]).read_text())["precision"] == built["precision"]
    Certificate.load(tmp_path / "certificate.json").check_files(tmp_path)
    assert not any(hop["result"].endswith(".engine") for hop in value["hops"])


def test_what_fp16_cannot_hold_leaves_nothing(tmp_path: Path) -> None:
    model = random_network("vgg6").eval()
    with torch.no_grad():
        model.get_submodule("stages.1.0.bn").weight.mul_(1e6)
    with pytest.raises(CheckFailed, match=r"fp16 overflows: .*stages"):
        irepdeploy.export_model(model, tmp_path, precision="fp16", simplify=False)
    assert names(tmp_path) == ["certificate.failed.json"]


@pytest.mark.parametrize("precision", ["fp8", "", "fp32,half", "fp32;fp16"])
def test_unknown_precisions(precision: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["export", "vgg6", "--precision", precision, "--out", str(tmp_path / "out")]) == 2
    assert "unknown precision" in capsys.readouterr().err and not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="unknown target"):
        irepdeploy.export_model("vgg6", tmp_path / "out", target="xavier")


class Centres(nn.Module):
    """A heat map and its peaks."""

    def __init__(self) -> None:
        super().__init__()
        self.heat = nn.Conv2d(3, 3, 1)
        nn.init.dirac_(self.heat.weight)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return decoded(self.heat(x), 4)


def test_decoding_stays_float32(tmp_path: Path, capsys: Capture) -> None:
    x = np.random.default_rng(0).permutation(2 * 3 * 8 * 9).reshape(2, 3, 8, 9).astype(np.float32) / 64
    batch = (1, 1, 2)
    certificate = irepdeploy.export_model(
        Centres().eval(), tmp_path, inputs=x, precision="fp32,fp16", dynamic_batch=batch, simplify=False
    )
    assert certificate.ok and certificate.onnx["writer"] == "irepdeploy"
    kept = certificate.precisions["fp16"]["kept_operators"]
    assert kept["TopK"] == 2 and kept["Equal"] == 1 and "Conv" not in kept
    assert len(certificate.precisions["fp16"]["kept_float"]) == sum(kept.values())
