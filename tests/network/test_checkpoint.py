"""A checkpoint describes itself and loads unchanged; a bad one gives one clear line, and nothing in it is run."""

from __future__ import annotations

import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import irepdeploy as ird
from irepdeploy.errors import CheckpointError, InputError, MissingError
from irepdeploy.network import checkpoint, factory
from irepdeploy.network.nets import build
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.reparam.origin import origin_of, set_origin
from support.networks import ConvBn

STAGES = ((4, 4), (6,))


def trained(name: str = "vgg6", preset: str = "ireps") -> nn.Module:
    net = ird.insert_branches(build(name, num_classes=7, stages=STAGES), preset).eval()
    return set_origin(randomize_statistics(net, 2), dataset="digits", classes=tuple("abcdefg"))


def raw(**changes: object) -> bytes:
    content = {"format": "irepdeploy.checkpoint", "version": 1, "origin": {}, "state": {}, "extra": {}, **changes}
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["train", "fused", "plain"])
def test_comes_back_the_same(form: str, tmp_path: Path) -> None:
    net = build("vgg6", num_classes=7).eval() if form == "plain" else trained()
    net = ird.fuse(net) if form == "fused" else net
    path = ird.save(net, tmp_path / "ckpt.pt", extra={"note": [1, 2.5]})
    again = ird.load(path)
    assert not again.training and origin_of(again) == origin_of(net)
    x = torch.randn(3, 1, 16, 16)
    with torch.no_grad():
        assert torch.equal(net(x), again(x))
    assert checkpoint.read(path)["extra"] == {"note": [1, 2.5]}


def test_keys_of_the_fused_state_are_plain() -> None:
    keys = set(ird.fuse(trained()).state_dict())
    assert "stages.0.0.conv.weight" in keys and "stages.0.0.conv.bias" in keys
    assert not any("fixed" in key or "branch" in key or "alpha" in key for key in keys)


def test_double_precision_comes_back(tmp_path: Path) -> None:
    again = ird.load(ird.save(trained().double(), tmp_path / "c.pt"))
    assert {parameter.dtype for parameter in again.parameters()} == {torch.float64}


def test_written_twice_the_same_but_for_the_time(tmp_path: Path) -> None:
    net = trained()
    a, b = (checkpoint.read(ird.save(net, tmp_path / name)) for name in ("a.pt", "b.pt"))
    assert a["origin"] == b["origin"] and all(torch.equal(a["state"][key], b["state"][key]) for key in a["state"])


def test_foreign_class_needs_the_factory(tmp_path: Path) -> None:
    net = randomize_statistics(ird.insert_branches(ConvBn().eval(), "ireps"))
    path = ird.save(net, tmp_path / "c.pt", factory="my.code:make", input_shape=(3, 8, 8))
    with pytest.raises(CheckpointError, match=r"--model my\.code:make"):
        ird.load(path)
    again = ird.load(path, model=ConvBn)
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(net(x), again(x))
    assert origin_of(again).input_shape == (3, 8, 8)
    fused = ird.load(ird.save(ird.fuse(net), tmp_path / "f.pt"), model=ConvBn())
    assert ird.compare(net, fused, x).ok
    with pytest.raises(CheckpointError, match="does not fit the network"):
        ird.load(path, model=lambda: nn.Sequential(nn.Conv2d(3, 4, 3)))
    with pytest.raises(CheckpointError, match=r"expected a torch\.nn\.Module"):
        ird.load(path, model=lambda: 3)  # type: ignore[arg-type,return-value]


class Bomb:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple:
        return os.system, (self.command,)


def bomb(tmp_path: Path) -> bytes:
    return pickle.dumps(Bomb(f"touch {tmp_path / 'exploded'}"))


