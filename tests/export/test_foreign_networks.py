"""Networks of foreign classes: nothing to insert, names like ours, foreign blocks."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import irepdeploy
from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.board.runner import TensorSpec
from irepdeploy.cli import main
from irepdeploy.errors import CheckFailed, IrepdeployError, ModelError
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.verify.certificate import Certificate
from support.published_blocks import MobileOneBlock, RepVGGBlock, conv_bn


class ConvNeXtBlock(nn.Module):
    """A depthwise 7x7, layer normalization with the channels last, a bottleneck, a layer scale."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.wide, self.narrow = nn.Linear(channels, 2 * channels), nn.Linear(2 * channels, channels)
        self.gamma = nn.Parameter(torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.narrow(F.gelu(self.wide(y))) * self.gamma
        return x + y.permute(0, 3, 1, 2)


def convnext() -> nn.Module:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
    return nn.Sequential(nn.Conv2d(3, 8, 4, 4), ConvNeXtBlock(8), nn.Conv2d(8, 8, 2, 2), ConvNeXtBlock(8), *head)


class Patches(nn.Module):
    """Tokens of 4x4 patches with a class token and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.token = nn.Conv2d(3, 8, 4, 4), nn.Parameter(torch.randn(1, 1, 8))
        self.norm, self.qkv, self.head = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.embed(x).flatten(2).transpose(1, 2)
        y = torch.cat([self.token.expand(len(y), -1, -1), y], 1)
        q, k, v = self.qkv(self.norm(y)).reshape(len(y), y.shape[1], 3, 2, 4).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return self.head((y + mixed)[:, 0])


class Branches(nn.Module):
    """HRNet's names, and those that a RepBlock has."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleList([conv_bn(3, 4, 3, 1, 1), conv_bn(3, 4, 3, 2, 1)])
        self.stage = nn.Module()
        self.stage.fixed = nn.Module()
        self.stage.fixed.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.stage.branches = nn.ModuleDict({"conv1x1": nn.Conv2d(4, 4, 1)})

    def forward(self, x: Tensor) -> Tensor:
        y = self.branches[0](x) + F.interpolate(self.branches[1](x), x.shape[2:])
        return self.stage.fixed.conv(y.relu()) + self.stage.branches["conv1x1"](y.relu())


class Captured(nn.Module):
    """A function holds a layer, which a copy of the network would share with it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv = nn.Conv2d(3, 4, 3)
        self.call = lambda x: conv(x).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.call(x)


class Watched(nn.Module):
    """Depends on the class of its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if type(self.conv) is nn.Conv2d else self.other(x)


class Recurrent(nn.Module):
    """Reads one row after the other."""

    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.rows, self.head = kind(12, 5, batch_first=True, bidirectional=True), nn.Linear(10, 4)

    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        return self.head(self.rows(x.permute(0, 3, 1, 2).flatten(2)[..., :12], state)[0])


FOREIGN: dict[str, Callable[[], nn.Module]] = {
    "convnext": convnext,
    "patches": Patches,
    "mlp": lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 20, 8), nn.ReLU(), nn.Linear(8, 3)),
    "names": Branches,
    "captured": Captured,
    "class": Watched,
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
    "1-D": lambda: nn.Sequential(nn.Flatten(2), nn.Conv1d(3, 4, 3, 2, 1), nn.BatchNorm1d(4), nn.ReLU()),
}


def written(folder: Path, x: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    with OrtRunner(folder / "model.onnx") as runner:
        return list(runner.infer({runner.inputs[0].name: x}).values())


@pytest.mark.parametrize("name", FOREIGN)
def test_a_network_that_branches_do_not_fit(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = randomize_statistics(FOREIGN[name]()).eval()
    certificate = irepdeploy.export_model(net, tmp_path, input_shape=(1, 3, 16, 20), simplify=False)
    assert certificate.ok
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 20), dtype=np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(x)).numpy()
    assert np.abs(written(tmp_path, x)[0] - expected).max() <= 1e-5 * np.abs(expected).max()


