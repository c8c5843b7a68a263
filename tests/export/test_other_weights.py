"""Networks whose weights are not float32 are written as float32, and first compared at their own precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from irepdeploy.cli import main
from irepdeploy.errors import CheckFailed, ModelError
from irepdeploy.export import network_source
from irepdeploy.export.pipeline import export_model
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.verify.equivalence import verify_models


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.bn, self.second = nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.Conv2d(6, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(torch.relu(self.bn(self.first(x)).to(self.second.weight.dtype)))


def network(kind: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return randomize_statistics(Net()).eval().to(kind)


@pytest.mark.parametrize(
    ("kind", "error", "allowed"), [("float16", 1e-5, 1e-2), ("bfloat16", 1e-4, 5e-2), ("float64", 1e-9, 1e-4)]
)
def test_they_are_written_as_float32(kind: str, error: float, allowed: float, tmp_path: Path) -> None:
    net = network(getattr(torch, kind))
    certificate = export_model(net, tmp_path / "o", input_shape=(1, 3, 11, 9), simplify=False)
    assert certificate.onnx["changes"] == [f"weights of {kind} written as float32"]
    first, *others = certificate.hops
    assert (first.source, first.result, first.allowed) == (f"network in {kind}", "network", allowed)
    # The rounding of that precision is reported, but does not loosen later comparisons.
    assert error < first.error < allowed and all(hop.allowed == 1e-4 for hop in others)
    assert next(net.parameters()).dtype == getattr(torch, kind)
    found = verify_models(net, tmp_path / "o/model.onnx", input_shape=[], tolerance="bfloat16")
    assert found.ok


def test_weights_of_several_types(tmp_path: Path) -> None:
    net = network(torch.float32)
    net.second.half()
    certificate = export_model(net, tmp_path, input_shape=(1, 3, 11, 9), simplify=False)
    assert certificate.hops[0].source == "network in float16" and certificate.hops[0].error > 1e-5


def test_a_wrong_cast_fails_its_own_hop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cast = network_source._in_float32

    def wrong(model: nn.Module, label: str) -> nn.Module:
        found: Any = cast(model, label)
        found.second.weight.data *= 1.1
        return found

    monkeypatch.setattr(network_source, "_in_float32", wrong)
    with pytest.raises(CheckFailed, match="network in float16 and network differ"):
        export_model(network(torch.float16), tmp_path, input_shape=(1, 3, 11, 9), simplify=False)


def test_complex_weights_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="complex convolutions"):
        export_model(nn.Linear(3, 2, dtype=torch.complex64).eval(), tmp_path, input_shape=(1, 3))


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import irepdeploy

    net = irepdeploy.build("vgg6").eval().half()
    irepdeploy.save(net, tmp_path / "half.pt")
    assert main(["export", str(tmp_path / "half.pt"), "--out", str(tmp_path / "o"), "--no-simplify"]) == 0
    assert "note: weights of float16 written as float32" in capsys.readouterr().err
