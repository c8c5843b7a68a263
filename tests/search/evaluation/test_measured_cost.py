from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from irepdeploy.cli import main
from irepdeploy.parsing.json_text import unsealed
from irepdeploy.search.evaluation import measured_cost
from support.tiny import Searched


@pytest.fixture
def folder(searched: Searched, tmp_path: Path) -> Path:
    return Path(shutil.copytree(searched[0], tmp_path / "run"))


def test_the_set_is_shown_and_drawn(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "pareto", str(folder)]) == 0
    printed = capsys.readouterr().out
    candidates = json.loads((folder / "pareto.json").read_text())["candidates"]
    front = [candidate for candidate in candidates if candidate["pareto"]]
    assert all(f"{candidate['macs']:,}" in printed for candidate in front)
    assert "Costs are counts, not measurements" in printed
    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert main(["search", "pareto", str(folder), "--json", "--out", str(folder / "set.svg")]) == 0
    assert json.loads(capsys.readouterr().out) == front
    assert (folder / "set.svg").exists()


@pytest.mark.slow
def test_each_of_the_set_is_measured(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = measured_cost.step_times, {}

    def few(nets: dict[str, object], batch_size: int, **others: object) -> object:
        seen.update(batch_size=batch_size, nets=sorted(nets))
        return original(nets, batch_size, min_samples=2, min_seconds=0.0, **others)  # type: ignore[arg-type]

    monkeypatch.setattr(measured_cost, "step_times", few)
    found = unsealed(json.loads((folder / "pareto.json").read_text()))
    # One process for each would be slow: the best alone is left in the set.
    for candidate in found["candidates"]:
        candidate["pareto"] = candidate["rank"] == 0
    (folder / "pareto.json").write_text(json.dumps(found))
    assert main(["search", "pareto", str(folder), "--measure", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["rank"] == 0 and row["seconds_per_step"] > 0
    assert row["peak_memory_bytes"] is None or row["peak_memory_bytes"] > 0
    assert seen == {"batch_size": found["batch_size"], "nets": ["0"]}


def test_files_of_two_searches_are_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = unsealed(json.loads((folder / "pareto.json").read_text()))
    found["candidates"][0]["digest"] = "0" * 64
    (folder / "pareto.json").write_text(json.dumps(found))
    assert main(["search", "pareto", str(folder), "--measure"]) == 2
    assert "differs from the Architecture in pareto.json" in capsys.readouterr().err


def test_a_folder_without_a_finished_search_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", "pareto", str(tmp_path)]) == 2
    assert "no such pareto.json of a search" in capsys.readouterr().err
