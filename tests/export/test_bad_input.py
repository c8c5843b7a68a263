"""User errors and interrupted exports give one line and the right exit code, and leave no file behind."""

from __future__ import annotations

import json
import shlex
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
HOSTILE = ["with space", "qu'o\"te", "ünïcode-日本", "$(touch x);", "-dash"]


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
    with pytest.raises(
        IrepdeployError, match=r"Apply, model\.onnx: .*target xavier-jp5 does not accept: Det"
    ) as caught:
        irepdeploy.export_model(net, tmp_path / "xavier", target="xavier-jp5", simplify=False)
    assert caught.value.exit_code == 1 and ".staging" not in str(caught.value)
    assert names(tmp_path / "xavier") == ["certificate.failed.json"]
    failed = Certificate.load(tmp_path / "xavier" / "certificate.failed.json")
    assert "Det" in str(failed.failure) and ".staging" not in str(failed.failure)


@pytest.mark.parametrize("shape", ["1x3x?x?", "1x3x-1x-1", "Nx3x8x8", "1x3x0x8"])
def test_sizes_that_are_free_beyond_the_batch(shape: str, tmp_path: Path, capsys: Capture) -> None:
    assert main(["export", "vgg6", "--input-shape", shape, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert "--input-shape: expected " in err and err.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda y, x: y[:, : len(x)], "depends? on the batch"),
        (lambda y, x: y if len(x) == 1 else y.relu(), "calls other operators for another batch"),
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
    with pytest.raises(IrepdeployError, match="output size of NonZero depends on values"):
        irepdeploy.export_model(applying(lambda y, x: y[y > 0]), tmp_path, simplify=False)
    assert names(tmp_path) == ["certificate.failed.json"]


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
    options = ["--model", "theirs:make", "--target", "xavier-jp5", "--no-simplify", f"--out={name}"]
    assert main(["export", *options, "--", f"{name}.pt"]) == 0
    err = capsys.readouterr().err
    line = next(line for line in err.splitlines() if line.startswith("next: "))
    words = shlex.split(line.removeprefix("next: "))
    paths = [word.removeprefix("./") for word in words[2:4]]
    assert paths == [f"{name}.pt", f"{name}/model.onnx"]
    assert words[:2] == ["irepdeploy", "verify"] and words[4:] == ["--model", "theirs:make"]
    assert names(tmp_path) == sorted([name, f"{name}.pt"])
    assert names(tmp_path / name) == ["certificate.json", "fused.pt", "model.onnx"]
    assert main(words[1:]) == 0


@pytest.mark.trt
@pytest.mark.parametrize("name", HOSTILE)
def test_engines_in_hostile_places(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    irepdeploy.save(applying(lambda y, x: y.relu()), f"{name}.pt")
    monkeypatch.setitem(sys.modules, "theirs", type("theirs", (), {"make": lambda: applying(lambda y, x: y.relu())}))
    options = ["--model", "theirs:make", "--target", "rtx", "--precision", "fp32", "--no-simplify", f"--out={name}"]
    assert main(["export", *options, "--", f"{name}.pt"]) == 0
    made = ["certificate.json", "fused.pt", "model.fp32.engine", "model.fp32.engine.json", "model.onnx"]
    assert names(tmp_path / name) == made and names(tmp_path) == sorted([name, f"{name}.pt"])
    Certificate.load(tmp_path / name / "certificate.json").check_files(tmp_path / name)


# A place where not even root can write.
@pytest.mark.parametrize("out", ["/proc/irepdeploy", "/sys", "/dev/null/out", "/etc/passwd", "/etc/passwd/out"])
def test_a_folder_that_cannot_be_written(out: str, capsys: Capture) -> None:
    assert main(["export", "vgg6", "--no-simplify", "--out", out]) == 2
    err = capsys.readouterr().err
    assert "cannot write" in err and "--out" in err and err.count("\n") == 1


# One process imports everything and forks for each case: a child patches a function so that it is killed there.
KILLED = """
import importlib, json, os, signal, sys
from irepdeploy.cli import main
from irepdeploy.export import pipeline
for module, name, after, arguments in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        module = importlib.import_module(f"irepdeploy.{module}")
        real = getattr(module, name)
        def killed(*args, **kwargs):
            if after:
                real(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)
        setattr(module, name, killed)
        main(["export", "vgg6", "--no-simplify", *arguments])
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
"""


def kill(*cases: tuple[str, str, bool, list[str]]) -> None:
    """Run exports that are killed in a function of a module, before or after its work."""
    subprocess.run([sys.executable, "-c", KILLED, json.dumps(cases)], check=True)


def visible(folder: Path) -> list[str]:
    return [name for name in names(folder) if not name.startswith(".")]


@pytest.mark.slow
def test_killed_at_any_point_nothing_is_vouched_for(tmp_path: Path) -> None:
    written, moved = tmp_path / "written", tmp_path / "half moved"
    kill(
        ("export.job", "onnx_runner", False, ["--out", str(written)]),
        ("files", "move_file", True, ["--out", str(moved)]),
    )
    assert visible(written) == [] and visible(moved) == ["model.onnx"]
    for folder in (written, moved):
        assert names(folder) != visible(folder)
        # The next export removes the leftovers.
        irepdeploy.export_model("vgg6", folder, simplify=False)
        assert names(folder) == ["certificate.json", "fused.pt", "model.onnx"]


@pytest.mark.slow
@pytest.mark.trt
def test_killed_while_the_engine_is_written(tmp_path: Path) -> None:
    irepdeploy.export_model("vgg6", tmp_path, simplify=False)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    options = ["--target", "rtx", "--precision", "fp32", "--out", str(tmp_path)]
    kill(*(("export.engine.engine", "move_file", after, options) for after in (False, True)))
    # The earlier files are whole and still certified.
    assert {name: (tmp_path / name).read_bytes() for name in visible(tmp_path)} == before
    Certificate.load(tmp_path / "certificate.json").check_files(tmp_path)
    assert main(["export", "vgg6", "--no-simplify", *options]) == 0
    assert names(tmp_path) == visible(tmp_path)
