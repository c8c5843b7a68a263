from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from irepdeploy.errors import InputError
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.runs.suite import SuiteRequest
from irepdeploy.search.suites import table5 as module
from irepdeploy.search.suites.table5 import BUDGETS, PAPER, table5


class Display:
    """Counts announced and finished steps."""

    def __init__(self) -> None:
        self.total = self.done = 0

    def task(self, title: str, total: int) -> Display:
        self.total += total
        return self

    def advance(self, steps: int = 1, note: str = "") -> None:
        self.done += steps


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch, tiny_overrides: list[str]) -> None:
    subject = module._SUBJECTS["smoke"][0]
    overrides = (*subject.overrides, *tiny_overrides[1:], "search.evolutions=1", "train.epochs=1")
    small = replace(subject, overrides=overrides)
    monkeypatch.setitem(module._SUBJECTS, "smoke", (small,))


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_two_budgets_searched_retrained_and_put_beside_the_papers(tmp_path: Path) -> None:
    display = Display()
    request = SuiteRequest(scale="smoke", out=tmp_path, only=("1/3", "vgg6 1"), seed=2)
    report = table5(request, display)
    assert display.done == display.total == 2 * (1 + 1 + 1)
    assert [row[:3] for row in report.rows] == [("vgg6", "1/3", "8 of 25"), ("vgg6", "1", "25 of 25")]
    assert [row[-1] for row in report.rows] == ["94.58", "95.64"]
    assert report.columns[4:6] == ("search, accuracy (%)", "retrained, test accuracy (%)")
    assert [float(row[5]) for row in report.rows] == [
        pytest.approx(100 * each["test_accuracy"], abs=0.006) for each in report.figures["rows"]
    ]
    assert all(len(row) == len(report.columns) for row in report.rows)
    assert any("other data than the paper's" in note for note in report.notes)
    for line, figure in zip(lines(tmp_path), report.figures["rows"], strict=True):
        assert {**line, **figure} == line
        assert (line["suite"], line["scale"], line["seed"]) == ("table5", "smoke", 2)
        assert "cpu" in line["system"]
        folder = tmp_path / "table5-smoke" / f"vgg6-{figure['budget'].replace('/', '_')}-seed2"
        best = Architecture.load(folder / "best.json")
        assert best.digest == figure["digest"] and best.count == figure["branches"] <= figure["capacity"]
        trained = json.loads((folder / "train" / "result.json").read_text())
        assert trained["test_accuracy"] == figure["test_accuracy"]
        assert trained["branches"] == best.count
    # A second run executes and records nothing.
    again = table5(request, Display())
    assert [row[:6] for row in again.rows] == [row[:6] for row in report.rows]
    assert len(lines(tmp_path)) == 2
    # The state left by a kill between the end of a run and its record.
    records = tmp_path / "records.jsonl"
    first, _ = records.read_bytes().splitlines(keepends=True)
    records.write_bytes(first)
    table5(request, Display())
    assert [line["budget"] for line in lines(tmp_path)] == ["1/3", "1"]


def test_without_a_folder_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Search and training are faked and only leave a file."""
    used: list[Path] = []

    def row(subject: Any, budget: str, plan: Any, at: Path, advance: Any) -> dict[str, Any]:
        at.mkdir()
        (at / "best.json").touch()
        used.append(at)
        counts = dict.fromkeys(("capacity", "possible", "branches"), 4)
        numbers = ("search_val_accuracy", "test_accuracy", "search_seconds", "train_seconds", "paper_top1")
        metric = {"metric": {"name": "R2", "unit": ""}}
        return {"net": subject.net, "budget": budget, **metric, **counts, **dict.fromkeys(numbers, 0.5)}

    monkeypatch.setattr(module, "_row", row)
    monkeypatch.chdir(tmp_path)
    report = table5(SuiteRequest(scale="smoke", only=("1/6",)), Display())
    assert [row[4:6] for row in report.rows] == [("0.50", "0.50")] and report.columns[4] == "search, R2"
    assert len(used) == 1 and not used[0].exists()
    assert not list(tmp_path.iterdir())


def test_an_unknown_row_is_refused() -> None:
    with pytest.raises(InputError, match=r"unknown row '3/4'.*vgg6 1/6"):
        table5(SuiteRequest(scale="smoke", only=("3/4",)), Display())


def test_rows_of_the_paper() -> None:
    assert {name: len(row) for name, row in PAPER.items()} == {"vgg16": 6, "resnet18": 6}
    assert (PAPER["vgg16"]["2/3"], PAPER["resnet18"]["5/6"]) == (95.65, 95.50)
    for scale, subjects in module._SUBJECTS.items():
        for subject in subjects:
            plans = [module._plan(SuiteRequest(scale=scale), subject, budget) for budget in BUDGETS]
            assert [plan.search.budget for plan in plans] == list(BUDGETS)
            assert all(plan.device == "cpu" for plan in plans)
    plans = [module._plan(SuiteRequest(scale="paper"), subject, "1/6") for subject in module._SUBJECTS["paper"]]
    assert [(plan.net.name, plan.data.name) for plan in plans] == [("vgg16", "cifar10"), ("resnet18_cifar", "cifar10")]
