"""Networks with any inputs: the batch in any dimension or none, any layout, integers, states and scalars."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx.helper import make_node
from torch import nn

import irepdeploy
from irepdeploy.cli import main
from irepdeploy.errors import InputError
from irepdeploy.verify.certificate import Certificate
from support.graph_writer import onnx_model

Capture = pytest.CaptureFixture[str]
RNG = np.random.default_rng(0)


def weight(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.2).astype(np.float32)


def recognizer(batch: int | str) -> onnx.ModelProto:
    """Write a network of lines of text: (N, 1, 8, 20) in, (20, N, 5) out."""
    nodes = [
        make_node("Conv", ["x", "w"], ["c"]),
        make_node("Squeeze", ["c", "two"], ["s"]),
        make_node("Transpose", ["s"], ["y"], perm=[2, 0, 1]),
    ]
    constants = {"w": weight(5, 1, 8, 1), "two": np.array([2], np.int64)}
    return onnx_model(nodes, {"x": (batch, 1, 8, 20)}, {"y": (20, batch, 5)}, constants)


def speech(batch: int | str) -> onnx.ModelProto:
    """Write an audio network with a state of two layers and a sample rate; only one rate works."""
    nodes = [
        make_node("MatMul", ["x", "w"], ["xw"]),
        make_node("ReduceSum", ["state", "zero"], ["memory"], keepdims=0),
        make_node("Add", ["xw", "memory"], ["sum"]),
        make_node("Equal", ["rate", "known"], ["right"]),
        make_node("Cast", ["right"], ["factor"], to=TensorProto.FLOAT),
        make_node("Mul", ["sum", "factor"], ["y"]),
        make_node("Mul", ["state", "half"], ["next"]),
    ]
    constants = {"w": weight(6, 4), "zero": np.array([0]), "known": np.array(16000), "half": 0.5}
    inputs = {"x": (batch, 6), "state": (2, batch, 4), "rate": ()}
    kinds = {"rate": TensorProto.INT64}
    return onnx_model(nodes, inputs, {"y": (batch, 4), "next": (2, batch, 4)}, constants, kinds=kinds)


def choosy() -> onnx.ModelProto:
    """Write a network that runs only at a rate of 3, and does not declare the batch of its output."""
    nodes = [
        make_node("Equal", ["rate", "known"], ["right"]),
        make_node("Where", ["right", "known", "other"], ["width"]),
        make_node("Reshape", ["w", "sizes"], ["wide"]),
        make_node("MatMul", ["x", "wide"], ["y"]),
    ]
    nodes.insert(2, make_node("Concat", ["six", "width"], ["sizes"], axis=0))
    constants = {"w": weight(18), "known": np.array([3]), "other": np.array([5]), "six": np.array([6])}
    kinds = {"rate": TensorProto.INT64}
    return onnx_model(nodes, {"x": ("n", 6), "rate": ()}, {"y": (None, 3)}, constants, kinds=kinds)


def convolution(shape: tuple[Any, ...], channels: int, first: list[onnx.NodeProto], **options: Any) -> onnx.ModelProto:
    nodes = [*first, make_node("Conv", [first[-1].output[0] if first else "x", "w"], ["y"])]
    return onnx_model(
        nodes, {"x": shape}, {"y": (shape[0], 4, None, None)}, {"w": weight(4, channels, 3, 3)}, **options
    )


TRANSPOSED = [make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2])]
CAST = [make_node("Cast", ["x"], ["t"], to=TensorProto.FLOAT)]
TOKENS = onnx_model(
    [make_node("Gather", ["table", "x"], ["e"]), make_node("MatMul", ["e", "w"], ["y"])],
    {"x": ("n", 6)}, {"y": ("n", 6, 3)}, {"table": weight(30, 4), "w": weight(4, 3)}, kinds={"x": TensorProto.INT64},
)  # fmt: skip
MODELS = {
    "text lines, fixed": (recognizer(1), "random, standard normal + photographs"),
    "text lines": (recognizer("n"), "random, standard normal + photographs"),
    "speech, fixed": (speech(1), "random, standard normal, rate 16000"),
    "speech": (speech("n"), "random, standard normal, rate 16000"),
    "one rate runs": (choosy(), "random, standard normal, rate 3"),
    "no batch": (convolution((3, 12, 12), 3, [make_node("Unsqueeze", ["x", "zero"], ["t"])]), ""),
    "channels last": (convolution((1, 12, 12, 3), 3, TRANSPOSED), "random, standard normal + photographs"),
    "four channels": (convolution((1, 4, 12, 12), 4, []), "random, standard normal"),
    "feature maps": (convolution(("n", 64, 6, 6), 64, []), "random, standard normal"),
    "int32": (convolution((1, 3, 8, 8), 3, CAST, kinds={"x": TensorProto.INT32}), "random, x 0 to 1"),
    "bytes": (convolution((1, 3, 8, 8), 3, CAST, kinds={"x": TensorProto.UINT8}), "random, x 0 to 255"),
    "a batch of -1": (convolution((-1, 3, 8, 8), 3, []), "random, standard normal + photographs"),
    "token ids": (TOKENS, "random, x 0 to 29"),
}
unsqueezed = MODELS["no batch"][0].graph
unsqueezed.initializer.append(onnx.numpy_helper.from_array(np.array([0]), "zero"))
unsqueezed.output[0].CopyFrom(onnx.helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 10, 10]))


@pytest.mark.parametrize("name", MODELS)
def test_any_inputs_are_exported_verified_and_measured(name: str, tmp_path: Path, capsys: Capture) -> None:
    model, inputs = MODELS[name]
    path = str(tmp_path / "m.onnx")
    onnx.save(model, path)
    assert main(["export", path, "--out", str(tmp_path / "out"), "--json"]) == 0
    certificate = json.loads(capsys.readouterr().out)
    described = certificate["hops"][0]["inputs"]
    assert " + ".join(group["name"] for group in described).startswith(inputs)
    if name in ("text lines", "speech", "no batch", "bytes"):
        assert main(["verify", path, str(tmp_path / "out/model.onnx")]) == 0
        assert re.sub(r"\b\d+ (?=random|photo)", "", capsys.readouterr().out).count(f"inputs: {inputs}") == 1
        assert main(["bench", path, "--seconds", "0", "--samples", "1", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["input_shape"]


def test_the_certificate_says_where_the_batch_was(tmp_path: Path) -> None:
    onnx.save(speech("n"), tmp_path / "m.onnx")
    certificate = irepdeploy.export_model(tmp_path / "m.onnx", tmp_path / "out")
    (group,) = certificate.hops[0].inputs
    given = {"x": weight(2, 6), "state": weight(2, 2, 4), "rate": np.array(16000)}
    other = irepdeploy.export_model(tmp_path / "m.onnx", tmp_path / "given", inputs=given)
    assert [each["name"] for each in other.hops[0].inputs][1:] == ["given inputs"]
    assert group["shape"] == {"x": [6], "state": [2, 4], "rate": []}
    assert group["axes"] == {
        "inputs": {"x": 0, "state": 1, "rate": None}, "outputs": {"y": 0, "next": 1}, "batch": 1,
    }  # fmt: skip


def test_random_whole_numbers_are_like_the_given_ones(tmp_path: Path) -> None:
    """A width that the graph does not reveal determines whether the network runs at all."""
    nodes = [
        make_node("Concat", ["one", "width"], ["times"], axis=0),
        make_node("Tile", ["x", "times"], ["wide"]),
        make_node("MatMul", ["wide", "w"], ["y"]),
    ]
    inputs, kinds = {"x": ("n", 6), "width": (1,)}, {"width": TensorProto.INT64}
    constants = {"w": weight(18, 4), "one": np.array([1])}
    onnx.save(onnx_model(nodes, inputs, {"y": (None, 4)}, constants, kinds=kinds), tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"pass real ones with --inputs"):
        irepdeploy.export_model(tmp_path / "m.onnx", tmp_path / "out")
    given = {"x": weight(2, 6), "width": np.array([3])}
    certificate = irepdeploy.export_model(tmp_path / "m.onnx", tmp_path / "out", inputs=given)
    names = [group["name"] for group in certificate.hops[0].inputs]
    assert names == ["random, standard normal, width 3", "given inputs"]


def test_given_inputs_as_the_network_takes_them(tmp_path: Path, capsys: Capture) -> None:
    onnx.save(speech("n"), tmp_path / "m.onnx")
    arrays = {"x": weight(3, 6), "state": weight(2, 3, 4), "rate": np.array(16000)}
    np.savez(tmp_path / "x.npz", **arrays)
    model, inputs = str(tmp_path / "m.onnx"), str(tmp_path / "x.npz")
    assert main(["verify", model, model, "--inputs", inputs]) == 0
    assert "8 random, standard normal, rate 16000 + 3 " in capsys.readouterr().out
    np.savez(tmp_path / "x.npz", **{**arrays, "state": weight(3, 3, 4)})
    assert main(["verify", model, model, "--inputs", inputs]) == 2
    assert "expected shape (N, 2, 4) or 2x?x4, got (3, 3, 4)" in capsys.readouterr().err


def test_forms_with_a_free_and_with_a_fixed_batch_are_the_same(tmp_path: Path) -> None:
    free = recognizer("n")
    fixed = onnx.ModelProto.FromString(free.SerializeToString())
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    fixed.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 2
    for name, model in (("a", free), ("b", fixed)):
        onnx.save(model, tmp_path / f"{name}.onnx")
    assert main(["verify", str(tmp_path / "a.onnx"), str(tmp_path / "b.onnx")]) == 0
    assert main(["verify", str(tmp_path / "b.onnx"), str(tmp_path / "a.onnx")]) == 0


class Listener(nn.Module):
    """Takes sound, a state of two layers and a gain; returns scores by time first, and the next state."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor, state: torch.Tensor, gain: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scores = self.linear(x) * gain + state.sum(0).unsqueeze(1)
        return scores.transpose(0, 1), state * 0.5


