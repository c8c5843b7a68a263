"""External weights of ONNX files: read, written on request, and always above 2 GiB."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import irepdeploy
from irepdeploy.cli import main
from irepdeploy.errors import ModelError
from irepdeploy.onnx_graph import written
from irepdeploy.onnx_graph.model_file import file_digest, open_model
from irepdeploy.onnx_graph.proto import tensors_of
from irepdeploy.onnx_graph.written import data_file, fits_one_file, write_model
from irepdeploy.verify.certificate import Certificate
from support.graph_writer import onnx_model
from support.networks import random_network

Capture = pytest.CaptureFixture[str]
RNG = np.random.default_rng(0)


def network(rows: int = 16) -> onnx.ModelProto:
    """Build two parallel convolutions and the rows of two tables that their largest channel names."""
    tables = {name: np.zeros((rows, 10), np.float32) for name in ("left", "right")}
    for table in tables.values():
        table[:16] = RNG.standard_normal((16, 10))
    weights = {name: (0.3 * RNG.standard_normal((16, 3, k, k))).astype(np.float32) for name, k in (("w", 3), ("v", 1))}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "v"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("GlobalMaxPool", ["sum"], ["pool"]),
        helper.make_node("Flatten", ["pool"], ["flat"]),
        helper.make_node("ArgMax", ["flat"], ["row"], axis=1, keepdims=0),
        helper.make_node("Gather", ["left", "row"], ["l"]),
        helper.make_node("Gather", ["right", "row"], ["r"]),
        helper.make_node("Mul", ["l", "r"], ["y"]),
    ]
    return onnx_model(nodes, {"x": (1, 3, 8, 8)}, {"y": (1, 10)}, {**weights, **tables})


def export(source: object, out: Path, *options: str) -> int:
    return main(["export", str(source), "--out", str(out), *options])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def values(model: onnx.ModelProto) -> dict[str, bytes]:
    return {tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in tensors_of(model)}


def test_a_model_is_written_with_its_weights_outside_and_stays_as_it_is(tmp_path: Path) -> None:
    model = network()
    model.graph.initializer.append(helper.make_tensor("typed", TensorProto.FLOAT, [300], np.arange(300.0)))
    model.graph.node.append(helper.make_node("Sum", ["typed"], ["unused"]))
    before = values(model)
    path = tmp_path / "m.onnx"
    assert write_model(model, path) == (path,) and names(tmp_path) == ["m.onnx"]
    assert write_model(model, path, external=True) == (data_file(path), path)
    assert values(model) == values(open_model(path)) == values(onnx.load(path)) == before
    onnx.checker.check_model(str(path), full_check=True)
    outside = [t.name for t in onnx.load(path, load_external_data=False).graph.initializer if t.external_data]
    assert outside == ["w", "typed"]  # the others are smaller than a kilobyte


def test_weights_of_a_given_file_go_inside_or_outside(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    write_model(network(), folder / "m.onnx", external=True)
    assert export(folder / "m.onnx", tmp_path / "in") == 0
    assert names(tmp_path / "in") == ["certificate.json", "model.onnx"]
    for options in ((), ("--no-collapse",)):
        out = tmp_path / f"out{len(options)}"
        assert export(folder / "m.onnx", out, "--external-data", "--precision", "fp32,fp16", *options) == 0
        files = ["model.fp16.onnx", "model.fp16.onnx.data", "model.onnx", "model.onnx.data"]
        assert names(out) == ["certificate.json", *files]
        certificate = Certificate.load(out / "certificate.json")
        certificate.check_files(out)
        assert certificate.ok and sorted(artefact.file for artefact in certificate.artefacts) == files
        assert main(["verify", str(out / "model.onnx"), "--certificate", str(out / "certificate.json")]) == 0
        assert "the same" in capsys.readouterr().out
        (out / "model.onnx.data").write_bytes(bytes((out / "model.onnx.data").stat().st_size))
        assert main(["verify", str(out / "model.onnx"), "--certificate", str(out / "certificate.json")]) == 1
    # The next export without the option leaves no weights behind.
    assert export(folder / "m.onnx", tmp_path / "out0") == 0
    assert names(tmp_path / "out0") == ["certificate.json", "model.onnx"]
    assert export(folder / "m.onnx", tmp_path / "trt", "--external-data", "--target", "xavier-jp5") == 2
    assert "--external-data: an engine is built from a single ONNX file" in capsys.readouterr().err


def test_weights_of_a_network_outside(tmp_path: Path) -> None:
    found = irepdeploy.export_model(random_network(branches="repvgg"), tmp_path, external_data=True, simplify=False)
    assert found.ok and found.hops[-1].result == "model.onnx, weights outside"
    assert {"fused.pt", "model.onnx", "model.onnx.data"} <= set(names(tmp_path))


@pytest.fixture
def small_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 2 kB be the limit of a file."""
    monkeypatch.setattr(written, "MODEL", 2048)
    monkeypatch.setattr(written, "_MARGIN", 0)


