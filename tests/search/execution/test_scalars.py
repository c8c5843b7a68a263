from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from irepdeploy.errors import MissingError, RunError
from irepdeploy.runs.journal import Epoch, read_events
from irepdeploy.search.execution.scalars import Scalars

pytest.importorskip("tensorboard")

LINES = [
    {"event": "start", "time": 1.0, "threads": 1, "recipe": {}},
    {"event": "epoch", "time": 2.0, "epoch": 0, "phase": "warm-up", "loss": 2.5},
    {"event": "epoch", "time": 3.0, "epoch": 1, "phase": "evolution 1/1", "loss": 1.5},
    {"event": "evolution", "time": 4.0, "index": 0, "best": 0.75, "mean": 0.5, "accuracy": [0.75, 0.25]},
]


def journal(folder: Path, lines: list[dict[str, object]]) -> Path:
    path = folder / "journal.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def scalars_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


EXPECTED = {"epoch/loss": [(0, 2.5), (1, 1.5)], "evolution/best": [(0, 0.75)], "evolution/mean": [(0, 0.5)]}


def test_numbers_of_epochs_and_evolutions_are_mirrored(tmp_path: Path) -> None:
    scalars = Scalars(tmp_path / "tb", tmp_path / "none")
    for event in read_events(journal(tmp_path, LINES)):
        scalars.write(event)
    assert scalars_of(tmp_path / "tb") == EXPECTED


def test_what_the_journal_has_already_is_written_once(tmp_path: Path) -> None:
    path = journal(tmp_path, LINES[:3])
    for _ in range(2):
        scalars = Scalars(tmp_path / "tb", path)
        scalars.open()
    (*_, last) = read_events(journal(tmp_path, LINES))
    scalars.write(last)
    assert scalars_of(tmp_path / "tb") == EXPECTED


def test_a_full_disk_ends_the_run_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    scalars = Scalars(tmp_path, tmp_path / "none")
    scalars.open()
    (path,) = tmp_path.iterdir()
    path.unlink()
    path.symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"tfevents.*: cannot write: no space left"):
        scalars.write(Epoch(epoch=0, loss=1.0))
    assert capfd.readouterr() == ("", "")


def test_without_tensorboard_the_line_that_fixes_it_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    with pytest.raises(MissingError, match=r"irepdeploy\[tensorboard\]"):
        Scalars(tmp_path / "tb", tmp_path / "journal.jsonl")