class Words(nn.Module):
    """Takes token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.linear = nn.Embedding(11, 4), nn.Linear(4, 3)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.linear(self.table(ids)).mean(1)


def test_a_torch_network_with_a_state_and_time_first(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shapes = ["x:1x5x6", "state:2x1x4", "gain:scalar"]
    certificate = irepdeploy.export_model(Listener().eval(), tmp_path, input_shape=shapes)
    assert certificate.ok
    model = onnx.load(tmp_path / "model.onnx")
    sizes = [[dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in model.graph.input]
    assert sizes == [[1, 5, 6], [2, 1, 4], []]
    (group, *_) = certificate.hops[0].inputs
    assert group["axes"]["inputs"] == {"x": 0, "state": 1, "gain": None}
    assert list(group["axes"]["outputs"].values()) == [1, 1]
    assert main(["verify", str(tmp_path / "model.onnx"), "--certificate", str(tmp_path / "certificate.json")]) == 0
    # The network that the export saved knows its inputs.
    assert irepdeploy.load(tmp_path / "fused.pt", model=Listener) is not None


def test_a_torch_network_of_token_ids(tmp_path: Path) -> None:
    torch.manual_seed(0)
    certificate = irepdeploy.export_model(Words().eval(), tmp_path, input_shape="ids:1x7:int64")
    assert certificate.ok and certificate.hops[0].inputs[0]["name"] == "random, ids 0 to 10"


class Recurrent(nn.Module):
    """Token ids (T, N), with two reserved, to states (T, N, C) and the last one (1, N, C)."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.cell = nn.Parameter(torch.randn(20, 4)), nn.GRU(4, 3)

    def forward(self, ids: torch.Tensor) -> Any:
        return self.cell(self.table[ids + 2])


