"""The whole export: the files that it writes; a failed check leaves nothing behind."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import sys
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
from irepdeploy.errors import CheckFailed, InputError, ModelError, NotFusable
from irepdeploy.export import job, network_export, network_source, simplify
from irepdeploy.export.diagnosis import first_bad_layer
from irepdeploy.export.diagnosis.audit import audit
from irepdeploy.export.precision import fp16
from irepdeploy.export.target.target import Target
from irepdeploy.export.writer import torch_exporter
from irepdeploy.export.writer.onnx_from_torch import onnx_from_torch
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.reparam.fuse import fuse_with_proof
from irepdeploy.reparam.origin import Origin, origin_of, set_origin
from irepdeploy.testing import assert_equivalent
from irepdeploy.verify.certificate import Certificate
from support.networks import random_network

Capture = pytest.CaptureFixture[str]
FILES = ["certificate.json", "fused.pt", "model.onnx"]
HOMES = {"onnx_from_torch": torch_exporter, "audit": job, "compare_outputs": job}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = set_origin(random_network(branches="repvgg", stages=((4, 4), (8, 8), (8, 8))), dataset="digits")
    return irepdeploy.save(model, tmp_path_factory.mktemp("checkpoint") / "trained.pt")


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished export of `checkpoint`, not to be changed."""
    folder = tmp_path_factory.mktemp("exported")
    assert export(checkpoint, folder) == 0
    return folder


def export(source: object, out: Path, *options: str) -> int:
    return main(["export", str(source), "--out", str(out), "--no-simplify", *options])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_checkpoint(tmp_path: Path, capsys: Capture) -> None:
    net = set_origin(random_network(branches="ireps"), dataset="digits")
    checkpoint = irepdeploy.save(net, tmp_path / "trained.pt")
    folder = tmp_path / "out"
    assert main(["export", str(checkpoint), "--out", str(folder)]) == 0
    captured = capsys.readouterr()
    assert names(folder) == FILES
    for text in ("fused state", "model.onnx", "fused.pt", "certificate.json", "6 blocks fused"):
        assert text in captured.out
    assert f"irepdeploy verify {checkpoint}" in captured.err
    certificate = Certificate.load(folder / "certificate.json")
    certificate.check_files(folder)
    assert certificate.ok and 0 < certificate.max_rel_error < 1e-5 and certificate.worst_layer is not None
    assert [(hop.source, hop.result) for hop in certificate.hops] == [
        ("network", "fused state"),
        ("fused state", "model.onnx"),
        ("network", "model.onnx"),
    ]
    for hop in certificate.hops:
        assert [(group["count"], group["name"]) for group in hop.inputs] == [
            (8, "random, standard normal"),
            (64, "data set digits"),
        ]
    assert certificate.blocks["count"] == 6 and certificate.blocks["float64"]["max_rel_error"] < 1e-12
    source = certificate.source
    assert source["statistics"] == "from the checkpoint" and source["branches"] == 51 and source["state"] == "train"
    assert certificate.onnx["simplifier"] == "onnxsim: 0 nodes removed of 18"
    assert source["parameters"] > certificate.onnx["parameters"]
    fused = irepdeploy.load(folder / "fused.pt")
    size = certificate.size
    assert size["train"]["params"] == sum(p.numel() for p in net.parameters())
    assert size["fused"]["params"] == sum(p.numel() for p in fused.parameters())
    assert size["train"]["macs"] > 2 * size["fused"]["macs"] and size["fused"]["macs"] == 2_396_800
    # The written files equal the network.
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert_equivalent(checkpoint, fused)
    assert_equivalent(fused, folder / "model.onnx")
    metadata = {entry.key: entry.value for entry in onnx.load(folder / "model.onnx").metadata_props}
    metadata.pop("irepdeploy.commit", None)
    assert source["architecture"] is not None and metadata == {
        "irepdeploy.architecture": source["architecture"],
        "irepdeploy.classes": json.dumps([str(digit) for digit in range(10)]),
        "irepdeploy.dataset": "digits",
        "irepdeploy.mean": "[0.305]",
        "irepdeploy.net": "vgg6",
        "irepdeploy.std": "[0.35]",
        "irepdeploy.version": irepdeploy.__version__,
    }


