"""`verify MODEL --certificate FILE` and `check_certified`: whether a file is the certified one, and unchanged."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import irepdeploy
from irepdeploy.cli import main
from irepdeploy.errors import InputError, MissingError
from irepdeploy.export.request.preprocess import Preprocessing
from irepdeploy.verify import certified as module
from irepdeploy.verify.camera_network import CameraNetwork
from irepdeploy.verify.certificate import Artefact, Certificate
from irepdeploy.verify.certified import check_certified
from support.networks import ConvBn, random_network

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(certified: Path, tmp_path: Path) -> Path:
    """A copy of the certified files, to be changed."""
    return Path(shutil.copytree(certified, tmp_path / "copy"))


def verified(model: Path, *options: object) -> int:
    beside = model.parent / "certificate.json"
    return main(["verify", str(model), "--certificate", str(beside), *map(str, options)])


def rewritten(folder: Path, **changes: Any) -> Certificate:
    """Change the certificate as its writer could have."""
    path = folder / "certificate.json"
    value = {**Certificate.load(path).to_dict(), "version": 1, **changes}
    value.pop("digest")
    made = Certificate.from_dict(value)
    made.save(path)
    return made


@pytest.mark.parametrize(("name", "allowed"), [("model.onnx", 1e-4), ("model.fp16.onnx", 1e-2), ("fused.pt", 1e-4)])
def test_a_certified_file(certified: Path, name: str, allowed: float, capsys: Capture) -> None:
    found = check_certified(certified / "export" / name, certified / "export/certificate.json")
    assert found.ok and found.artefact is not None and found.artefact.file == name
    assert found.comparison is not None and found.comparison.ok and not found.skipped
    assert found.comparison.comparison.tolerance.max_rel_error == allowed
    assert verified(certified / "export" / name) == 0
    out = capsys.readouterr().out
    assert f"{name}: the file that was certified" in out and "fused state  model.onnx" in out
    assert f"source {certified / 'trained.pt'} (from the checkpoint)" in out and "written by: python " in out
    assert f"{name}: the same" in out and found.sha256 in out


def test_json(folder: Path, capsys: Capture) -> None:
    assert verified(folder / "export/model.onnx", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value["ok"] and value["certified_as"] == "model.onnx" and value["comparison"]["comparison"]["ok"]
    assert [hop["result"] for hop in value["hops"]] == ["fused state", "model.onnx", "model.onnx", "model.fp16.onnx"]
    (folder / "export/model.onnx").write_bytes(b"else")
    assert verified(folder / "export/model.onnx", "--json") == 1
    value = json.loads(capsys.readouterr().out)
    assert not value["ok"] and value["certified_as"] is None and "expected" in value["faults"][0]


def test_one_model_alone(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder / "export")
    (folder / "export/model.onnx").rename("it's mine.onnx")
    assert main(["verify", "it's mine.onnx"]) == 2
    line = capsys.readouterr().err
    command = line.rpartition("(")[2].rpartition(")")[0]
    assert main(shlex.split(command)[1:]) == 0
    assert "note: certified under the name model.onnx" in capsys.readouterr().out
    Path("certificate.json").unlink()
    assert main(["verify", "model.fp16.onnx"]) == 2
    assert "verify model.fp16.onnx B, or irepdeploy verify model.fp16.onnx --certificate" in capsys.readouterr().err


def change_weight(path: Path) -> None:
    model = onnx.load(path)
    weights = model.graph.initializer[0]
    weights.raw_data = weights.raw_data[:-1] + bytes([weights.raw_data[-1] ^ 1])
    onnx.save(model, path)


def swap_models(path: Path) -> None:
    shutil.copyfile(path.with_name("model.fp16.onnx"), path)


def copy_source(path: Path) -> None:
    shutil.copyfile(path.parent.parent / "trained.pt", path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (change_weight, "not the file that was certified: expected SHA-256"),
        (swap_models, "this is the certified model.fp16.onnx under the name of another file"),
        (copy_source, "it is the source of the certified export, not one of its files"),
        (lambda path: path.write_bytes(path.read_bytes()[:-10]), " bytes, got "),
        (lambda path: path.write_bytes(b""), "... of 0"),
    ],
)
def test_another_file(folder: Path, change: Callable[[Path], None], named: str, capsys: Capture) -> None:
    model = folder / "export/model.onnx"
    change(model)
    assert verified(model) == 1
    captured = capsys.readouterr()
    assert "NOT the file that was certified" in captured.out and "same" not in captured.out
    assert f"{model}: " in captured.err and named in captured.err


def test_a_file_that_nothing_certifies(folder: Path, capsys: Capture) -> None:
    assert main(["verify", __file__, "--certificate", str(folder / "export/certificate.json")]) == 1
    assert "is not in the certificate (model.onnx, fused.pt, model.fp16.onnx" in capsys.readouterr().err
    assert main(["verify", "missing.onnx", "--certificate", str(folder / "export/certificate.json")]) == 2
    assert main(["verify", __file__, "--certificate", str(folder)]) == 2


def test_weights_beside_the_model(folder: Path) -> None:
    model = folder / "export/model.onnx"
    onnx.save(onnx.load(model), model, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert verified(model) == 1
    artefacts = [Artefact.of(model).__dict__]
    rewritten(folder / "export", artefacts=artefacts)
    assert verified(model) == 0
    weights = model.with_name("weights.bin")
    content = bytearray(weights.read_bytes())
    content[100] ^= 1
    weights.write_bytes(content)
    assert verified(model) == 1
    weights.unlink()
    assert verified(model) == 1


def test_an_engine_is_certified_with_its_sidecar(folder: Path, capsys: Capture) -> None:
    engine = folder / "export/model.fp16.engine"
    assert verified(engine) == 0
    assert "not compared with the source again: " in capsys.readouterr().out
    moved = engine.with_name("best.engine")
    engine.rename(moved)
    assert verified(moved) == 1
    assert "its sidecar is missing" in capsys.readouterr().err
    engine.with_name("model.fp16.engine.json").rename(moved.with_name("best.engine.json"))
    assert verified(moved) == 0
    value = json.loads(moved.with_name("best.engine.json").read_text())
    moved.with_name("best.engine.json").write_text(json.dumps(value))
    assert verified(moved) == 1
    assert "is not the one that was certified" in capsys.readouterr().err
    moved.write_bytes(b"else")
    assert verified(moved) == 1


def test_the_source_is_looked_for(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    model, source = folder / "export/model.onnx", folder / "trained.pt"
    known = Certificate.load(folder / "export/certificate.json").source
    rewritten(folder / "export", source={**known, "file": "trained.pt"})
    assert verified(model) == 0
    assert "not compared with the source again: its source trained.pt was not found" in capsys.readouterr().out
    assert verified(model, source) == 0
    assert "trained.pt and " in capsys.readouterr().out
    monkeypatch.chdir(folder)
    assert verified(model) == 0
    assert "trained.pt and " in capsys.readouterr().out
    monkeypatch.chdir(folder.parent)
    shutil.copyfile(source, folder / "export/trained.pt")
    assert verified(model) == 0
    assert "export/trained.pt and " in capsys.readouterr().out
    (folder / "export/trained.pt").write_bytes(b"trained further")
    assert verified(model) == 0
    assert "export/trained.pt has changed since the export" in capsys.readouterr().out
    assert (
        main(
            [
                "verify",
                str(model),
                str(folder / "export/trained.pt"),
                "--certificate",
                f"{folder}/export/certificate.json",
            ]
        )
        == 1
    )
    assert "not the source of the certified export" in capsys.readouterr().err


def test_a_source_that_differs(folder: Path, capsys: Capture) -> None:
    """As if the export had compared wrongly: the file is certified, but is not the same network."""
    source = folder / "trained.pt"
    irepdeploy.save(random_network(branches="repvgg", stages=((4, 4), (8, 8)), seed=1), source)
    known = Certificate.load(folder / "export/certificate.json").source
    rewritten(folder / "export", source={**known, "file": str(source), "sha256": Artefact.of(source).sha256})
    assert verified(folder / "export/model.onnx") == 1
    assert "certified, but it differs from its source here: output 'logits' differs" in capsys.readouterr().err


def test_a_network_by_name_is_built_again(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    irepdeploy.export_model("vgg6", tmp_path, seed=3, simplify=False)
    model = tmp_path / "model.onnx"
    assert verified(model) == 0
    assert "model.onnx: the same" in capsys.readouterr().out
    assert verified(model, "vgg6") == 0
    assert verified(model, "vgg16") == 2 and "give vgg6" in capsys.readouterr().err
    known = Certificate.load(tmp_path / "certificate.json").source
    rewritten(tmp_path, source={**known, "seed": 10**30})
    assert verified(model) == 0
    assert "its source was a network in memory" in capsys.readouterr().out
    rewritten(tmp_path, source=known)
    here = {**module.installed_versions(), "torch": "1.0"}
    monkeypatch.setattr(module, "installed_versions", lambda: here)
    assert verified(model) == 0
    out = capsys.readouterr().out
    assert "depend on the version of torch: expected " in out and ", got 1.0" in out
    assert "note: certified with torch " in out and ", 1.0 is installed here" in out


def test_a_network_in_memory(tmp_path: Path, capsys: Capture) -> None:
    irepdeploy.export_model(random_network(), tmp_path, simplify=False)
    assert verified(tmp_path / "model.onnx") == 0
    assert "its source was a network in memory" in capsys.readouterr().out


def test_a_foreign_class(tmp_path: Path, capsys: Capture) -> None:
    irepdeploy.save(ConvBn().eval(), tmp_path / "own.pt", factory="support.networks:ConvBn", input_shape=(3, 8, 8))
    irepdeploy.export_model(tmp_path / "own.pt", tmp_path / "out", model_factory=ConvBn, simplify=False)
    model = tmp_path / "out/model.onnx"
    assert verified(model) == 0
    assert "add --model support.networks:ConvBn" in capsys.readouterr().out
    assert verified(model, "--model", "support.networks:ConvBn") == 0
    assert "model.onnx: the same" in capsys.readouterr().out


def test_preprocessing_that_is_built_in(folder: Path, capsys: Capture) -> None:
    out = folder / "camera"
    baked = {"bake_preprocess": "nhwc", "mean": [0.5], "std": [0.2], "simplify": False}
    irepdeploy.export_model(folder / "trained.pt", out, **baked)
    assert verified(out / "model.onnx") == 0
    captured = capsys.readouterr().out
    assert "model.onnx: the same" in captured and "inputs: 64 random, input 0 to 255" in captured
    shutil.copyfile(folder / "export/model.onnx", folder / "given.onnx")
    irepdeploy.export_model(folder / "given.onnx", out, **baked)
    assert verified(out / "model.onnx") == 0
    assert "preprocessing is built in, and its source is an ONNX model" in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_preprocessing_is_that_of_the_export(layout: str, order: str) -> None:
    wanted = Preprocessing((0.1, 0.2, 0.3), (0.5, 0.6, 0.7), layout, order)
    shape = (2, 5, 4, 3) if layout == "nhwc" else (2, 3, 5, 4)
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = CameraNetwork(nn.Identity(), wanted.to_dict())(torch.from_numpy(images))
    assert np.array_equal(found.numpy(), wanted(images))
    with pytest.raises(InputError, match="unknown preprocessing"):
        CameraNetwork(nn.Identity(), {"mean": "grey"})


def test_settings_of_the_comparison(folder: Path, tmp_path: Path, capsys: Capture) -> None:
    model = folder / "export/model.fp16.onnx"
    assert verified(model, "--tolerance", "float64") == 1
    assert verified(model, "--tolerance", "exact") == 2
    np.save(tmp_path / "x.npy", np.zeros((3, 1, 8, 8), np.float32))
    assert verified(model, "--inputs", tmp_path / "x.npy") == 2
    assert "got (3, 1, 8, 8)" in capsys.readouterr().err
    certificate = folder / "export/certificate.json"
    seeds = [check_certified(model, certificate, seed=seed).comparison.inputs[0].seed for seed in (None, 5)]  # type: ignore[union-attr]
    assert seeds == [0, 5]


def test_what_was_asked_for_is_not_left_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*args: object, **options: object) -> None:
        raise MissingError("no TensorRT here")

    monkeypatch.setattr(module, "verify_models", missing)
    arguments = folder / "export/model.onnx", folder / "export/certificate.json"
    assert check_certified(*arguments).skipped == "no TensorRT here"
    with pytest.raises(MissingError):
        check_certified(*arguments, folder / "trained.pt")


def test_a_failed_export(folder: Path, capsys: Capture) -> None:
    rewritten(folder / "export", failure="model.onnx differs")
    assert verified(folder / "export/model.onnx") == 1
    assert "the export failed: model.onnx differs" in capsys.readouterr().err
    hops = Certificate.load(folder / "export/certificate.json").to_dict()["hops"]
    hops[1]["comparison"]["ok"] = False
    rewritten(folder / "export", failure=None, hops=hops)
    assert verified(folder / "export/model.onnx") == 1
    assert "the export failed: fused state and model.onnx differ" in capsys.readouterr().err
    rewritten(folder / "export", hops=[])
    assert verified(folder / "export/model.onnx") == 1


def test_a_changed_certificate(folder: Path, capsys: Capture) -> None:
    path = folder / "export/certificate.json"
    (folder / "export/model.onnx").write_bytes(b"another model")
    value = json.loads(path.read_text())
    value["artefacts"][0]["sha256"] = Artefact.of(folder / "export/model.onnx").sha256
    path.write_text(json.dumps(value))
    assert verified(folder / "export/model.onnx") == 2
    assert "changed after it was written" in capsys.readouterr().err


def test_an_earlier_certificate(folder: Path, capsys: Capture) -> None:
    path = folder / "export/certificate.json"
    value = {**json.loads(path.read_text()), "version": 1}
    del value["digest"]
    path.write_text(json.dumps(value))
    assert verified(folder / "export/model.onnx") == 0
    assert "note: this certificate is of version 1 and has no digest" in capsys.readouterr().out
    with pytest.raises(InputError, match="unknown tolerance"):
        check_certified(folder / "export/model.onnx", path, tolerance="exact")
