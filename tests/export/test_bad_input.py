"""What users get wrong, and what can befall an export: a line that says it, its exit code, and nothing left behind."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import Tensor, nn

import irepdeploy
from irepdeploy.cli import main
from irepdeploy.errors import IrepdeployError
from irepdeploy.reparam.origin import set_origin
from irepdeploy.verify.certificate import Certificate

Capture = pytest.CaptureFixture[str]
HOSTILE = ["with space", "qu'o\"te", "ünïcode-日本", "$(touch x);"]


class Apply(nn.Module):
    """A convolution, and a function of its output and of the input."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.function = nn.Conv2d(3, 4, 3, padding=1), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.conv(x), x)


def applying(function: Callable[[Tensor, Tensor], Tensor]) -> nn.Module:
    torch.manual_seed(0)
    return set_origin(Apply(function).eval(), input_shape=(3, 8, 8))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_an_operator_that_the_target_does_not_take(tmp_path: Path) -> None:
    net = applying(lambda y, x: torch.linalg.det(y))
    assert irepdeploy.export_model(net, tmp_path / "ort", simplify=False).onnx["operators"]["Det"] == 1
    with pytest.raises(IrepdeployError, match=r"Apply, model\.onnx: .*target xavier-jp5 does not take: Det") as caught:
        irepdeploy.export_model(net, tmp_path / "xavier", target="xavier-jp5", simplify=False)
    assert caught.value.exit_code == 1 and ".staging" not in str(caught.value)
    assert names(tmp_path / "xavier") == ["certificate.failed.json"]
    failed = Certificate.load(tmp_path / "xavier" / "certificate.failed.json")
    assert "Det" in str(failed.failure) and ".staging" not in str(failed.failure)


