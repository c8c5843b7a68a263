from __future__ import annotations

import json
import os
import shlex
from pathlib import Path

import pytest
import torch

from irepdeploy.cli import main
from irepdeploy.parsing.json_text import unsealed
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.search.execution.shipped import recipe_path, shipped_recipes
from irepdeploy.search.supernet.supernet import Supernet
from irepdeploy.search.training import training
from support.tiny import at_call, raising


@pytest.fixture(scope="module")
def tiny_overrides(tiny_overrides: list[str]) -> list[str]:
    """Two epochs each."""
    return [*tiny_overrides, "search.evolutions=1", "train.epochs=2"]


@pytest.fixture(scope="module")
def searched(tiny_overrides: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("search")
    assert main(["search", "digits", *tiny_overrides, "--out", str(out)]) == 0
    return out


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """Return the output of an error: nothing on stdout, one line on stderr, no traceback."""
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if not line.startswith(("search (", "train vgg6"))]
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("irepdeploy: error: ")
    return lines[0]


def test_search_then_train_as_it_says(
    tiny_overrides: list[str], in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "digits", *tiny_overrides, "--out", "a b"]) == 0
    printed, said = capsys.readouterr()
    assert "of 25 (budget 16)" in printed
    for name in ("best.json", "population", "journal.jsonl", "result.json"):
        assert f"{Path('a b') / name}" in printed
        assert (in_folder / "a b" / name).exists()
    following = shlex.split(said.splitlines()[-1].removeprefix("next: irepdeploy "))
    # The overrides are part of what was searched: without them another network would be trained.
    assert following[: len(tiny_overrides) + 2] == ["train", "digits", *tiny_overrides]
    assert main(following) == 0
    printed, said = capsys.readouterr()
    assert "fused, read once" in printed
    assert (
        Architecture.load("a b/best.json").count == json.loads(Path("runs/train/result.json").read_text())["branches"]
    )
    assert said.splitlines()[-1] == "next: irepdeploy export runs/train/best.pt --out build"


def test_json_is_all_that_is_on_stdout(
    tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("search", "train"):
        out = tmp_path / command
        assert main([command, "digits", *tiny_overrides, "train.epochs=1", "--out", str(out), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == unsealed(json.loads((out / "result.json").read_text()))


def test_resume_goes_on(searched: Path, tiny_overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    before = (searched / "best.json").read_bytes()
    again = ["search", "digits", *tiny_overrides, "--out", str(searched)]
    assert main(again) == 2
    assert "--resume" in one_line(capsys)
    assert main([*again, "--resume"]) == 0
    assert (searched / "best.json").read_bytes() == before


@pytest.mark.parametrize("command", ["search", "train"])
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["digitz"], "did you mean digits?"),
        (["zzzzzz"], "a YAML file, or one of digits"),
        (["missing.yaml"], "missing.yaml: no such recipe"),
        (["."], "unknown recipe '.'"),
        (["digits", "search.populaton=3"], "did you mean search.population"),
        (["digits", "population"], "expected key=value, got 'population'"),
        (["digits", "lr=1"], "ambiguous"),
        (["digits", "scale=huge"], "one of smoke"),
        (["digits", "train.epochs=eight"], "train.epochs: expected a valid integer, got 'eight'"),
        (
            ["digits", "search.budget=3/2"],
            "search.budget: expected a share of the possible branches above 0 and at most 1, got 3/2",
        ),
        (["digits", "net.name=vgg61"], "did you mean vgg6"),
        (["digits", "data.options.train=1200"], "at most 1200 together"),
        (["digits", "--resume", "--overwrite"], "choose one"),
    ],
)
def test_bad_input_is_one_clear_line(
    command: str, given: list[str], said: str, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, *given, "--out", "out"]) == 2
    assert said in one_line(capsys)
    assert not [path for path in in_folder.rglob("*") if path.is_file()]


