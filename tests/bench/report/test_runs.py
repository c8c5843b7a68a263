"""Runs and comparisons as read from their folders: finished, running, killed halfway, foreign."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from irepdeploy.bench.report.contest import contest_of, contests_of_cells
from irepdeploy.bench.report.gap import Gap
from irepdeploy.bench.report.gather import gather
from irepdeploy.bench.report.run import Run, labels_of, read_run
from irepdeploy.errors import InputError
from irepdeploy.folders import LOCK
from irepdeploy.runs.reproduction import ReproducedCell
from irepdeploy.runs.result import TrainingResult
from irepdeploy.runs.spread import student_interval

ASSETS = Path(__file__).parents[2] / "runs" / "assets"
RESULT: dict[str, Any] = {"branches": 3, "val_accuracy": 0.5, "test_accuracy": 0.5, "best_epoch": 1, "epochs": 2}
RESULT |= {"seconds_per_epoch": 1.0, "seconds": 2.0, "device": "cpu", "devices": 1}


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A finished training, to be changed."""
    return Path(shutil.copytree(ASSETS / "training", tmp_path / "training"))


def read(folder: Path) -> Run:
    notes: list[str] = []
    run = read_run(folder, folder.name, notes.append)
    assert run is not None
    return run


def test_a_finished_search_and_a_training(training: Path) -> None:
    search = read(ASSETS / "search")
    assert (search.kind, search.state, search.network, search.data) == ("search (des)", "finished", "vgg6", "digits")
    assert search.result is not None and search.score == search.result.val_accuracy and not search.tested
    assert search.architecture is not None and search.branches == search.architecture.count == 34
    found = read(training)
    assert isinstance(found.result, TrainingResult)
    assert (found.tested, found.score) == (True, found.result.test_accuracy)
    assert len(found.epochs) == found.result.epochs


def test_a_run_that_goes_on_and_one_that_was_killed(training: Path) -> None:
    (training / "result.json").unlink()
    assert read(training).state.startswith("stopped, epoch ")
    owners = [(socket.gethostname(), os.getpid(), "running"), ("elsewhere", 1, "running")]
    # There is no process with this id.
    owners += [(socket.gethostname(), 2**22 + 1, "stopped"), (socket.gethostname(), "x", "stopped")]  # type: ignore[list-item]
    for host, pid, state in owners:
        (training / LOCK).write_text(json.dumps({"host": host, "pid": pid}))
        run = read(training)
        assert run.state.partition(",")[0] == state, (host, pid)
        assert run.score == max(event.val_accuracy or 0 for event in run.epochs) and run.interval is None
    (training / LOCK).write_text("no json")
    assert not read(training).held


def test_a_torn_last_line_is_noted_and_an_epoch_counts_once(training: Path) -> None:
    (training / "result.json").unlink()
    journal = training / "journal.jsonl"
    lines = journal.read_text().splitlines()
    again = json.loads(lines[-1])
    last = {"event": "epoch", "epoch": again["epoch"], "loss": 0.25, "val_accuracy": 0.75}
    journal.write_text("\n".join([*lines, json.dumps(last), '{"event": "epoch", "ep']))
    notes: list[str] = []
    run = read_run(training, "t", notes.append)
    assert run is not None and len(notes) == 1 and "torn" in notes[0]
    assert [event.epoch for event in run.epochs] == [*range(again["epoch"] + 1)]
    assert (run.epochs[-1].loss, run.score) == (0.25, 0.75)


def test_a_run_that_has_only_begun_is_none(training: Path, tmp_path: Path) -> None:
    journal = training / "journal.jsonl"
    journal.write_text(journal.read_text().splitlines()[0] + "\n")
    (training / "result.json").unlink()
    assert read_run(training, "t", lambda note: None) is None
    with pytest.raises(InputError, match="nothing to report"):
        gather([training])


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("journal.jsonl", '{"event": "epoch", "epoch": 0}\n', "no start"),
        ("journal.jsonl", "", "no start"),
        ("result.json", "{}", "not the result.json"),
        ("compare.json", '{"strategies": 3}', "not the compare.json of a search"),
        ("compare.json", "[]", "not the compare.json of a training"),
        ("detections.json", '{"mine": 1}', "not a file of detections"),
        ("detections.json", '[{"image_id": 1, "category_id": 1, "bbox": [1], "score": 2}]', "not a file of detections"),
        ("certificate.json", '{"format": "mine"}', "not a certificate"),
        ("certificate.failed.json", "\x00", "not a certificate"),
        ("best.json", "{}", "best.json"),
    ],
)
def test_what_is_foreign_or_damaged_is_one_note(name: str, content: str, said: str, tmp_path: Path) -> None:
    shutil.copytree(ASSETS / "training_compare", tmp_path / "good")
    bad = tmp_path / "bad"
    shutil.copytree(ASSETS / "search", bad)
    (bad / name).write_text(content)
    found = gather([tmp_path])
    assert len(found.contests) == 1
    (note,) = found.notes
    assert said in note and str(bad) in note
    # The rest of that folder is shown too.
    assert len(found.runs) == (name not in ("journal.jsonl", "result.json", "best.json"))
    if name != "best.json":
        with pytest.raises(InputError):
            gather([bad / (name if name != "result.json" else "journal.jsonl")])