@pytest.mark.parametrize("shape", ["1x3x?x?", "1x3x-1x-1", "Nx3x8x8", "1x3x0x8"])
def test_sizes_that_are_free_beyond_the_batch(shape: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["export", "vgg6", "--input-shape", shape, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "is no input" in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda y, x: y[:, : len(x)], "depends? on the batch"),
        (lambda y, x: y if len(x) == 1 else y.relu(), "other things for another batch"),
    ],
    ids=["shape", "branch"],
)
def test_a_free_batch_that_the_network_does_not_have(
    function: Callable[[Tensor, Tensor], Tensor], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(IrepdeployError, match=reason) as caught:
        irepdeploy.export_model(applying(function), tmp_path, dynamic_batch=(1, 2, 4), simplify=False)
    assert caught.value.exit_code in (1, 2) and "model.onnx" not in names(tmp_path)


def test_a_shape_of_values(tmp_path: Path) -> None:
    with pytest.raises(IrepdeployError, match="of a batch of"):
        irepdeploy.export_model(applying(lambda y, x: y[y > 0]), tmp_path, simplify=False)
    assert names(tmp_path) == []


def test_an_onnx_model_without_its_data(tmp_path: Path, capsys: Capture) -> None:
    irepdeploy.export_model("vgg6", tmp_path, simplify=False)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    (tmp_path / "m.data").unlink()
    capsys.readouterr()
    for command in (["export", "m.onnx"], ["verify", "m.onnx", "model.onnx"], ["inspect", "m.onnx"]):
        paths = [str(tmp_path / word) if word.endswith(".onnx") else word for word in command]
        assert main(paths) == 2
        err = capsys.readouterr().err
        assert "m.onnx" in err and err.count("\n") == 1 and "Traceback" not in err


@pytest.mark.parametrize("name", HOSTILE)
def test_the_lines_to_type_survive_hostile_names(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(tmp_path)
    net = applying(lambda y, x: y.relu())
    irepdeploy.save(net, f"{name}.pt", factory="theirs:make")
    monkeypatch.setitem(sys.modules, "theirs", type("theirs", (), {"make": lambda: applying(lambda y, x: y.relu())}))
    arguments = ["export", f"{name}.pt", "--model", "theirs:make", "--target", "xavier-jp5", "--no-simplify"]
    assert main([*arguments, "--out", name]) == 0
    err = capsys.readouterr().err
    line = next(line for line in err.splitlines() if line.startswith("next: "))
    words = shlex.split(line.removeprefix("next: "))
    assert words == ["irepdeploy", "verify", f"{name}.pt", f"{name}/model.onnx", "--model", "theirs:make"]
    assert names(tmp_path) == sorted([name, f"{name}.pt"])
    assert main(words[1:]) == 0


@pytest.mark.trt
@pytest.mark.parametrize("name", HOSTILE)
def test_engines_in_hostile_places(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    irepdeploy.save(applying(lambda y, x: y.relu()), f"{name}.pt")
    monkeypatch.setitem(sys.modules, "theirs", type("theirs", (), {"make": lambda: applying(lambda y, x: y.relu())}))
    arguments = ["export", f"{name}.pt", "--model", "theirs:make", "--target", "rtx", "--precision", "fp32"]
    assert main([*arguments, "--no-simplify", "--out", name]) == 0
    made = ["certificate.json", "fused.pt", "model.fp32.engine", "model.fp32.engine.json", "model.onnx"]
    assert names(tmp_path / name) == made and names(tmp_path) == sorted([name, f"{name}.pt"])
    Certificate.load(tmp_path / name / "certificate.json").check_files(tmp_path / name)


# Where not even root can write.
@pytest.mark.parametrize("out", ["/proc/irepdeploy", "/sys", "/dev/null/out"])
def test_a_folder_that_is_read_only(out: str, capsys: Capture) -> None:
    assert main(["export", "vgg6", "--no-simplify", "--out", out]) == 2
    err = capsys.readouterr().err
    assert "cannot write" in err and "--out" in err and err.count("\n") == 1


KILLED = """
import importlib, os, signal, sys
module = importlib.import_module("irepdeploy.export.{module}")
real = module.{name}
def killed(*args, **kwargs):
    {before}
    os.kill(os.getpid(), signal.SIGKILL)
module.{name} = killed
from irepdeploy.cli import main
main(["export", "vgg6", "--out", sys.argv[1], *sys.argv[2:]])
"""


def kill(out: Path, module: str, name: str, *options: str, before: str = "pass") -> None:
    code = KILLED.format(module=module, name=name, before=before)
    done = subprocess.run([sys.executable, "-c", code, str(out), *options], capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize("where", ["written", "half moved"])
def test_killed_at_any_point_nothing_is_vouched_for(where: str, tmp_path: Path) -> None:
    if where == "written":
        kill(tmp_path, "job", "onnx_runner")
        assert [name for name in names(tmp_path) if not name.startswith(".staging-")] == []
    else:
        kill(tmp_path, "pipeline", "move_file", before="real(*args, **kwargs)")
        assert [name for name in names(tmp_path) if not name.startswith(".staging-")] == ["model.onnx"]
    assert any(name.startswith(".staging-") for name in names(tmp_path))
    # The next one sweeps up.
    irepdeploy.export_model("vgg6", tmp_path, simplify=False)
    assert names(tmp_path) == ["certificate.json", "fused.pt", "model.onnx"]


@pytest.mark.trt
@pytest.mark.parametrize("before", ["pass", "real(*args, **kwargs)"])
def test_killed_while_the_engine_is_written(before: str, tmp_path: Path) -> None:
    irepdeploy.export_model("vgg6", tmp_path, simplify=False)
    held = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    options = ["--target", "rtx", "--precision", "fp32", "--no-simplify"]
    kill(tmp_path, "engine.engine", "move_file", *options, before=before)
    # What was there is whole and certified still.
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == held
    Certificate.load(tmp_path / "certificate.json").check_files(tmp_path)
    assert main(["export", "vgg6", *options, "--out", str(tmp_path)]) == 0
    assert not any(name.startswith(".staging-") for name in names(tmp_path))