def test_faults_of_recipe_and_overrides_are_said_together(in_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "digits", "seed=-1", "nonsense=1", "train.epochs=0", "alone"]) == 2
    line = one_line(capsys)
    for fault in ("seed:", "'nonsense'", "train.epochs:", "'alone'"):
        assert fault in line


def test_a_folder_named_like_a_recipe_is_not_in_its_way(in_folder: Path) -> None:
    (in_folder / "digits").mkdir()
    assert recipe_path("digits") == shipped_recipes()["digits"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no such Architecture file"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"{}", "not an Architecture"),
        (b"[1, 2]", "not an Architecture"),
    ],
)
def test_a_bad_architecture_file(
    content: bytes | None, said: str, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        Path("arch.json").write_bytes(content)
    assert main(["train", "digits", "--arch", "arch.json"]) == 2
    line = one_line(capsys)
    assert "arch.json" in line
    assert said in line


def test_an_architecture_of_another_network(
    searched: Path, in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # One stage less than the search had.
    overrides = ["net.args.stages=[[4, 4]]", "data.options.train=24", "data.options.val=20"]
    assert main(["train", "digits", *overrides, "--arch", str(searched / "best.json")]) == 2
    assert "stages.1.0.conv" in one_line(capsys)


@pytest.mark.parametrize("command", ["search", "train"])
def test_a_folder_that_cannot_be(
    command: str, tiny_overrides: list[str], in_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").write_text("mine")
    for out in ("file", "file/deeper", "/proc/irepdeploy"):
        assert main([command, "digits", *tiny_overrides, "--out", out]) == 2
        line = one_line(capsys)
        assert out in line
        assert "cannot write" in line
    assert Path("file").read_text() == "mine"


def test_a_loss_that_is_no_number_exits_4(
    tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("search", "train"):
        changes = [f"{command}.weights.lr=1e38", f"{command}.weights.clip=null"]
        assert main([command, "digits", *tiny_overrides, *changes, "--out", str(tmp_path / command)]) == 4
        assert "a smaller weights.lr" in one_line(capsys)


@pytest.mark.parametrize("command", ["search", "train"])
def test_ctrl_c_leaves_whole_files_and_a_run_that_goes_on(
    command: str,
    searched: Path,
    tiny_overrides: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = [command, "digits", *tiny_overrides, "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        # In the second step of the second epoch, in the middle of the work.
        interrupt = raising(KeyboardInterrupt)
        patch.setattr(Supernet, "accumulate", at_call(4, Supernet.accumulate, interrupt))
        patch.setattr(training, "clip", at_call(4, training.clip, interrupt))
        assert main(line) == 130
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1] == "irepdeploy: interrupted"
    assert "Traceback" not in printed.err
    names = {path.name for path in tmp_path.iterdir()}
    common = {"full-recipe.yaml", "journal.jsonl", "state.pt"}
    assert names == common | ({"best.pt", "last.pt"} if command == "train" else set())
    assert [json.loads(text)["event"] for text in (tmp_path / "journal.jsonl").read_text().splitlines()]
    assert torch.load(tmp_path / "state.pt", weights_only=True)["epoch"] == 1
    assert main([*line, "--resume"]) == 0
    if command == "search":
        assert (tmp_path / "best.json").read_bytes() == (searched / "best.json").read_bytes()


def test_a_full_disk_exits_4_and_leaves_whole_files(
    tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, calls = os.fsync, 0

    def full(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 5:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main(["search", "digits", *tiny_overrides, "--out", str(tmp_path)]) == 4
    assert "no space left on device" in one_line(capsys)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".part")]
    assert main(["search", "digits", *tiny_overrides, "--out", str(tmp_path), "--resume"]) == 0


def test_an_architecture_and_no_branches_contradict_each_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["train", "digits", "branches=none", "--arch", str(tmp_path / "best.json"), "--out", str(tmp_path / "out")]
    assert main(line) == 2
    assert "omit one" in capsys.readouterr().err and not (tmp_path / "out").exists()