@pytest.mark.usefixtures("small_limit")
def test_what_does_not_fit_into_a_file_goes_outside(tmp_path: Path, capsys: Capture) -> None:
    everything(tmp_path, 16, capsys)
    assert export(tmp_path / "m.onnx", tmp_path / "half", "--precision", "fp16") == 2
    assert (
        "fp16 is written from a model in one piece, which cannot exceed 2 GiB (--precision fp32)"
        in capsys.readouterr().err
    )
    assert export(tmp_path / "m.onnx", tmp_path / "trt", "--target", "xavier-jp5") == 2
    assert "exceeds 2 GiB, and an engine is built from a single file" in capsys.readouterr().err


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("collapse", [True, False])
def test_a_network_that_does_not_fit_into_a_file(collapse: bool, tmp_path: Path) -> None:
    net, shape = random_network(branches="repvgg"), (1, 1, 16, 16)
    found = irepdeploy.export_model(net, tmp_path, input_shape=shape, collapse=collapse)
    assert found.ok and found.onnx["simplifier"] == "not run: it takes models below 2 GiB"
    assert names(tmp_path) == ["certificate.json", "fused.pt", "model.onnx", "model.onnx.data"]
    assert main(["verify", str(tmp_path / "fused.pt"), str(tmp_path / "model.onnx")]) == 0
    with pytest.raises(ModelError, match="exceeds 2 GiB, and an engine is built from a single file"):
        irepdeploy.export_model(net, tmp_path / "t", input_shape=shape, target="xavier-jp5")
    assert not (tmp_path / "t").exists()


def everything(folder: Path, rows: int, capsys: Capture) -> None:
    """Run the commands on a model that does not fit into one file."""
    source, model = folder / "m.onnx", network(rows)
    # Nothing here is an assertion about the model itself: pytest would print it.
    files, fits = write_model(model, source), fits_one_file(model)
    del model
    assert files == (data_file(source), source) and not fits
    assert export(source, folder / "o") == 0
    assert names(folder / "o") == ["certificate.json", "model.onnx", "model.onnx.data"]
    found = onnx.load(folder / "o/model.onnx", load_external_data=False)
    assert [node.op_type for node in found.graph.node].count("Conv") == 1
    assert Certificate.load(folder / "o/certificate.json").source["sha256"] == file_digest(source)
    capsys.readouterr()
    assert main(["verify", str(folder / "o/model.onnx"), "--certificate", str(folder / "o/certificate.json")]) == 0
    assert "the file that was certified" in (out := capsys.readouterr().out) and "the same" in out
    assert main(["inspect", str(source), "--json"]) == 0
    assert file_digest(source) in capsys.readouterr().out


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A folder that is emptied afterwards: pytest keeps those of the last runs."""
    if shutil.disk_usage(tmp_path).free < 12 << 30:
        pytest.skip("needs 12 GiB of disk")
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.slow
def test_a_model_above_2_gib(disk: Path, capsys: Capture) -> None:
    everything(disk, 28 << 20, capsys)


@pytest.mark.slow
def test_a_network_above_2_gib(disk: Path) -> None:
    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
            self.wide = nn.Linear(8, 1 << 16)
            self.deep = nn.ModuleList(nn.Linear(1 << 16, 3 << 10) for _ in range(3))

        def forward(self, images: Tensor) -> Tensor:
            found = self.wide(self.bn(self.conv(images)).mean((2, 3)))
            return torch.cat([layer(found) for layer in self.deep], 1)

    found = irepdeploy.export_model(Large().eval(), disk, input_shape=(1, 3, 8, 8))
    assert found.ok and sum(path.stat().st_size for path in disk.iterdir()) > 2 * (1 << 31)
    assert found.onnx["collapse"]["changed"] is False


def test_a_path_that_is_not_utf_8(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "n\udce9t.onnx"
    source.write_bytes(network().SerializeToString())
    out = tmp_path / "o\udce9t"
    assert main(["export", str(source), "--no-simplify", "--external-data", "--out", str(out)]) == 2
    assert "expected a path in UTF-8" in capsys.readouterr().err.splitlines()[-1]
    assert main(["export", str(source), "--no-simplify", "--external-data", "--out", str(tmp_path / "o")]) == 0
    assert not out.exists() or not any(out.iterdir())
