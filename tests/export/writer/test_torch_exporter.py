"""The fallback to torch's exporters: which one is used, and the clean-up of its model."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.board.ort_runner import OrtRunner
from irepdeploy.board.runner import TensorSpec
from irepdeploy.errors import ModelError
from irepdeploy.export.diagnosis.audit import Asked, audit
from irepdeploy.export.target.target import target_of
from irepdeploy.export.writer import torch_exporter
from irepdeploy.export.writer.onnx_from_torch import serialized
from irepdeploy.export.writer.tidy import tidy
from irepdeploy.export.writer.torch_exporter import DYNAMO, OWN, TORCHSCRIPT, onnx_by_torch, write_onnx
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.onnx_graph.proto import opset_of
from support.graph_writer import onnx_model
from support.networks import random_network

XAVIER = target_of("xavier-jp5")


class Recurrent(nn.Module):
    """A layer that has no handler, behind layers that have one; outputs in a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.rows = nn.LSTM(7, 5, batch_first=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.stem(x)
        return {"rows": self.rows(features.mean(1))[0], "summed": torch.lerp(features, features * 2, 0.25)}


def recurrent() -> nn.Module:
    torch.manual_seed(0)
    return randomize_statistics(Recurrent()).eval()


class Summed(Recurrent):
    """The same without the layer for which the newer exporter takes seconds."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.stem(x)
        return {"mean": features.mean(1), "summed": torch.lerp(features, features * 2, 0.25)}


def check_same(proto: onnx.ModelProto, model: nn.Module, batches: tuple[int, ...]) -> None:
    for batch in batches:
        x = np.random.default_rng(batch).standard_normal((batch, 3, 8, 9), dtype=np.float32)
        with torch.inference_mode(), OrtRunner(serialized(proto)) as runner:
            expected, found = model(torch.from_numpy(x)), runner.infer({"input": x})
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert np.abs(found[name] - tensor.numpy()).max() <= 1e-5 * np.abs(found[name]).max()


def test_the_own_writer_comes_first() -> None:
    written = write_onnx(random_network(), [TensorSpec("x", (1, 1, 16, 16))], ["y"], target=XAVIER, metadata={"k": "v"})
    assert written.to_dict() == {"writer": OWN, "opset": 13, "reason": None}
    assert [(entry.key, entry.value) for entry in written.model.metadata_props] == [("k", "v")]


@pytest.mark.parametrize("batch", [1, None], ids=["static", "free"])
def test_what_has_no_handler_goes_to_torch(tmp_path: Path, batch: int | None) -> None:
    model, spec = recurrent(), TensorSpec("input", (batch, 3, 8, 9))
    written = write_onnx(model, [spec], target=XAVIER, metadata={"k": "v"})
    assert (written.writer, written.opset) == (TORCHSCRIPT, 13)
    assert written.reason is not None and "operator LSTM is not supported" in written.reason
    (tmp_path / "m.onnx").write_bytes(serialized(written.model))
    facts = audit(tmp_path / "m.onnx", XAVIER, [spec], ["rows", "summed"], Asked(dynamic_batch=batch is None))
    assert "BatchNormalization" not in facts["operators"] and "Constant" not in facts["operators"]
    check_same(written.model, model, (1,) if batch else (1, 2, 5))
    names = [tensor.name for tensor in written.model.graph.initializer]
    assert {"stem.0.Conv.weight", "stem.0.Conv.bias"} <= set(names) and not any("::" in name for name in names)
    assert [(entry.key, entry.value) for entry in written.model.metadata_props] == [("k", "v")]


PROGRAM = """
import hashlib, sys
from irepdeploy.board.runner import TensorSpec
from irepdeploy.export.target.target import target_of
from irepdeploy.export.writer.onnx_from_torch import serialized
from irepdeploy.export.writer.torch_exporter import onnx_by_torch, write_onnx
from support.networks import random_network

def digests():
    spec = [TensorSpec("input", (None, 1, 16, 16))]
    for write in (write_onnx, onnx_by_torch):
        written = write(random_network(), spec, ["logits"], target=target_of("xavier-jp5"), metadata={"k": "v"})
        yield hashlib.sha256(serialized(written.model)).hexdigest()

print(*digests())
"""


def test_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    here: dict[str, Any] = {}
    exec(PROGRAM.replace("print(*digests())", "found = list(digests())"), here)
    there = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert there.stdout.split() == here["found"]


class Baked(nn.Module):
    """Bakes the batch size of its trace into the graph."""

    def forward(self, x: Tensor) -> Tensor:
        count = int(x.shape[0])
        return x.flatten(1).reshape(count, -1) + float(count)


def test_a_batch_that_is_baked_in_is_found() -> None:
    with pytest.raises(ModelError, match="batch"):
        onnx_by_torch(Baked().eval(), [TensorSpec("x", (None, 3))], ["y"], target=XAVIER)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return -x if x.sum() > 0 else x


def test_a_branch_on_values_is_never_traced_through() -> None:
    with pytest.raises(ModelError, match="branches on the values"):
        write_onnx(Branching().eval(), [TensorSpec("x", (1, 3))], ["y"], target=XAVIER)


def test_when_both_ways_fail_both_reasons_are_given(capfd: pytest.CaptureFixture[str]) -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.bessel_j0(x)

    with pytest.raises(
        ModelError, match=r"operator special_bessel_j0 is not .*torch's exporter failed too: .*TorchScript"
    ):
        write_onnx(Odd().eval(), [TensorSpec("x", (1, 3))], ["y"], target=XAVIER)
    assert capfd.readouterr() == ("", "")


class Attending(nn.Module):
    """A layer that TorchScript's exporter cannot write at opset 13."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        tokens = x.flatten(2)[:, :, :8]
        return {"attended": self.attention(tokens, tokens, tokens, need_weights=False)[0]}


@pytest.mark.parametrize("batch", [1, None], ids=["static", "free"])
def test_a_later_opset_where_the_first_has_no_way(tmp_path: Path, batch: int | None) -> None:
    torch.manual_seed(0)
    model, spec = Attending().eval(), TensorSpec("input", (batch, 3, 8, 9))
    written = write_onnx(model, [spec], target=XAVIER)
    assert (written.writer, written.opset) == (TORCHSCRIPT, 16)
    (tmp_path / "m.onnx").write_bytes(serialized(written.model))
    asked = Asked(dynamic_batch=batch is None, opset=written.opset)
    assert audit(tmp_path / "m.onnx", XAVIER, [spec], ["attended"], asked)["opset"] == 16
    check_same(written.model, model, (1,) if batch else (1, 2, 5))


def fails(*args: Any) -> onnx.ModelProto:
    raise RuntimeError("it was removed\nin detail")


def test_without_the_old_exporter_and_without_onnxscript(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_exporter, "_by_torchscript", fails)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    spec = [TensorSpec("input", (1, 3, 8, 9))]
    with pytest.raises(
        ModelError, match=r"it was removed; .*it was removed; .*dynamo\): target xavier-jp5 does not support opset 18"
    ):
        onnx_by_torch(recurrent(), spec, target=XAVIER)
    with pytest.raises(ModelError, match="onnxscript is not installed"):
        onnx_by_torch(recurrent(), spec, target=target_of("trt-11"))


@pytest.mark.skipif(importlib.util.find_spec("onnxscript") is None, reason="onnxscript is not installed")
@pytest.mark.parametrize("batch", [pytest.param(1, marks=pytest.mark.slow), None], ids=["static", "dynamic"])
def test_the_newer_exporter(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, batch: int | None) -> None:
    monkeypatch.setattr(torch_exporter, "_by_torchscript", fails)
    target, spec, model = (
        target_of("trt-11"),
        TensorSpec("input", (batch, 3, 8, 9)),
        randomize_statistics(Summed()).eval(),
    )
    written = onnx_by_torch(model, [spec], target=target)
    assert (written.writer, written.opset) == (DYNAMO, 18)
    (tmp_path / "m.onnx").write_bytes(serialized(written.model))
    audit(tmp_path / "m.onnx", target, [spec], ["mean", "summed"], Asked(dynamic_batch=batch is None, opset=18))
    check_same(written.model, model, (1,) if batch else (1, 2, 5))


def test_an_opset_that_was_not_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch_exporter._by_torchscript
    monkeypatch.setattr(torch_exporter, "_by_torchscript", lambda *args: real(*args[:-1], 17))
    with pytest.raises(ModelError, match="expected opset 13, got 17"):
        onnx_by_torch(recurrent(), [TensorSpec("input", (1, 3, 8, 9))], target=XAVIER)


def test_tidying_folds_a_batch_normalization_and_takes_paths_out() -> None:
    helper, rng = onnx.helper, np.random.default_rng(0)
    arrays = {
        "onnx::W": rng.standard_normal((2, 3, 3, 3)),
        "g": rng.random(2) + 0.5,
        "b": rng.random(2),
        "m": rng.random(2),
        "v": rng.random(2) + 0.5,
    }
    nodes = [
        helper.make_node("Conv", ["x", "onnx::W"], ["c"], name="/model/a/Conv", doc_string="/home/someone/net.py"),
        helper.make_node(
            "BatchNormalization", ["c", "g", "b", "m", "v"], ["d"], name="/model/a/BatchNormalization", epsilon=1e-3
        ),
        helper.make_node("Constant", [], ["k"], value=onnx.numpy_helper.from_array(np.float32([2.0]))),
        helper.make_node("Mul", ["d", "k"], ["y"]),
    ]
    weights = {name: array.astype(np.float32) for name, array in arrays.items()}
    model = onnx_model(nodes, {"x": (1, 3, 4, 4)}, {"y": (1, 2, 2, 2)}, weights, ir_version=9)
    before = model.SerializeToString()
    tidy(model, ir_version=8, prefix="model")
    assert [node.op_type for node in model.graph.node] == ["Conv", "Mul"] and model.ir_version == 8
    assert [node.name for node in model.graph.node] == ["a.Conv", "Mul"]
    assert b"someone" not in serialized(model)
    x = rng.standard_normal((1, 3, 4, 4)).astype(np.float32)
    with OrtRunner(before) as a, OrtRunner(serialized(model)) as b:
        assert np.allclose(a.infer({"x": x})["y"], b.infer({"x": x})["y"], rtol=1e-5, atol=1e-5)


class Sampled(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), align_corners=True)}


def test_an_operator_of_a_later_opset_raises_the_opset() -> None:
    specs, model = [TensorSpec("input", (1, 3, 8, 9))], Sampled().eval()
    written = write_onnx(model, specs, ["y"], target=XAVIER)
    assert (written.writer, written.opset, opset_of(written.model)) == (OWN, 16, 16)
    check_same(written.model, model, (1,))
    with pytest.raises(ModelError, match="grid_sample needs opset 16, got 13"):
        write_onnx(model, specs, ["y"], target=replace(XAVIER, opsets=(13, 15)))
