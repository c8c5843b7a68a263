"""Whole exports of networks with several inputs, integer inputs, and inputs other than images."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import irepdeploy
from irepdeploy.board.runner import TensorSpec
from irepdeploy.cli import main
from irepdeploy.errors import CheckFailed, CheckpointError, InputError
from irepdeploy.export import network_export
from irepdeploy.reparam.origin import Origin, origin_of, with_inputs
from irepdeploy.verify.certificate import Certificate
from irepdeploy.verify.equivalence import verify_models

Capture = pytest.CaptureFixture[str]
SHAPES = ("--input-shape", "image:1x3x16x12", "--input-shape", "vector:1x5", "--input-shape", "tokens:1x7:int64")


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.words, self.head = nn.Embedding(2, 4), nn.Linear(8 + 5 + 4, 6)

    def forward(self, image: Tensor, vector: Tensor, tokens: Tensor) -> Tensor:
        seen = self.bn(self.conv(image)).relu().mean((2, 3))
        return self.head(torch.cat([seen, vector, self.words(tokens).mean(1)], 1))


class Difference(nn.Module):
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return a - 2 * b


def mixed() -> nn.Module:
    torch.manual_seed(0)
    return Mixed().eval()


def arrays(count: int = 3) -> dict[str, np.ndarray[Any, Any]]:
    random = np.random.default_rng(0)
    return {
        "image": random.standard_normal((count, 3, 16, 12), dtype=np.float32),
        "vector": random.standard_normal((count, 5), dtype=np.float32),
        "tokens": random.integers(0, 2, (count, 7)),
    }


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    model = irepdeploy.insert_branches(mixed(), "ireps").eval()
    return irepdeploy.save(model, tmp_path / "mixed.pt")


@pytest.fixture
def factory(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(sys.modules, "mixed_for_export", SimpleNamespace(mixed=mixed))
    return "mixed_for_export:mixed"


def run(path: Path, feeds: dict[str, np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def test_the_command(checkpoint: Path, factory: str, tmp_path: Path, capsys: Capture) -> None:
    ours = ("--model", factory, "--out", str(tmp_path / "out"))
    assert main(["export", str(checkpoint), *SHAPES, *ours, "--precision", "fp32,fp16"]) == 0
    certificate = Certificate.load(tmp_path / "out" / "certificate.json")
    assert [(value["name"], value["shape"], value["dtype"]) for value in certificate.onnx["inputs"]] == [
        ("image", [1, 3, 16, 12], "float32"),
        ("vector", [1, 5], "float32"),
        ("tokens", [1, 7], "int64"),
    ]
    assert [hop.result for hop in certificate.hops] == ["fused state", "model.onnx", "model.onnx", "model.fp16.onnx"]
    random, real = certificate.hops[0].inputs
    assert random == {
        "name": "random, standard normal, tokens 0 to 1",
        "count": 8,
        "shape": {"image": [3, 16, 12], "vector": [5], "tokens": [7]},
        "seed": 0,
    }
    assert real["count"] == 64
    assert real["name"] == "photographs (scikit-learn) for image, random for vector and tokens"
    assert "64 photographs (scikit-learn) for image" in capsys.readouterr().out
    # The checkpoint records its inputs: no option is needed again.
    fused = tmp_path / "out" / "fused.pt"
    assert [spec.name for spec in origin_of(irepdeploy.load(fused, model=mixed)).inputs] == [*arrays()]
    assert main(["export", str(fused), "--model", factory, "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "model.onnx").read_bytes() == (tmp_path / "out" / "model.onnx").read_bytes()
    # The exported checkpoint does not declare its inputs, but the ONNX file next to it does.
    for pair in ((checkpoint, tmp_path / "out" / "model.onnx"), (tmp_path / "out" / "model.onnx", fused)):
        assert main(["verify", *map(str, pair), "--model", factory]) == 0
    assert "64 photographs (scikit-learn) for image" in capsys.readouterr().out


def test_the_outputs_are_the_networks(tmp_path: Path) -> None:
    net, given = mixed(), arrays()
    certificate = irepdeploy.export_model(net, tmp_path, inputs=given, simplify=False)
    assert certificate.ok and [group["count"] for group in certificate.hops[0].inputs] == [8, 3]
    expected = net(*map(torch.from_numpy, given.values())).detach().numpy()
    for row in range(3):
        found = run(tmp_path / "model.onnx", {name: array[row : row + 1] for name, array in given.items()})
        assert np.abs(found - expected[row]).max() < 1e-5
    # A network in memory keeps its own facts.
    assert origin_of(net).inputs == ()


@pytest.mark.parametrize("kind", [tuple, list])
def test_inputs_in_the_order_of_forward(kind: type, tmp_path: Path) -> None:
    net, given = mixed(), kind(map(torch.from_numpy, arrays().values()))
    certificate = irepdeploy.export_model(net, tmp_path, inputs=given, simplify=False)
    assert [value["name"] for value in certificate.onnx["inputs"]] == [*arrays()]
    assert [group["count"] for group in certificate.hops[0].inputs] == [8, 3]
    model = tmp_path / "model.onnx"
    for pair in ((net, model), (model, net), (net, mixed())):
        found = verify_models(*pair, given)
        assert found.ok and [group.count for group in found.inputs] == [8, 3]
        for name, array in found.inputs[1].array.items():
            assert np.array_equal(array, arrays()[name])


def test_a_free_batch(tmp_path: Path) -> None:
    net, given = mixed(), arrays(5)
    certificate = irepdeploy.export_model(net, tmp_path, inputs=given, dynamic_batch=(1, 2, 8), simplify=False)
    assert [value["shape"][0] for value in certificate.onnx["inputs"]] == ["N", "N", "N"]
    expected = net(*map(torch.from_numpy, given.values())).detach().numpy()
    assert np.abs(run(tmp_path / "model.onnx", given) - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("names", "first", "second"), [("ab", "a", "b"), ("ba", "a", "b"), ("xy", "x", "y"), ("xb", "x", "b")]
)
def test_names_of_forward_decide_and_otherwise_its_order(names: str, first: str, second: str, tmp_path: Path) -> None:
    specs = [TensorSpec(name, (1, 4)) for name in names]
    assert irepdeploy.export_model(Difference().eval(), tmp_path, input_shape=specs, simplify=False).ok
    values = {first: np.full((1, 4), 5, np.float32), second: np.ones((1, 4), np.float32)}
    assert run(tmp_path / "model.onnx", values).ravel().tolist() == [3.0] * 4


def test_the_name_of_another_parameter_is_refused(tmp_path: Path) -> None:
    specs = [TensorSpec(name, (1, 4)) for name in "xa"]
    with pytest.raises(InputError, match=r"'a' is parameter 1 of forward\(a, b\), but input 2"):
        irepdeploy.export_model(Difference().eval(), tmp_path / "o", input_shape=specs)
    assert not (tmp_path / "o").exists()


def test_one_vector(tmp_path: Path, capsys: Capture) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 5)).eval()
    certificate = irepdeploy.export_model(net, tmp_path, input_shape=TensorSpec("x", (1, 16)), simplify=False)
    assert certificate.ok and certificate.onnx["inputs"] == [{"name": "x", "shape": [1, 16], "dtype": "float32"}]
    # There are no real inputs of this form, so more random ones are used, and the certificate says so.
    assert [(group["name"], group["count"]) for group in certificate.hops[0].inputs] == [
        ("random, standard normal", 64)
    ]
    assert irepdeploy.export_model(net, tmp_path, inputs=np.ones((3, 16), np.float32), simplify=False).ok
    path = irepdeploy.save(net, tmp_path / "m.pt", input_shape=(16,))
    model = str(tmp_path / "model.onnx")
    assert main(["verify", model, model]) == 0 and "64 random, standard normal" in capsys.readouterr().out
    assert irepdeploy.load(path, model=net).irepdeploy_origin.input_shape == (16,)


def test_tokens_alone(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Embedding(2, 4), nn.Flatten(), nn.Linear(28, 5)).eval()
    certificate = irepdeploy.export_model(net, tmp_path, input_shape=TensorSpec("tokens", (1, 7), "int64"))
    assert certificate.ok and certificate.onnx["inputs"][0]["dtype"] == "int64"
    fused = irepdeploy.load(tmp_path / "fused.pt", model=net)
    assert origin_of(fused).specs == (TensorSpec("tokens", (None, 7), "int64"),)


def test_a_checkpoint_stores_the_inputs_that_examples_show(factory: str, tmp_path: Path, capsys: Capture) -> None:
    net, given = mixed(), arrays()
    specs = [TensorSpec(name, (None, *each.shape[1:]), each.dtype.name) for name, each in given.items()]
    swapped = dict(reversed(given.items()))
    for place, examples in enumerate((tuple(given.values()), swapped, [*map(torch.from_numpy, given.values())])):
        path = irepdeploy.save(net, tmp_path / f"{place}.pt", factory=factory, inputs=examples)
        assert list(origin_of(irepdeploy.load(path, model=mixed)).specs) == specs
    # Saving does not change the network.
    assert origin_of(net).specs == ()
    ours = ("--model", factory)
    assert main(["export", str(path), *ours, "--no-simplify", "--out", str(tmp_path / "out")]) == 0
    line = capsys.readouterr().err.splitlines()[-1].partition("irepdeploy ")[2]
    assert "--input-shape" not in line and main(shlex.split(line)) == 0
    capsys.readouterr()
    shapes = ("--input-shape", "vector:2x5", "--input-shape", "image:2x3x9x9", "--seconds", "0", "--samples", "2")
    assert main(["bench", str(path), *ours, *shapes]) == 0
    assert "image 2x3x9x9, vector 2x5, tokens 2x7" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("inputs", "spec"),
    [
        (torch.ones(2, 3, 9, 9), TensorSpec("input", (None, 3, 9, 9))),
        (np.ones((2, 3, 9, 9)), TensorSpec("input", (None, 3, 9, 9))),
        (torch.ones(2, 9, dtype=torch.int64), TensorSpec("input", (None, 9), "int64")),
        ({"x": torch.ones(9, 1, 4)}, TensorSpec("x", (None, 1, 4))),
    ],
    ids=["image", "doubles", "tokens", "name"],
)
def test_an_example_of_one_input(inputs: Any, spec: TensorSpec, tmp_path: Path) -> None:
    net = nn.Flatten().eval()
    irepdeploy.save(net, tmp_path / "m.pt", inputs=inputs)
    assert origin_of(irepdeploy.load(tmp_path / "m.pt", model=net)).specs == (spec,)
    for options in ({"input_shape": (3, 9, 9)}, {"inputs": "x.npy"}, {"inputs": [object()]}):
        with pytest.raises(InputError, match=r"both describe|expected arrays"):
            irepdeploy.save(net, tmp_path / "no.pt", **{"inputs": inputs, **options})
    assert not (tmp_path / "no.pt").exists()


def test_inputs_from_files(checkpoint: Path, factory: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "some").mkdir()
    for name, count in (("a", 2), ("b", 3)):
        np.savez(tmp_path / "some" / f"{name}.npz", **arrays(count))
    # They also determine the inputs of the network.
    ours = ("--model", factory, "--no-simplify", "--json")
    assert (
        main(["export", str(checkpoint), "--inputs", str(tmp_path / "some"), "--out", str(tmp_path / "1"), *ours]) == 0
    )
    assert [group["count"] for group in json.loads(capsys.readouterr().out)["hops"][0]["inputs"]] == [8, 5]
    np.save(tmp_path / "x.npy", arrays()["image"])
    np.savez(tmp_path / "two.npz", image=arrays()["image"], vector=arrays()["vector"])
    np.savez(tmp_path / "uneven.npz", **{**arrays(), "vector": arrays(4)["vector"]})
    np.savez(tmp_path / "kind.npz", **{**arrays(), "tokens": arrays()["tokens"].astype(np.int32)})
    (tmp_path / "torn.npz").write_bytes((tmp_path / "two.npz").read_bytes()[:500])
    for name, text in (
        ("x.npy", "expected 3 arrays, got one"),
        ("two.npz", "expected arrays image, vector, tokens, got image, vector"),
        ("uneven.npz", "the same number of inputs for each name"),
        ("kind.npz", "expected dtype int64, got int32"),
        ("torn.npz", "not a readable archive"),
    ):
        given = ("--inputs", str(tmp_path / name), "--out", str(tmp_path / "2"))
        assert main(["export", str(checkpoint), *SHAPES, *given, *ours]) == 2
        err = capsys.readouterr().err
        assert text in err and name in err and "Traceback" not in err and not (tmp_path / "2").exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda given: given["image"], r"expected 3 arrays \(image, vector, tokens\), got 1"),
        (lambda given: tuple(given.values())[:2], r"expected 3 arrays \(image, vector, tokens\), got 2"),
        (lambda given: {**given, "more": given["vector"]}, "expected arrays"),
        (lambda given: {**given, "vector": given["vector"][:, :4]}, r"vector: expected shape .*, got \(3, 4\)"),
        (lambda given: {**given, "vector": given["vector"] * np.float32("nan")}, "vector: contains NaN"),
        (
            lambda given: {**given, "image": ["text"]},
            "inputs: expected arrays of integers or floats with a batch dimension, got list",
        ),
    ],
)
def test_inputs_that_do_not_fit(change: Callable[[Any], Any], text: str, tmp_path: Path) -> None:
    specs = [TensorSpec(name, (1, *array.shape[1:]), array.dtype.name) for name, array in arrays().items()]
    with pytest.raises(InputError, match=text):
        irepdeploy.export_model(mixed(), tmp_path / "out", input_shape=specs, inputs=change(arrays()))
    assert not (tmp_path / "out").exists()


def test_baking_needs_one_image(checkpoint: Path, factory: str, tmp_path: Path, capsys: Capture) -> None:
    arguments = ["export", str(checkpoint), *SHAPES, "--model", factory, "--out", str(tmp_path / "out")]
    assert main([*arguments, "--bake-preprocess", "nhwc", "--mean", "0", "--std", "1"]) == 2
    err = capsys.readouterr().err
    assert "--bake-preprocess: expected a network of one float32 image, got image float32 ?x3x16x12, vector" in err
    assert err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_int8(tmp_path: Path) -> None:
    given = arrays(32)
    certificate = irepdeploy.export_model(mixed(), tmp_path, inputs=given, precision="fp32,int8", simplify=False)
    assert certificate.ok and certificate.precisions["int8"]["measured_on"]["name"] == "given inputs"
    session = onnxruntime.InferenceSession(tmp_path / "model.int8.onnx", providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_inputs()] == [*given]


def test_int8_of_an_input_with_a_name_of_its_own(tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((32, 1, 16, 16), dtype=np.float32)
    certificate = irepdeploy.export_model(
        "vgg6",
        tmp_path,
        input_shape=TensorSpec("camera", (1, 1, 16, 16)),
        inputs={"camera": images},
        precision="int8",
        max_drop=100,
        simplify=False,
    )
    assert certificate.ok and certificate.hops[0].inputs[1]["count"] == 32


def test_swapped_inputs_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def swapped(*args: Any, **kwargs: Any) -> Any:
        written = true(*args, **kwargs)
        names = {"a": "b", "b": "a"}
        for node in written.model.graph.node:
            node.input[:] = [names.get(name, name) for name in node.input]
        return written

    true = network_export.write_onnx
    monkeypatch.setattr(network_export, "write_onnx", swapped)
    specs = [TensorSpec("a", (1, 4)), TensorSpec("b", (1, 4))]
    with pytest.raises(CheckFailed, match="differ"):
        irepdeploy.export_model(Difference().eval(), tmp_path, input_shape=specs, simplify=False)
    assert [path.name for path in tmp_path.iterdir()] == ["certificate.failed.json"]


def test_an_embedding_of_fewer_words(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Embedding(1, 4), nn.Flatten()).eval()
    with pytest.raises(InputError, match="index out of range"):
        irepdeploy.export_model(net, tmp_path / "out", input_shape=TensorSpec("tokens", (1, 7), "int64"))


def test_verify_of_two_files_matches_inputs_by_name(tmp_path: Path, capsys: Capture) -> None:
    specs = [TensorSpec("a", (1, 4)), TensorSpec("b", (1, 4))]
    irepdeploy.export_model(Difference().eval(), tmp_path, input_shape=specs, simplify=False)
    model = onnx.load(tmp_path / "model.onnx")
    inputs = list(model.graph.input)
    del model.graph.input[:]
    model.graph.input.extend(inputs[::-1])
    onnx.save(model, tmp_path / "reversed.onnx")
    pair = [str(tmp_path / "model.onnx"), str(tmp_path / "reversed.onnx")]
    assert main(["verify", *pair]) == 0
    for node in model.graph.node:
        node.input[:] = [{"a": "b", "b": "a"}.get(name, name) for name in node.input]
    onnx.save(model, tmp_path / "reversed.onnx")
    assert main(["verify", *pair]) == 1
    assert "DIFFERENT" in capsys.readouterr().out


@pytest.mark.parametrize(
    "inputs",
    [
        "image",
        [{"name": "a"}],
        [{"name": "a", "shape": [None, None, 3], "dtype": "float32"}],
        [{"name": "a", "shape": [None, "3"], "dtype": "float32"}],
        [{"name": "a", "shape": [None, 3], "dtype": "complex64"}],
        [{"name": 1, "shape": [None, 3], "dtype": "float32"}],
    ],
)
def test_inputs_of_a_checkpoint_that_are_damaged(inputs: object) -> None:
    specs = (TensorSpec("a", (None, 3)), TensorSpec("state", (2, None, 3)), TensorSpec("rate", (), "int64"))
    value = with_inputs(nn.Identity(), specs).irepdeploy_origin.to_dict()
    assert Origin.from_dict(value).inputs == specs
    with pytest.raises(CheckpointError, match=r"damaged|is not valid"):
        Origin.from_dict({**value, "inputs": inputs})
