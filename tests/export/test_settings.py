"""A dynamic batch, several outputs, and baked preprocessing: each is checked like the rest."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import irepdeploy
from irepdeploy.cli import main
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.verify.certificate import Certificate

Capture = pytest.CaptureFixture[str]


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Any:
        y = self.bn(self.conv(x)).relu()
        return {"features": y, "scores": [self.head(y.mean((2, 3)))]}


def images(count: int = 2) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal((count, 3, 17, 14), dtype=np.float32)


def test_a_free_batch_in_every_precision(tmp_path: Path) -> None:
    certificate = irepdeploy.export_model(
        "vgg6", tmp_path, dynamic_batch=(1, 4, 8), precision="fp32,fp16,int8", simplify=False
    )
    assert certificate.ok and certificate.onnx["inputs"][0]["shape"] == ["N", 1, 16, 16]
    x = np.random.default_rng(1).standard_normal((5, 1, 16, 16), dtype=np.float32)
    net = irepdeploy.load(tmp_path / "fused.pt")
    expected = net(torch.from_numpy(x)).detach().numpy()
    for name, limit in (("model.onnx", 1e-5), ("model.fp16.onnx", 1e-2), ("model.int8.onnx", 0.2)):
        session = onnxruntime.InferenceSession(tmp_path / name, providers=["CPUExecutionProvider"])
        for batch in (1, 5):
            found = session.run(None, {"input": x[:batch]})[0]
            assert np.abs(found - expected[:batch]).max() <= limit * np.abs(expected).max()


def test_a_board_is_told_the_range(tmp_path: Path, capsys: Capture) -> None:
    options = "--target xavier-jp5 --dynamic-batch 1:2:4 --workspace 2GiB --dla 1 --tf32 --no-simplify"
    assert main(["export", "vgg6", *options.split(), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for word in ("--optShapes=input:2x1x16x16", "workspace:2048", "--useDLACore=1"):
        assert word in printed
    assert "--noTF32" not in printed


def test_several_outputs_of_a_network_in_memory(tmp_path: Path) -> None:
    net = randomize_statistics(irepdeploy.insert_branches(TwoOutputs(), "dbb").eval(), 1)
    certificate = irepdeploy.export_model(net, tmp_path, inputs=images(), precision="fp32,fp16", simplify=False)
    assert [output["name"] for output in certificate.onnx["outputs"]] == ["out_0", "out_1"]
    assert [len(hop.comparison["outputs"]) for hop in certificate.hops] == [2, 2, 2, 2]
    named = irepdeploy.export_model(net, tmp_path, inputs=images(), output_names=("map", "classes"), simplify=False)
    assert [output["name"] for output in named.onnx["outputs"]] == ["map", "classes"]
    model = onnx.load(tmp_path / "model.onnx")
    assert {item.name for item in model.graph.output} == {"map", "classes"}


def test_another_input_than_the_network_knows(tmp_path: Path, capsys: Capture) -> None:
    path = irepdeploy.save(randomize_statistics(irepdeploy.build("vgg6")).eval(), tmp_path / "vgg6.pt")
    asked = ["--input-shape", "camera:1x1x40x24", "--no-simplify", "--out", str(tmp_path)]
    assert main(["export", str(path), *asked]) == 0
    certificate = Certificate.load(tmp_path / "certificate.json")
    assert certificate.onnx["inputs"] == [{"name": "camera", "shape": [1, 1, 40, 24], "dtype": "float32"}]
    # The printed command works as it is, though the checkpoint stores 32 by 32 pixels.
    line = capsys.readouterr().err.splitlines()[-1].partition("irepdeploy ")[2]
    assert line.endswith("--input-shape camera:1x1x40x24") and main(shlex.split(line)) == 0
    assert main(["verify", str(tmp_path / "model.onnx"), "--certificate", str(tmp_path / "certificate.json")]) == 0
    assert "not compared" not in capsys.readouterr().out
    for shapes, text in (
        (["1x3x40x24"], "forward does not accept input float32 ?x3x40x24"),
        (["3,40,24"], "expected an input"),
        (["a:1x3x8x8", "b:1x3x8x8"], "forward does not accept a float32 ?x3x8x8, b"),
        (["1x3x8x8", "1x3x8x8"], "several inputs of the same name: input, input"),
    ):
        arguments = [word for shape in shapes for word in ("--input-shape", shape)]
        assert main(["export", "vgg6", *arguments, "--out", str(tmp_path / "out")]) == 2
        err = capsys.readouterr().err
        assert text in err and "Traceback" not in err and not (tmp_path / "out").exists()


@pytest.mark.parametrize("names", [("one",), ("a", "b", "c"), ("same", "same")])
def test_names_that_do_not_fit(names: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(irepdeploy.IrepdeployError, match=r"got [13] names|not distinct"):
        irepdeploy.export_model(TwoOutputs().eval(), tmp_path / "out", inputs=images(), output_names=names)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", ["nhwc,bgr", "nchw,rgb"])
def test_uint8_images_go_in(layout: str, tmp_path: Path) -> None:
    mean, std = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 144, 5)
    net = randomize_statistics(nn.Sequential(*layers)).eval()
    certificate = irepdeploy.export_model(
        net,
        tmp_path,
        inputs=np.random.default_rng(0).standard_normal((4, 3, 12, 12), dtype=np.float32),
        bake_preprocess=layout,
        mean=mean,
        std=std,
        precision="fp32,fp16",
        simplify=False,
    )
    certificate.check_files(tmp_path)
    baked = {hop.result: hop for hop in certificate.hops}
    assert baked["model.onnx, uint8"].ok and baked["model.fp16.onnx, uint8"].ok
    assert certificate.onnx["preprocessing"]["layout"] == layout[:4]
    # Computed manually, from the bytes of a camera to the network.
    pixels = np.random.default_rng(3).integers(0, 256, (1, 12, 12, 3), dtype=np.uint8)
    planes = ((pixels / 255.0 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    expected = irepdeploy.load(tmp_path / "fused.pt", model=net)(torch.from_numpy(planes)).detach().numpy()
    given = pixels[..., ::-1] if layout == "nhwc,bgr" else pixels.transpose(0, 3, 1, 2)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": np.ascontiguousarray(given)})[0]
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--bake-preprocess", "nhwc"], "the normalization of the images is unknown"),
        (["--bake-preprocess", "nhwc", "--mean", "0.5"], "go together"),
        (["--bake-preprocess", "hwc", "--mean", "0.5", "--std", "1"], "unknown"),
        (["--mean", "nan"], "expected numbers such as"),
        (["--mean", "0.5"], "--mean without --bake-preprocess"),
        (["--bake-preprocess", "nhwc", "--mean", "half", "--std", "1"], "expected numbers such as"),
        (["--bake-preprocess", "nhwc", "--mean", "0.5", "--std", "0"], "expected std above 0"),
        (["--dynamic-batch", "4:2:8"], "expected batch sizes MIN:OPT:MAX"),
        (["--workspace", "much"], "expected a memory size"),
        (["--target", "xavier-jp5", "--dla", "7"], "DLA cores"),
    ],
)
def test_options_that_do_not_fit(arguments: list[str], text: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["export", "vgg6", *arguments, "--out", str(tmp_path / "out")]) == 2
    assert text in capsys.readouterr().err and not (tmp_path / "out" / "model.onnx").exists()


def test_a_wrong_preprocessing_is_not_certified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from irepdeploy.export import steps

    true = steps.with_preprocessing

    def broken(model: onnx.ModelProto, spec: Any) -> onnx.ModelProto:
        baked = true(model, spec)
        weight = next(item for item in baked.graph.initializer if list(item.dims)[1:2] == [1])
        array = onnx.numpy_helper.to_array(weight) * np.float32(1.5)
        weight.raw_data = array.astype(np.float32).tobytes()
        return baked

    monkeypatch.setattr(steps, "with_preprocessing", broken)
    arguments = ["--bake-preprocess", "nhwc", "--mean", "0.5", "--std", "0.25", "--no-simplify", "--json"]
    assert main(["export", "vgg6", *arguments, "--out", str(tmp_path)]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["certificate.failed.json"]
    failed = Certificate.load(tmp_path / "certificate.failed.json")
    assert "uint8 differ" in str(failed.failure) and json.dumps(failed.to_dict())