@pytest.mark.parametrize(
    ("found", "written"),
    [
        ({"sha": "abc", "dirty": False}, "abc"),
        ({"sha": "abc", "dirty": True}, "abc-dirty"),
        ({"sha": "unknown", "dirty": "unknown"}, None),
    ],
)
def test_the_commit_is_in_the_file(found: dict[str, Any], written: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network_source, "commit", lambda: found)
    assert network_source.metadata_of(origin_of(random_network())).get("irepdeploy.commit") == written


@pytest.mark.parametrize(
    ("dataset", "written"),
    [("hf:/home/someone/pets", "hf:pets"), ("hf:~/pets", "hf:pets"), ("hf:./made/pets", "hf:pets"),
     ("hf:ylecun/mnist", "hf:ylecun/mnist"), ("folders", "folders"), ("mine", None)],
)  # fmt: skip
def test_local_paths_stay_out_of_the_metadata(dataset: str, written: str | None) -> None:
    found = network_source.metadata_of(Origin(dataset=dataset))
    assert found.get("irepdeploy.dataset") == written and ("irepdeploy.mean" in found) == (written is not None)


def test_a_fused_checkpoint_and_the_same_bytes(exported: Path, tmp_path: Path) -> None:
    assert export(exported / "fused.pt", tmp_path) == 0
    assert (exported / "model.onnx").read_bytes() == (tmp_path / "model.onnx").read_bytes()
    hops = Certificate.load(tmp_path / "certificate.json").hops
    assert [(hop.source, hop.result) for hop in hops] == [("network", "model.onnx")]


def test_a_network_by_name_says_that_it_is_random(tmp_path: Path) -> None:
    for folder, seed in (("0", "0"), ("same", "0"), ("1", "1")):
        torch.rand(1)
        assert export("vgg6", tmp_path / folder, "--seed", seed) == 0
    certificate = Certificate.load(tmp_path / "0" / "certificate.json")
    assert certificate.source["statistics"] == "random, seed 0" and certificate.source["file"] is None
    first, same, other = ((tmp_path / folder / "model.onnx").read_bytes() for folder in ("0", "same", "1"))
    assert first == same != other
    # Repeated when the result is exported.
    assert export(tmp_path / "0" / "fused.pt", tmp_path / "again") == 0
    assert Certificate.load(tmp_path / "again" / "certificate.json").source["statistics"] == "random, seed 0"


def test_where_1x1_convolutions_keep_their_normalization(tmp_path: Path) -> None:
    torch.manual_seed(0)
    convolutions = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8)
    model = randomize_statistics(nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(800, 5))).eval()
    few = np.random.default_rng(0).standard_normal((2, 3, 12, 12), dtype=np.float32)
    certificate = irepdeploy.export_model(model, tmp_path, inputs=few, simplify=False)
    assert certificate.ok and certificate.blocks["count"] == 1
    assert "BatchNormalization" not in certificate.onnx["operators"]
    fused = irepdeploy.load(tmp_path / "fused.pt", model=model)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in fused.modules()) == 1
    assert_equivalent(fused, tmp_path / "model.onnx", few)


def test_own_inputs(checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((3, 1, 16, 16), dtype=np.float32))
    assert export(checkpoint, tmp_path / "out", "--inputs", str(tmp_path / "x.npy"), "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert [group["count"] for group in value["hops"][0]["inputs"]] == [8, 3] and value["ok"] is True
    np.save(tmp_path / "x.npy", np.zeros((3, 3, 16, 16), np.float32))
    assert export(checkpoint, tmp_path / "wrong", "--inputs", str(tmp_path / "x.npy")) == 2
    assert not (tmp_path / "wrong").exists()


# A failed check.


def spoilt(model: onnx.ModelProto, layer: str) -> onnx.ModelProto:
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == f"{layer}.weight")
    array = onnx.numpy_helper.to_array(weight).copy()
    array[0, 0] += 1
    weight.raw_data = array.tobytes()
    return model


