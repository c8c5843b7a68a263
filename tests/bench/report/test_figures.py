from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from irepdeploy.bench.report.figures import figures
from irepdeploy.reparam.architecture import Architecture


@pytest.fixture
def search(tmp_path: Path) -> Path:
    """A folder as left by a search of two evolutions."""
    layers, branches = ["a", "b"], ["conv1x3", "dil1x2"]
    recipe = {"search": {"strategy": "des"}}
    positions = [[row, column] for row in (0, 1) for column in (0, 1)]
    events: list[dict[str, object]] = [
        {
            "event": "start",
            "recipe": recipe,
            "layers": layers,
            "branches": branches,
            "positions": positions,
            "budget": 2,
        }
    ]
    for index in range(2):
        scores = [0.5 + 0.1 * index, 0.75]
        sigmoids = {"alpha": [0.5] * 4, "beta": [0.5] * 2}
        events.append(
            {
                "event": "evolution",
                "index": index,
                "accuracy": scores,
                "best": 0.75,
                "mean": sum(scores) / 2,
                **sigmoids,
            }
        )
    folder = tmp_path / "found"
    folder.mkdir()
    (folder / "journal.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    Architecture(tuple(layers), tuple(branches), ((1, 0), (0, 1))).save(folder / "best.json")
    return folder


def test_a_search_is_drawn(search: Path) -> None:
    pytest.importorskip("matplotlib")
    (weights,) = found = figures([search.parent, search])
    assert weights.svg.startswith("<svg") and "http://www.w3.org/2000/svg" in weights.svg[:600]
    assert weights.title == "Branch weights of the search: found" and "by layer" in weights.text
    # The same search gives the same page.
    assert figures([search]) == found


def test_without_matplotlib_it_is_reported(search: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    notes: list[str] = []
    assert figures([search], notes.append) == []
    assert len(notes) == 1 and "irepdeploy[report]" in notes[0]
    assert figures([search.parent], notes.append) == [] and len(notes) == 1


@pytest.mark.parametrize("journal", ["", '{"event": "start", "positions": [[0, 0]]}\n', "no json\nat all\n"])
def test_one_that_cannot_be_drawn_is_left_out_with_a_note(search: Path, journal: str) -> None:
    (search / "journal.jsonl").write_text(journal)
    notes: list[str] = []
    assert figures([search], notes.append) == []
    assert len(notes) == 1 and str(search) in notes[0]


def test_a_damaged_evolution_ends_no_report(search: Path) -> None:
    lines = (search / "journal.jsonl").read_text().replace('"best": 0.75', '"best": "high"')
    (search / "journal.jsonl").write_text(lines)
    notes: list[str] = []
    assert figures([search], notes.append) == []
    assert len(notes) == 1