def test_runs_of_a_comparison_are_not_listed_one_by_one(tmp_path: Path) -> None:
    whole = Path(shutil.copytree(ASSETS / "training_compare", tmp_path / "whole"))
    shutil.copytree(ASSETS / "training", whole / "plain-0")
    shutil.copytree(ASSETS / "training", tmp_path / "other")
    found = gather([tmp_path])
    assert [run.label for run in found.runs] == ["other"]
    # They are shown until the comparison is done.
    (whole / "compare.json").unlink()
    assert [run.label for run in gather([tmp_path]).runs] == ["other", "plain-0"]


def test_names_are_as_short_as_they_can_be(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a/x", "b/x", "b/y", "x")]
    assert labels_of(folders) == ["a/x", "b/x", "y", f"{tmp_path.name}/x"]
    assert labels_of([folders[0], folders[0]]) == ["x", "x"]


def test_differences_are_paired_by_seed() -> None:
    contest = contest_of(ASSETS / "training_compare" / "compare.json", "presets")
    gap = contest.gaps["ireps"]
    plain, ireps = contest.arms
    values = [100 * (ireps.scores[seed] - plain.scores[seed]) for seed in plain.scores]
    assert gap.value == pytest.approx(sum(values) / 2) and (gap.low, gap.high) == student_interval(values)
    assert (gap.look, gap.verdict, gap.unit) == ("tie", "tie", " points")
    searches = contest_of(ASSETS / "search_compare" / "compare.json", "strategies")
    assert searches.figure == "test accuracy, retrained and fused" and [*searches.curves] == ["des", "random"]


@pytest.mark.parametrize(
    ("gap", "look", "verdict", "text"),
    [
        (Gap(1.0, 0.5, 1.5, " points"), "better", "better", "+1.00 points [+0.50, +1.50]"),
        (Gap(-1.0, -1.5, -0.5, alone=True), "worse", "worse, before correction", "-1.00 [-1.50, -0.50]"),
        (Gap(0.01, -0.5, 0.5, alone=True), "tie", "tie", "+0.0100 [-0.5000, +0.5000]"),
        (Gap(0.0, 0.0, 0.0), "tie", "tie", "+0.0000 [+0.0000, +0.0000]"),
        (Gap(1.0), "", "noise not known", "+1.00"),
    ],
)
def test_a_difference_is_a_tie_if_its_interval_contains_nothing(gap: Gap, look: str, verdict: str, text: str) -> None:
    assert (gap.look, gap.verdict, gap.text) == (look, verdict, text)


def test_halves_of_independent_intervals_add_up_as_squares() -> None:
    gap = Gap.between(10.0, (7.0, 14.0), 5.0, (2.0, 9.0), "")
    # Lower end: 3 from the one, and 4 from the upper end of the other.
    assert (gap.low, gap.high) == (pytest.approx(5 - 5), pytest.approx(5 + 5))
    assert not Gap.between(10.0, None, 5.0, (2.0, 9.0), "").known


def cell(arm: str, seed: int, score: float, **changes: Any) -> ReproducedCell:
    values: dict[str, Any] = {"protocol": "p", "version": 1, "network": "n", "condition": "main", "place": 0}
    values |= {"cell": f"{arm}-{seed}-{changes}", "recipe": {}, "created": "", "system": {}, "stage": "final"}
    values |= {"settings": {}, "result": {**RESULT, "test_accuracy": score}, "arm": arm, "seed": seed, **changes}
    return ReproducedCell(**values)


def test_cells_of_a_reproduction_are_contests(tmp_path: Path, make_record: Callable[..., Any]) -> None:
    cells = [cell("all", 0, 0.5), cell("all", 1, 0.7), cell("plain", 1, 0.6), cell("plain", 0, 0.4)]
    cells += [cell("all", 0, 0.9, stage="trial"), cell("plain", 0, 0.1, network="other")]
    path = tmp_path / "job-1-of-1" / "records.jsonl"
    path.parent.mkdir()
    path.write_text("".join(f"{each.model_dump_json()}\n" for each in cells))
    shutil.copytree(ASSETS / "training", path.parent / "all-0")
    found = gather([tmp_path])
    (contest,) = found.contests
    # The plain arm is the reference; trials and other networks are not part of the contest.
    assert [arm.name for arm in contest.arms] == ["plain", "all"]
    gap = contest.gaps["all"]
    assert gap.value == pytest.approx(10) and gap.look == "better"
    assert contest.title == "n on p, version 1, main" and found.runs == [] and found.notes == []
    assert list(contests_of_cells({"a": cells[0]})) == []