class Ranked(nn.Module):
    """Many scores whose differences vanish in float16."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(1).topk(500)[1].float()


def test_an_order_that_rounding_changes_is_explained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    with pytest.raises(CheckFailed, match="fp16") as caught:
        irepdeploy.export_model(Ranked().eval(), tmp_path, input_shape="1x3x24x24", precision="fp16", simplify=False)
    assert "TopK" in str(caught.value.hint)


def test_a_scripted_layer_is_one_line(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU()))
    net = nn.Sequential(nn.Conv2d(3, 4, 3), scripted).eval()
    with warnings.catch_warnings(), pytest.raises(ModelError, match="scripted modules are not supported"):
        warnings.simplefilter("ignore", DeprecationWarning)
        irepdeploy.export_model(net, tmp_path, input_shape="1x3x8x9", simplify=False)


class Squeeze(nn.Module):
    """Squeeze-and-excite with a mean as pooling."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.up(self.down(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class RepViTBlock(nn.Module):
    """A depthwise 3x3 beside a depthwise 1x1 and the input, then normalization (Wang et al., 2024)."""

    def __init__(self, channels: int, *, squeeze: bool) -> None:
        super().__init__()
        self.conv = conv_bn(channels, channels, 3, 1, 1, groups=channels)
        self.conv1 = nn.Conv2d(channels, channels, 1, groups=channels)
        self.bn = nn.BatchNorm2d(channels)
        self.se = Squeeze(channels) if squeeze else nn.Identity()
        self.mix = nn.Sequential(conv_bn(channels, 2 * channels, 1), nn.GELU(), conv_bn(2 * channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.se(self.bn(self.conv(x) + self.conv1(x) + x))
        return y + self.mix(y)


def repvgg() -> nn.Module:
    return nn.Sequential(RepVGGBlock(3, 8, 2), RepVGGBlock(8, 8), RepVGGBlock(8, 12, 2, groups=2))


def mobileone() -> nn.Module:
    layers = [MobileOneBlock(8, 8, 3, 1, groups=8), MobileOneBlock(8, 12, 1)]
    return nn.Sequential(MobileOneBlock(3, 8, 3, 2), *layers)


def repvit() -> nn.Module:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, 5))
    return nn.Sequential(conv_bn(3, 8, 3, 2, 1), nn.GELU(), RepViTBlock(8, squeeze=True), *head)