def broken_writer(*args: Any, **kwargs: Any) -> onnx.ModelProto:
    return spoilt(onnx_from_torch(*args, **kwargs), "stages.1.0.conv")


def broken_fuse(model: nn.Module) -> tuple[nn.Module, list[Any]]:
    fused, proofs = fuse_with_proof(model)
    with torch.no_grad():
        fused.get_submodule("stages.1.0.conv").weight[0, 0] += 1
    return fused, proofs


def broken_audit(*args: Any) -> dict[str, Any]:
    return audit(args[0], Target("old", opset=12), *args[2:])


@pytest.mark.parametrize(
    ("name", "replacement", "reason"),
    [
        ("onnx_from_torch", broken_writer, "the first layer that differs is stages.1.0.conv, by "),
        ("fuse_with_proof", broken_fuse, "first layer that differs is stages.1.0.conv"),
        ("audit", broken_audit, "opset"),
    ],
    ids=["writer", "fuse", "audit"],
)
def test_a_mismatch_leaves_no_model_behind(
    checkpoint: Path,
    tmp_path: Path,
    name: str,
    replacement: Callable[..., Any],
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    monkeypatch.setattr(HOMES.get(name, network_export), name, replacement)
    assert export(checkpoint, tmp_path) == 1
    err = capsys.readouterr().err
    assert reason in err and "Traceback" not in err
    assert names(tmp_path) == ["certificate.failed.json"]
    failed = Certificate.load(tmp_path / "certificate.failed.json")
    assert not failed.ok and failed.failure is not None and reason in failed.failure and failed.artefacts == []
    if "layer" in reason:
        assert failed.hops[-1].comparison["first_bad_layer"] == "stages.1.0.conv"


def test_the_first_bad_layer_of_a_lower_precision(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = fp16.half_graph
    monkeypatch.setattr(fp16, "half_graph", lambda model: spoilt(true(model), "stages.2.0.conv"))
    with pytest.raises(CheckFailed, match=r"model.fp16.onnx differ.*first layer that differs is stages\.2\.0\.conv"):
        irepdeploy.export_model(checkpoint, tmp_path, precision="fp32,fp16", simplify=False)
    assert names(tmp_path) == ["certificate.failed.json"]


def test_a_layer_that_cannot_be_found_does_not_hide_the_verdict(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise ModelError("cannot be run")

    monkeypatch.setattr(torch_exporter, "onnx_from_torch", broken_writer)
    monkeypatch.setattr(first_bad_layer, "first_bad_module", fail)
    with pytest.raises(CheckFailed, match=r"fused state and model\.onnx differ: output 'logits' differs by"):
        irepdeploy.export_model(checkpoint, tmp_path, simplify=False)


def test_earlier_artefacts_survive_a_failed_check(
    checkpoint: Path, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    before = contents(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(torch_exporter, "onnx_from_torch", broken_writer)
        assert export(checkpoint, tmp_path) == 1
    after = contents(tmp_path)
    assert after.pop("certificate.failed.json") and after == before
    Certificate.load(tmp_path / "certificate.json").check_files(tmp_path)
    assert export(checkpoint, tmp_path) == 0
    assert names(tmp_path) == FILES


@pytest.mark.parametrize(
    ("name", "error", "code"),
    [
        ("onnx_from_torch", KeyboardInterrupt(), 130),
        ("save", KeyboardInterrupt(), 130),
        ("save", MemoryError(), 4),
        ("compare_outputs", MemoryError(), 4),
    ],
)
def test_an_export_that_is_broken_off_leaves_nothing(
    checkpoint: Path, tmp_path: Path, name: str, error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(HOMES.get(name, network_export), name, fail)
    assert export(checkpoint, tmp_path) == code
    assert names(tmp_path) == []


@pytest.mark.parametrize("failed", ["model.onnx", "fused.pt", "certificate.json"])
def test_a_file_that_cannot_be_moved_leaves_the_earlier_export(
    checkpoint: Path, exported: Path, tmp_path: Path, failed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(exported, tmp_path, dirs_exist_ok=True)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    real = os.replace

    def replace(source: Path, target: Path) -> None:
        if Path(target) == tmp_path / failed and "earlier" not in Path(source).parts:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    assert export(checkpoint, tmp_path, "--seed", "1") == 4
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# The simplifier.


def simplified_by(code: str) -> list[str]:
    return [sys.executable, "-c", f"import json, sys; before, after = json.loads(sys.stdin.readline())\n{code}"]


WRONG = """
import onnx
model = onnx.load(before)
{change}
last = model.graph.node[-1]
relu = next(node for node in model.graph.node if node.op_type == "Relu")
for node in model.graph.node:
    node.input[:] = [relu.input[0] if name == relu.output[0] else name for name in node.input]
model.graph.node.remove(relu)
onnx.save(model, after)
"""


@pytest.mark.parametrize(
    ("code", "note"),
    [
        ("import os; os.abort()", "crashed (signal 6): not simplified"),
        (WRONG.format(change=""), "1 node removed of 18, but its model was refused: model.onnx and simplified differ"),
        (WRONG.format(change="model.opset_import[0].version = 18"), "refused: the written ONNX is not what was asked"),
    ],
    ids=["crash", "wrong", "other opset"],
)
def test_a_simplifier_that_goes_wrong_loses_nothing(
    checkpoint: Path, exported: Path, tmp_path: Path, code: str, note: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simplify, "WORKER", simplified_by(code))
    certificate = irepdeploy.export_model(checkpoint, tmp_path)
    assert note in certificate.onnx["simplifier"] and certificate.ok and certificate.onnx["nodes"] == 18
    assert (tmp_path / "model.onnx").read_bytes() == (exported / "model.onnx").read_bytes()
    certificate.check_files(tmp_path)


def test_a_simplified_model_is_compared_and_taken(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_identity(*args: Any, **kwargs: Any) -> onnx.ModelProto:
        model = onnx_from_torch(*args, **kwargs)
        first = model.graph.node[0]
        model.graph.node.insert(0, onnx.helper.make_node("Identity", [first.input[0]], ["same"], "same"))
        model.graph.node[1].input[0] = "same"
        return model

    monkeypatch.setattr(torch_exporter, "onnx_from_torch", with_identity)
    certificate = irepdeploy.export_model(checkpoint, tmp_path)
    assert certificate.onnx["simplifier"] == "onnxsim: 1 node removed of 19" and certificate.onnx["nodes"] == 18
    assert ("model.onnx", "simplified") in [(hop.source, hop.result) for hop in certificate.hops]
    certificate.check_files(tmp_path)


# Bad input.


@pytest.mark.parametrize("kind", ["NaN weight", "negative variance", "zero variance", "NaN variance", "NaN gamma"])
def test_networks_that_cannot_be_fused(tmp_path: Path, kind: str, capsys: Capture) -> None:
    model = random_network(branches="repvgg")
    fixed = model.stages[0][0].conv.fixed
    value, name = {"NaN": float("nan"), "negative": -1.0, "zero": 0.0}[kind.split()[0]], kind.split()[1]
    tensors = {"weight": fixed.conv.weight, "gamma": fixed.bn.weight, "variance": fixed.bn.running_var}
    with torch.no_grad():
        tensors[name].flatten()[0] = value
    path = irepdeploy.save(model, tmp_path / "m.pt")
    assert export(path, tmp_path / "out") == 2
    err = capsys.readouterr().err
    assert "stages.0.0.conv.fixed" in err and err.count("\n") == 1
    assert names(tmp_path / "out") == []


def test_bad_values_where_nothing_is_to_fuse(checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    fused = irepdeploy.fuse(irepdeploy.load(checkpoint))
    pointwise = set_origin(nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4)).eval(), input_shape=(1, 8, 8))
    with torch.no_grad():
        fused.stages[1][0].conv.weight[0, 0, 0, 0] = float("inf")
        pointwise[1].running_var[0] = -1
    assert export(irepdeploy.save(fused, tmp_path / "m.pt"), tmp_path / "out") == 2
    assert "stages.1.0.conv.weight" in capsys.readouterr().err
    with pytest.raises(NotFusable, match="1: a running variance"):
        irepdeploy.export_model(pointwise, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_train_mode_and_missing_statistics(tmp_path: Path) -> None:
    with pytest.raises(NotFusable, match=r"train mode.*eval"):
        irepdeploy.export_model(random_network(branches="repvgg").train(), tmp_path)
    free = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    with pytest.raises(NotFusable, match="running statistics"):
        irepdeploy.export_model(set_origin(free, input_shape=(1, 8, 8)), tmp_path)
    assert names(tmp_path) == []


def test_an_operator_that_cannot_be_written(tmp_path: Path) -> None:
    class Decomposed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(x)

    model = set_origin(nn.Sequential(nn.Conv2d(1, 4, 3), Decomposed()).eval(), input_shape=(1, 8, 8))
    with pytest.raises(ModelError, match="svdvals"):
        irepdeploy.export_model(model, tmp_path, target="xavier-jp5")
    assert names(tmp_path) == []


def test_sources_that_are_none(checkpoint: Path, exported: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "garbage.pt").write_bytes(b"garbage" * 99)
    (tmp_path / "truncated.pt").write_bytes(checkpoint.read_bytes()[:5000])
    (tmp_path / "swapped.pt").write_bytes((exported / "model.onnx").read_bytes())
    for source, named in (
        (tmp_path / "none.pt", "no such"),
        (tmp_path / "garbage.pt", "not a checkpoint"),
        (tmp_path / "truncated.pt", "truncated"),
        (tmp_path / "swapped.pt", "got an ONNX model"),
        (tmp_path, "got a directory"),
        ("vgg61", "did you mean vgg6"),
        ("nothing-like-it", "one of vgg6, "),
    ):
        capsys.readouterr()
        assert export(source, tmp_path / "out") == 2, source
        err = capsys.readouterr().err
        assert named in err and err.count("\n") == 1 and "Traceback" not in err
    assert export("vgg6", tmp_path / "out", "--target", "tpu") == 2
    assert "ort, trt" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_foreign_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    (tmp_path / "theirs_for_export.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 6))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import theirs_for_export  # type: ignore[import-not-found]  # written above

    torch.manual_seed(0)
    model = irepdeploy.insert_branches(theirs_for_export.make(), "ireps").eval()
    path = irepdeploy.save(model, tmp_path / "m.pt", factory="theirs_for_export:make", input_shape=(3, 8, 8))
    assert export(path, tmp_path / "out") == 2
    assert "--model theirs_for_export:make" in capsys.readouterr().err
    assert export(path, tmp_path / "out", "--model", "theirs_for_export:make") == 0
    assert "--model theirs_for_export:make" in capsys.readouterr().err
    model = irepdeploy.load(tmp_path / "out" / "fused.pt", model=theirs_for_export.make)
    assert_equivalent(model, tmp_path / "out" / "model.onnx")
    # If the checkpoint does not declare its inputs, the given inputs do.
    path = irepdeploy.save(set_origin(model, input_shape=()), tmp_path / "m.pt")
    assert export(path, tmp_path / "two", "--model", "theirs_for_export:make") == 2
    assert "--inputs" in capsys.readouterr().err
    np.save(tmp_path / "x.npy", np.ones((2, 3, 8, 8), np.float32))
    args = ("--model", "theirs_for_export:make", "--inputs", str(tmp_path / "x.npy"))
    assert export(path, tmp_path / "two", *args) == 0
    assert irepdeploy.export_model(model, tmp_path / "three", inputs=np.ones((3, 8, 8), np.float32), simplify=False).ok
    with pytest.raises(InputError, match="what inputs it takes"):
        irepdeploy.export_model(model, tmp_path / "four")


def test_the_folder_is_named_after_the_source(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(checkpoint), "--no-simplify"]) == 0
    assert names(tmp_path / "trained-export") == FILES


def test_a_full_disk(checkpoint: Path, tmp_path: Path, capsys: Capture) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, before[1]))
    try:
        code = export(checkpoint, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    last = capsys.readouterr().err.splitlines()[-1]
    assert code == 4 and last.startswith("irepdeploy: error") and "free some space" in last
    assert names(tmp_path / "out") == []
