from __future__ import annotations

import json
from pathlib import Path

import pytest

import irepdeploy as ird
from irepdeploy.cli import main


def test_finetune_tells_accuracy_before_and_after_and_can_be_exported(
    tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = ird.build("vgg6", stages=((4, 4), (6,)), input_shape=(1, 16, 16)).eval()
    plain, out = ird.save(net, tmp_path / "plain.pt"), tmp_path / "tuned"
    line = ["train", "finetune", "digits", *tiny_overrides, "train.epochs=1", "--from", str(plain), "--out", str(out)]
    assert main(line) == 0
    shown = capsys.readouterr().out
    result = json.loads((out / "result.json").read_text())
    before, after = result["accuracy_before"], result["accuracy_after"]
    for words in (f"{before:.2%}", f"{after:.2%}", f"{100 * (after - before):+.2f}"):
        assert words in shown
    assert main(["export", str(out / "best.pt"), "--out", str(tmp_path / "build")]) == 0


def test_compare_writes_table_figures_and_picture(
    tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["train", "compare", "digits", *tiny_overrides, "train.epochs=1"]
    line += ["--presets", "plain, repvgg", "--seeds", "1", "--out", str(tmp_path)]
    assert main(line) == 0
    shown = capsys.readouterr().out
    assert "differences from plain" in shown
    assert (tmp_path / "compare.png").stat().st_size > 1000
    assert len(json.loads((tmp_path / "compare.json").read_text())["runs"]) == 2
    assert main(line) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*line, "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["presets"] == ["plain", "repvgg"]


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (["finetune", "digits"], 2, "--from CKPT"),
        (["finetune", "digits", "--from", "nowhere.pt"], 2, "nowhere.pt"),
        (["compare", "digits", "--presets", "plain,foo"], 2, "unknown preset 'foo'"),
        (["compare", "digits", "--presets", ","], 2, "no preset is named"),
    ],
)
def test_bad_input_is_one_line(
    line: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["train", *line]) == code
    said = capsys.readouterr().err
    assert words in said
    assert len(said.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