@pytest.mark.parametrize(
    ("build", "before", "deploy"),
    [(repvgg, 6, 3), (mobileone, 11, 3), (repvit, 7, 6)],
    ids=lambda item: getattr(item, "__name__", str(item)),
)
def test_blocks_of_others_collapse(
    build: Callable[[], nn.Module], before: int, deploy: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    net = randomize_statistics(build()).eval()
    x = np.random.default_rng(0).standard_normal((3, 3, 19, 14), dtype=np.float32)
    certificate = irepdeploy.export_model(net, tmp_path, inputs=x, simplify=False)
    found = certificate.onnx["collapse"]
    assert found["changed"] and found["convolutions"] == {"before": before, "after": deploy}
    assert any(region["collapsed"] and region["error_border"] is not None for region in found["regions"])
    assert [hop.result for hop in certificate.hops][-2:] == ["collapsed", "model.onnx"]
    operators = Counter(node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node)
    assert operators["Conv"] == deploy == certificate.onnx["operators"]["Conv"]
    assert not operators["BatchNormalization"]
    with torch.no_grad():
        expected = net(torch.from_numpy(x[:1])).numpy()
    assert np.abs(written(tmp_path, x[:1])[0] - expected).max() <= 1e-5 * np.abs(expected).max()
    kept = irepdeploy.export_model(net, tmp_path / "kept", inputs=x, simplify=False, collapse=False)
    assert kept.onnx["operators"]["Conv"] == before and kept.onnx["collapse"]["note"] == "collapse is switched off"


def factory() -> nn.Module:
    torch.manual_seed(0)
    return randomize_statistics(repvgg()).eval()


def test_the_command_says_what_collapsed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    net = irepdeploy.save(factory(), tmp_path / "net.pt", input_shape=(3, 16, 16))
    options = ["--model", f"{__name__}:factory", "--no-simplify", "--out"]
    assert main(["export", str(net), *options, str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "convolutions 6 -> 3" in printed and "3 proved in float64" in printed and "blocks fused" in printed
    assert Certificate.load(tmp_path / "out" / "certificate.json").onnx["collapse"]["regions"]
    assert main(["export", str(net), *options, str(tmp_path / "kept"), "--no-collapse"]) == 0
    assert "collapsed" not in capsys.readouterr().out


@pytest.mark.slow
def test_as_deep_as_repvgg_a0(tmp_path: Path) -> None:
    depths, widths = (1, 2, 4, 14, 1), (4, 4, 8, 8, 12)
    blocks, channels = [], 3
    for depth, width in zip(depths, widths, strict=True):
        blocks += [RepVGGBlock(channels if not i else width, width, 1 if i else 2) for i in range(depth)]
        channels = width
    net = randomize_statistics(nn.Sequential(*blocks)).eval()
    certificate = irepdeploy.export_model(net, tmp_path, input_shape=(1, 3, 64, 64))
    operators = certificate.onnx["operators"]
    assert operators == {"Conv": 22, "Relu": 22}


@pytest.mark.parametrize(
    "shape",
    [
        (1, 3, 16, 16), [1, 3, 16, 16], torch.Size([1, 3, 16, 16]), "1x3x16x16", "image:1x3x16x16",
        TensorSpec("image", (1, 3, 16, 16)), [(1, 3, 16, 16)], {"image": (1, 3, 16, 16)},
    ],
)  # fmt: skip
def test_sizes_as_people_write_them(shape: Any, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    certificate = irepdeploy.export_model(net, tmp_path, input_shape=shape, simplify=False)
    assert certificate.onnx["inputs"][0]["shape"] == [1, 3, 16, 16]
    assert certificate.onnx["inputs"][0]["name"] == ("image" if "image" in str(shape) else "input")


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"input_shape": (3, 16, 16)}, r"batch, 1, before.*got \(3, 16, 16\)"),
        ({"input_shape": (1, -3, 16, 16)}, "expected the sizes of an input"),
        ({"input_shape": 16}, "expected the sizes of an input, got 16"),
        ({"input_shape": "1xCxHxW"}, "1xCxHxW"),
        ({"input_shape": [(1, 3, 16, 16), None]}, "expected the sizes of an input, got None"),
        ({"presicion": "fp16"}, "unknown setting 'presicion' .did you mean precision"),
        ({"quantity": 3}, "unknown setting 'quantity' .one of precision"),
        ({"precision": 16}, "precision: expected precisions such as"),
        ({"dynamic_batch": (1, 8)}, "dynamic_batch: expected"),
        ({"dynamic_batch": (8, 1, 1)}, "dynamic_batch: expected"),
        ({"border": "keep"}, "border: expected 'refuse' or 'map', got 'keep'"),
        ({"max_drop": "1"}, "max_drop: expected"),
        ({"mean": 3}, "mean: expected"),
        ({"output_names": "logits"}, "output_names: expected"),
        ({"timeout_s": 0}, "timeout_s: expected"),
        ({"input_shape": (1, 3, 16.0, 16)}, r"expected the sizes of an input, got \(1, 3, 16\.0, 16\)"),
        ({"simplify": "no"}, "simplify: expected True or False, got 'no'"),
        ({"timing_cache": 3}, "timing_cache: expected a file"),
        ({"seed": -1}, "seed: expected a whole number"),
        ({"seed": "a"}, "seed: expected a whole number"),
        ({"model_factory": 3}, "model_factory: expected a function"),
        ({"inputs": 3}, "inputs: expected arrays of integers or floats with a batch dimension, got int"),
        ({"inputs": [[1.0], [1.0, 2.0]]}, "inputs: expected arrays"),
        ({"out": 3}, "out: expected a folder, got 3"),
        ({"source": None}, "source: expected a network, a file or a name, got NoneType"),
        ({"source": nn.Conv2d}, r"got Conv2d .call it"),
    ],
    ids=str,
)
def test_settings_that_are_wrong(settings: dict[str, Any], text: str, tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    given = {"source": net, "out": tmp_path / "out", "input_shape": (1, 3, 16, 16), **settings}
    with pytest.raises(IrepdeployError, match=text) as error:
        irepdeploy.export_model(**given)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out" / "model.onnx").exists()


def test_a_batch_of_one_number(tmp_path: Path) -> None:
    certificate = irepdeploy.export_model("vgg6", tmp_path, dynamic_batch="1:2:4", simplify=False)
    assert certificate.onnx["inputs"][0]["shape"][0] == "N"


@pytest.mark.parametrize("kind", ["tensor", "list", "double", "rows"])
def test_inputs_as_people_hold_them(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 3, 8, 8)
    given = {"tensor": x, "list": [x], "double": x.double().numpy(), "rows": x.tolist()}[kind]
    monkeypatch.chdir(tmp_path)
    certificate = irepdeploy.export_model(nn.Conv2d(3, 4, 3).eval(), inputs=given, simplify=False)
    assert certificate.ok and certificate.onnx["inputs"][0]["shape"] == [1, 3, 8, 8]
    # Without a folder it is that of the command.
    assert (tmp_path / "Conv2d-export" / "model.onnx").exists()