class Mixed(nn.Module):
    def forward(self, x: torch.Tensor, state: torch.Tensor) -> Any:
        return torch.tanh(x) + state.sum(0), state * 2


def test_a_dynamic_batch_on_the_second_axis(tmp_path: Path) -> None:
    net = Recurrent().eval()
    certificate = irepdeploy.export_model(
        net, tmp_path, input_shape="ids:7x?:int64", dynamic_batch=(1, 2, 4), simplify=False
    )
    (group,) = certificate.hops[0].inputs
    assert group["name"] == "random, ids 0 to 17"
    assert group["axes"] == {"inputs": {"ids": 1}, "outputs": {"out_0": 1, "out_1": 1}, "batch": None}
    graph = onnx.load(tmp_path / "model.onnx").graph
    sizes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.output)
    }
    assert sizes == {"ids": [7, "N"], "out_0": [7, "N", 3], "out_1": [1, "N", 3]}
    # A network that irepdeploy's own writer takes.
    irepdeploy.export_model(
        Mixed().eval(), tmp_path / "m", input_shape=["x:?x4", "state:2x?x4"], dynamic_batch=(1, 2, 4), simplify=False
    )
    assert main(["verify", str(tmp_path / "m/model.onnx"), str(tmp_path / "m/model.onnx")]) == 0


