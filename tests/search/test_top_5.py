"""The top-5 accuracy of more than ten classes: in tables, JSON and the report of a search and a training."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

from irepdeploy.bench.report.scores import score_table
from irepdeploy.cli import main


def run(command: str, classes: int, tiny_overrides: list[str], out: Path, *more: str) -> None:
    sizes = f"data.options={{shape: [1, 16, 16], classes: {classes}, train: 48, val: 60, test: 60}}"
    epochs = ["search.evolutions=1", "train.epochs=1"]
    given = [*tiny_overrides, *epochs, "data.name=synthetic", sizes, *more]
    assert main([command, "digits", *given, "--out", str(out)]) == 0


def test_of_twelve_classes_it_is_reported(
    tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command, sets in (("search", ["search-validation set"]), ("train", ["search-validation set", "test set"])):
        run(command, 12, tiny_overrides, tmp_path / command)
        printed = capsys.readouterr().out
        result = json.loads((tmp_path / command / "result.json").read_text())
        found = (
            [result["figures"]]
            if command == "search"
            else [result["sets"][name]["figures"] for name in ("val", "test")]
        )
        assert found[0]["accuracy"] == result["val_accuracy"]
        table = score_table([tmp_path, tmp_path / command])
        assert table is not None and table.columns[-1] == "top-5 accuracy"
        rows = {row[1]: row for row in table.rows}
        for name, each in zip(sets, found, strict=True):
            share = each["top-5 accuracy"]
            assert each["accuracy"] <= share <= 1
            assert re.search(rf"top-5 accuracy o[fn] the .*{name}.* {share:.2%}", printed)
            row = rows[name.removesuffix(" set")]
            assert row[2:] == (f"{each['accuracy']:.2%} accuracy", row[3], f"{share:.2%}")
            assert row[0] == command and ("%" in row[3]) == (command == "train")


def test_of_ten_classes_there_is_none(
    tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("search", "train"):
        run(command, 10, tiny_overrides, tmp_path / command)
        assert "top-5" not in capsys.readouterr().out
        assert "top-5" not in (tmp_path / command / "result.json").read_text()
        table = score_table([tmp_path / command])
        assert table is not None and "top-5 accuracy" not in table.columns


def test_scores_of_a_report(
    tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run("train", 12, tiny_overrides, tmp_path / "train", "branches=none")
    # Without matplotlib too.
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "matplotlib" else found(name))
    # A run alone is enough.
    assert main(["report", str(tmp_path)]) == 0
    assert "1 training." in (tmp_path / "report.html").read_text()
    assert "| train | test |" in (tmp_path / "report.md").read_text()
    (tmp_path / "records.jsonl").write_text('{"suite": "table5", "net": "vgg6", "val_accuracy": 0.5}\n')
    assert main(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    assert "Scores of searches and trainings" in page and "top-5 accuracy" in page
    (tmp_path / "train" / "result.json").write_text("{torn")
    assert main(["report", str(tmp_path)]) == 0
    assert "result.json: not the result.json of a training" in capsys.readouterr().err
    assert "Scores of searches" not in (tmp_path / "report.html").read_text()