def zipped_bomb(tmp_path: Path) -> bytes:
    """A well-formed torch archive whose pickle is the bomb."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw())) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            content = bomb(tmp_path) if entry.filename.endswith("data.pkl") else source.read(entry)
            target.writestr(entry, content)
    return buffer.getvalue()


def torchscript(tmp_path: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/constants.pkl", b"")
        archive.writestr("x/data.pkl", b"garbage")
        archive.writestr("x/version", b"3")
    return buffer.getvalue()


def arrays(tmp_path: Path) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, weight=np.zeros(3))
    return buffer.getvalue()


def bare_state_dict(tmp_path: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(build("vgg6").state_dict(), buffer)
    return buffer.getvalue()


def pickled_module(tmp_path: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save(nn.Linear(1, 1), buffer)
    return buffer.getvalue()


BAD: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "empty": (lambda _: b"", "empty"),
    # Not from the system's random source: one random file in 256 begins like a pickle.
    "garbage": (lambda _: random.Random(0).randbytes(4096), "not a checkpoint"),
    "text": (lambda _: b"hello world, this is no checkpoint\n" * 100, "not a checkpoint"),
    "truncated": (lambda _: raw(state={"w": torch.zeros(5000)})[:-3000], "damaged"),
    "half": (lambda _: raw(state={"w": torch.zeros(5000)})[:9000], "damaged"),
    "bomb": (bomb, "may contain code to run"),
    "zipped bomb": (zipped_bomb, "contains code to run"),
    "pickled module": (pickled_module, "contains code to run"),
    "script": (torchscript, "damaged|not a checkpoint|contains code"),
    "arrays of numpy": (arrays, "got another zip archive"),
    "state dict": (bare_state_dict, "a state dict: 38 tensors"),
    "newer version": (lambda _: raw(version=99), "version 1, got 99"),
    "parts missing": (lambda _: raw(state=[1, 2]), "parts of the checkpoint are missing"),
    "state of text": (lambda _: raw(state={"a": "b"}), "parts of the checkpoint are missing"),
    "no origin": (lambda _: raw(origin=None), "parts of the checkpoint are missing"),
    "empty origin": (lambda _: raw(), "description of the network"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_file(kind: str, tmp_path: Path) -> None:
    make, text = BAD[kind]
    path = tmp_path / "ckpt.pt"
    path.write_bytes(make(tmp_path))
    with pytest.raises(CheckpointError, match=text) as caught:
        ird.load(path)
    assert caught.value.exit_code == 2 and caught.value.where == str(path)
    assert "\n" not in caught.value.line
    assert not (tmp_path / "exploded").exists()


def test_missing_and_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such checkpoint"):
        ird.load(tmp_path / "nothing.pt")
    with pytest.raises(InputError, match="got a directory"):
        ird.load(tmp_path)


def test_onnx_is_recognized(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper

    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    for name in ("model.onnx", "renamed.pt"):
        onnx.save(helper.make_model(graph, producer_name="test"), str(tmp_path / name))
        with pytest.raises(CheckpointError, match="expected a checkpoint, got an ONNX model"):
            ird.load(tmp_path / name)


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        ({"net": "alexnet"}, "does not have"),
        ({"args": {"width": 3}}, "does not have"),
        ({"state": "frozen"}, "damaged"),
        ({"layers": [{"name": "x"}]}, "damaged"),
        ({"extra": 1}, "damaged"),
        ({"input_shape": [0, -1]}, "of positive sizes"),
        ({"args": {"stages": STAGES}}, "weights do not fit the network: head"),
        ({"layers": []}, "weights do not fit"),
    ],
)
def test_origin_that_does_not_fit(damage: dict[str, object], text: str, tmp_path: Path) -> None:
    path, net = tmp_path / "c.pt", trained()
    path.write_bytes(raw(origin={**origin_of(net).to_dict(), **damage}, state=dict(net.state_dict())))
    with pytest.raises(CheckpointError, match=text):
        ird.load(path)


def test_factory_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*__import__("sys").path])
    (tmp_path / "own_code_for_test.py").write_text("def make():\n    return 1\nvalue = 2\n")
    assert factory.load_model_factory("own_code_for_test:make")() == 1  # type: ignore[comparison-overlap]
    with pytest.raises(CheckpointError, match="no function"):
        factory.load_model_factory("own_code_for_test:value")
    with pytest.raises(CheckpointError, match=r"package\.module:factory"):
        factory.load_model_factory("own_code_for_test")
    with pytest.raises(MissingError, match="cannot import"):
        factory.load_model_factory("no_such_module_here:make")
    with pytest.raises(MissingError, match=r"without \.py: own_code_for_test:make"):
        factory.load_model_factory("own_code_for_test.py:make")