@pytest.mark.parametrize(
    ("count", "free", "axes"),
    [(5, True, {"x": 0, "state": 1}), (1, False, {"x": 0, "state": 1}), (5, False, {"x": None, "state": None})],
)
def test_the_batch_of_a_program_is_where_it_says(count: int, free: bool, axes: dict[str, Any], tmp_path: Path) -> None:
    batch = torch.export.Dim("N")
    program = torch.export.export(
        Mixed().eval(),
        (torch.randn(count, 4), torch.randn(2, count, 4)),
        dynamic_shapes=({0: batch}, {1: batch}) if free else None,
    )
    torch.export.save(program, tmp_path / "m.pt2")
    certificate = irepdeploy.export_model(tmp_path / "m.pt2", tmp_path / "o", simplify=False)
    assert certificate.hops[0].inputs[0]["axes"]["inputs"] == axes


def test_a_batch_that_is_asked_for(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    assert irepdeploy.export_model(net, tmp_path, input_shape=(4, 3, 8, 8)).ok
    assert onnx.load(tmp_path / "model.onnx").graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    with pytest.raises(InputError, match="every size but that of the batch"):
        irepdeploy.export_model(net, tmp_path, input_shape="1x3x?x8")


def test_bench_takes_a_file_with_built_in_preprocessing(tmp_path: Path, capsys: Capture) -> None:
    onnx.save(convolution((1, 3, 8, 8), 3, []), tmp_path / "m.onnx")
    baked = ["--bake-preprocess", "nhwc,rgb", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
    assert main(["export", str(tmp_path / "m.onnx"), "--out", str(tmp_path), *baked]) == 0
    assert main(["bench", str(tmp_path / "model.onnx"), "--seconds", "0", "--samples", "1"]) == 0
    assert "input 1x8x8x3" in capsys.readouterr().out
    assert Certificate.load(tmp_path / "certificate.json").ok


class BatchIntoChannels(nn.Module):
    """Images become channels of one image: (N, 3, 9, 11) in, (1, 4 N, 7, 9) out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.conv(images).reshape(1, -1, 7, 9)


def test_an_output_with_the_batch_among_its_channels(tmp_path: Path, capsys: Capture) -> None:
    torch.manual_seed(0)
    net = BatchIntoChannels().eval()
    assert irepdeploy.export_model(net, tmp_path, input_shape=(2, 3, 9, 11)).ok
    found = onnx.load(tmp_path / "model.onnx").graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in found] == [1, 8, 7, 9]
    model = onnx_model(
        [make_node("Conv", ["x", "w"], ["c"]), make_node("Reshape", ["c", "sizes"], ["y"])],
        {"x": ("N", 3, 9, 11)},
        {"y": (1, None, 7, 9)},
        {"w": net.conv.weight.detach().numpy(), "sizes": np.array([1, -1, 7, 9])},
    )
    onnx.save(model, tmp_path / "m.onnx")
    assert main(["export", str(tmp_path / "m.onnx"), "--out", str(tmp_path / "o")]) == 0
    assert main(["verify", str(tmp_path / "m.onnx"), str(tmp_path / "o/model.onnx")]) == 0
    wrong = onnx.load(tmp_path / "m.onnx")
    wrong.graph.initializer[0].CopyFrom(
        onnx.numpy_helper.from_array(-net.conv.weight.detach().numpy(), wrong.graph.initializer[0].name)
    )
    onnx.save(wrong, tmp_path / "wrong.onnx")
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "m.onnx"), str(tmp_path / "wrong.onnx")]) == 1
