"""A run owns its folder; a refused run leaves nothing there, and an interrupted one leaves the folder unchanged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import irepdeploy as ird
from irepdeploy.cli import main
from irepdeploy.data.loader import Loader
from irepdeploy.errors import InputError
from irepdeploy.folders import output_folder
from irepdeploy.runs.record import append
from support.dataset_files import write_class_folders
from support.records import make_record
from support.scale_model import scale_model
from support.tiny import SOME, raising, tiny_overrides

__all__ = ["tiny_overrides"]

# Without --out; "TINY" stands for the overrides of the tiny recipe.
_SEARCH = ["search", "digits", "TINY"]
_COMPARE = ["search", "compare", "digits", "TINY", "--seeds", "1"]
_TRAIN = ["train", "digits", "TINY"]
_FINETUNE = ["train", "finetune", "digits", "TINY"]
_PRESETS = ["train", "compare", "digits", "TINY", "--seeds", "1"]
_EXPORT = ["export", "scale.onnx", "--input-shape", "1x1x8x8"]
_BENCH = ["bench", "--seconds", "0"]
_SUITE = ["bench", "--suite", "training-step", "--scale", "smoke"]
_JETSON = ["jetson", "bench", "nobody@nowhere.invalid", "--seconds", "0"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    (folder / "scale.onnx").write_bytes(scale_model())
    (folder / "damaged.onnx").write_bytes(scale_model()[:-20])
    np.save(folder / "long.npy", np.zeros((1, 1, 8, 9), np.float32))
    append(folder / "records.jsonl", make_record())
    (folder / "damaged.jsonl").write_text("damaged\n")
    SOME.save(folder / "arch.json")
    torch.manual_seed(0)
    ird.save(ird.build("vgg6", stages=[[4, 4], [6]]).eval(), folder / "plain.pt")
    return folder


@pytest.fixture
def inside(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, which holds the files of `made`."""
    for path in made.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def busy(inside: Path) -> Iterator[Path]:
    """A folder `out` that another run holds."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with output_folder(inside / "out"):
            held.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait()
    yield inside / "out"
    done.set()
    thread.join()


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def typed(words: list[str], overrides: list[str]) -> list[str]:
    few = [*overrides, "search.evolutions=1", "search.warmup_epochs=0", "search.population=2", "train.epochs=1"]
    return [part for word in words for part in (few if word == "TINY" else [word])]


@pytest.mark.parametrize(
    "command",
    [
        _SEARCH,
        _COMPARE,
        _TRAIN,
        [*_FINETUNE, "--from", "plain.pt"],
        _PRESETS,
        _EXPORT,
        [*_BENCH, "scale.onnx"],
        _SUITE,
        [*_JETSON, "scale.onnx", "--runner", "ort-cpu"],
        ["report", "records.jsonl"],
        ["demo", "scale=smoke"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_folder_that_is_in_use_is_refused(
    command: list[str], busy: Path, tiny_overrides: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = below(busy.parent)
    assert main([*typed(command, tiny_overrides), "--out", "out"]) == 4
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("irepdeploy: error: out: this folder is in use by another thread of this process")
    assert below(busy.parent) == before


_RECIPE = [
    ["search.weights.lr=fast"],
    ["data.name=cifar10", "data.options={root: missing}"],
    ["net.name=vgg61"],
    ["scale=huge"],
    ["--tensorboard"],
]


@pytest.mark.parametrize(
    ("command", "refused", "mended"),
    [
        (_SEARCH, [*_RECIPE, ["search.budget=0"], ["--resume", "--overwrite"]], None),
        (_TRAIN, [*_RECIPE, ["--arch", "none.json"], ["--arch", "plain.pt"], ["--arch", "damaged.onnx"]], None),
        (_FINETUNE, [[], ["--from", "none.pt"], ["--from", "damaged.onnx"]], ["--from", "plain.pt"]),
        (_COMPARE, [["--strategies", "des,best"], ["--strategies", "des", "net.name=vgg61"]], None),
        (_PRESETS, [["--presets", "plain,best"], ["--presets", "plain", "net.name=vgg61"]], ["--presets", "plain"]),
        (
            _EXPORT,
            [
                ["--target", "moon"],
                ["--precision", "fp8"],
                ["--inputs", "none.npy"],
                ["--inputs", "long.npy"],
                ["--bake-preprocess", "nhwc,rgb", "--mean", "a"],
                ["--output-names", "a,b,c"],
            ],
            [],
        ),
        (
            _BENCH,
            [
                ["none.onnx"],
                ["damaged.onnx"],
                ["scale.onnx", "plain.pt", "--shape", "input=1x2x8x8"],
                ["scale.onnx", "--shape", "x=1"],
                ["scale.onnx", "--against", "damaged.jsonl"],
                ["scale.onnx", "--runner", "fast"],
            ],
            ["scale.onnx"],
        ),
        (_SUITE, [["--runner", "trt"], ["scale.onnx"], ["--seconds", "1"]], None),
        (["report"], [["none"], ["damaged.jsonl"]], ["records.jsonl"]),
        (["report", "--out", "out/here/page.html"], [["none"], ["damaged.jsonl"]], ["records.jsonl"]),
        (_JETSON, [["none.onnx"], ["damaged.onnx"], ["scale.onnx", "--runner", "fast"], ["scale.onnx"]], None),
        (["demo", "scale=smoke"], [["seed=a"], ["net.name=vgg61"], ["data.name=cifar10"]], None),
    ],
    ids=lambda given: " ".join(given[:2]) if given and isinstance(given[0], str) else "",
)
def test_what_is_refused_leaves_nothing_so_that_the_mended_command_runs(
    command: list[str],
    refused: list[list[str]],
    mended: list[str] | None,
    inside: Path,
    tiny_overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = typed(command, tiny_overrides)
    if "--out" not in command:
        command += ["--out", "out/here"]
    before = below(inside)
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
    for words in refused:
        assert main([*command, *words]) in (2, 3), words
        assert below(inside) == before, words
    if mended is not None:
        assert main([*command, *mended]) == 0
        assert (inside / "out" / "here").is_dir()


@pytest.mark.parametrize("command", [_SEARCH, _TRAIN], ids=["search", "train"])
def test_input_that_is_refused_in_the_first_epoch_leaves_nothing(
    command: list[str], inside: Path, tiny_overrides: list[str]
) -> None:
    command = [*typed(command, tiny_overrides), "--out", "out"]
    before = below(inside)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "__iter__", raising(InputError("a damaged image")))
        assert main(command) == 2
    assert below(inside) == before
    assert main(command) == 0
    whole = {path: path.read_bytes() for path in (inside / "out").rglob("*") if path.is_file()}
    # An earlier run is not lost either.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "__iter__", raising(InputError("a damaged image")))
        assert main([*command, "--overwrite"]) == 2
    assert {path: path.read_bytes() for path in (inside / "out").rglob("*") if path.is_file()} == whole


@pytest.mark.parametrize(
    "command",
    [["plot", "latency", "records.jsonl", "--top1", "net=90"], ["plot", "arch", "arch.json"]],
    ids=lambda command: command[1],
)
def test_a_picture_gets_its_folder(command: list[str], inside: Path) -> None:
    before = below(inside)
    for wrong in (["none", "--out", "new/deep/a.png"], ["--out", "new/deep/a.gif"]):
        assert main([*command, *wrong]) == 2
        assert below(inside) == before
    assert main([*command, "--out", "new/deep/a.png"]) == 0
    assert [name for name in below(inside) if name not in before] == ["new", "new/deep", "new/deep/a.png"]


# Reports when the files of an export are complete but not yet published, and waits.
_EXPORTING = """
import sys
from irepdeploy.cli import main
from irepdeploy.export import pipeline
def publish(*given):
    print("staged", flush=True)
    sys.stdin.read()
