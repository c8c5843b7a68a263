"""The top-5 accuracy of more than ten classes: in tables, JSON and the report of a search and a training."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from irepdeploy.bench.report.figures import figures
from irepdeploy.cli import main
from irepdeploy.plots.folder_pictures import top_5_sentence


def run(command: str, classes: int, tiny_overrides: list[str], out: Path, *more: str) -> None:
    sizes = f"data.options={{shape: [1, 16, 16], classes: {classes}, train: 48, val: 60, test: 60}}"
    epochs = ["search.evolutions=1", "train.epochs=1"]
    given = [*tiny_overrides, *epochs, "data.name=synthetic", sizes, *more]
    assert main([command, "digits", *given, "--out", str(out)]) == 0


def test_of_twelve_classes_it_is_reported(
    tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
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
        # Not every training has pictures, which carry the sentence.
        pictures = figures([tmp_path / command]) if command == "search" else []
        described = " ".join(picture.text for picture in pictures) or top_5_sentence(tmp_path / command)
        for name, each in zip(sets, found, strict=True):
            share = each["top-5 accuracy"]
            assert each["accuracy"] <= share <= 1
            assert re.search(rf"top-5 accuracy o[fn] the .*{name}.* {share:.2%}", printed)
            assert f"Top-5 accuracy on the {name}: {share:.1%}." in described


def test_of_ten_classes_there_is_none(
    tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("search", "train"):
        run(command, 10, tiny_overrides, tmp_path / command)
        assert "top-5" not in capsys.readouterr().out
        assert "top-5" not in (tmp_path / command / "result.json").read_text()
