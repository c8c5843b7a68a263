"""The tool that compares rankings of exact and merged supernets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from irepdeploy.bench.tools import merged_ranking
from irepdeploy.bench.tools.merged_ranking import main, taus
from irepdeploy.search.evaluation.fitness import Fitness


def fitness(*values: float) -> list[Fitness]:
    return [Fitness(value, 0.0) for value in values]


def test_each_pair_of_supernets_is_compared_once() -> None:
    found = taus(
        {
            ("exact", 0): fitness(1, 2, 3),
            ("exact", 1): fitness(1, 2, 3),
            ("merged", 0): fitness(3, 2, 1),
            ("merged", 1): fitness(5, 5, 5),
        }
    )
    assert found == {
        "exact, exact of another seed": [1],
        "merged, exact of the same seed": [-1, 0],
        "merged, exact of another seed": [-1, 0],
        "merged, merged of another seed": [0],
    }


def test_equal_accuracies_are_ranked_by_loss() -> None:
    one, two = ([Fitness(0.5, -loss) for loss in losses] for losses in ((1.0, 2.0), (2.0, 1.0)))
    assert taus({("exact", 0): one, ("merged", 0): two})["merged, exact of the same seed"] == [-1]


def test_it_goes_on_where_it_was_stopped(
    tiny_overrides: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(merged_ranking, "_CANDIDATES", 6)
    record, folder = tmp_path / "record.jsonl", tmp_path / "runs"
    arguments = str(record), str(folder), "1", "digits", *tiny_overrides, "search.evolutions=1"
    main(*arguments)
    assert "merged, exact of the same seed" in capsys.readouterr().out
    first = [json.loads(line) for line in record.read_text().splitlines()]
    assert [(line["step"], line["seed"], len(line["accuracy"])) for line in first] == [
        ("exact", 0, 6),
        ("merged", 0, 6),
    ]
    # Killed before the last line was written: the training exists, and only the scores are recomputed.
    record.write_text(record.read_text().splitlines(keepends=True)[0])
    shutil.rmtree(folder / "exact, seed 0")
    main(*arguments)
    again = [json.loads(line) for line in record.read_text().splitlines()]
    assert again[1]["loss"] == first[1]["loss"]
    assert again[1]["cpu_seconds_per_epoch"] is None
    assert not (folder / "exact, seed 0").exists()