pipeline._publish = publish
sys.exit(main(sys.argv[1:]))
"""
# Also reports when it is asked to stop, and does not stop.
_LEAVING = _EXPORTING.replace(
    "pipeline._publish = publish",
    """
def reluctant(*given):
    try:
        publish()
    finally:
        print("leaving", flush=True)
        sys.stdin.read()
pipeline._publish = reluctant
""",
)


def test_an_export_that_is_terminated_leaves_the_folder_as_it_was(inside: Path) -> None:
    before = below(inside)
    command = [sys.executable, "-c", _EXPORTING, *_EXPORT, "--out", "out"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "staged\n"
        assert len([name for name in below(inside) if name.startswith("out/.irepdeploy-staging-")]) > 1
        process.terminate()
        _, errors = process.communicate()
    assert process.returncode == 143
    assert errors.splitlines()[-1] == "irepdeploy: terminated" and "Traceback" not in errors
    assert below(inside) == before


@pytest.mark.slow
def test_the_second_signal_ends_at_once_and_the_next_export_clears_up(inside: Path) -> None:
    command = [sys.executable, "-c", _LEAVING, *_EXPORT, "--out", "out"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        for word in ("staged\n", "leaving\n"):
            assert process.stdout.readline() == word
            process.terminate()
        process.communicate()
    assert process.returncode == -signal.SIGTERM
    assert any(name.startswith("out/.irepdeploy-staging-") for name in below(inside))
    assert main([*_EXPORT, "--out", "out"]) == 0
    assert sorted(os.listdir("out")) == ["certificate.json", "model.onnx"]


# Reports which processes decode images, and waits in the middle of an epoch.
_TRAINING = """
import multiprocessing, sys
from irepdeploy.cli import main
from irepdeploy.data.loader import Loader
batches = Loader.__iter__
def some(self):
    for batch in batches(self):
        yield batch
        print(len(multiprocessing.active_children()), flush=True)
        sys.stdin.read()
Loader.__iter__ = some
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_processes_that_decode_images_end_with_the_training(number: int, group: bool, inside: Path) -> None:
    write_class_folders(inside / "data")
    words = ["train", "irep_resnet18_imagenet", "scale=smoke", "device=cpu", "data.root=data", "data.verify=false"]
    words += ["data.name=imagenet", "data.options={val: 6, size: 32, workers: 2}", "train.epochs=1"]
    words += ["train.batch_size=6", "train.augment={area: 0.08, flip: true}", "--out", "out"]
    before = below(inside)
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", _TRAINING, *words], stdin=pipe, stdout=pipe, stderr=pipe, text=True,
                          start_new_session=True) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "2\n"
        (os.killpg if group else os.kill)(process.pid, number)
        # Ends when the last process has closed the pipes.
        _, errors = process.communicate()
    assert process.returncode == 128 + number
    assert errors.splitlines()[-1] == f"irepdeploy: {'terminated' if number == signal.SIGTERM else 'hung up'}"
    assert "Traceback" not in errors
    assert below(inside) == before
