"""Files that version 0.1.0 wrote, before they had schemas and checks: they are read, drawn, and written alike."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from irepdeploy.parsing.json_text import unsealed
from irepdeploy.plots.architecture_source import read_architecture
from irepdeploy.plots.comparison import draw_comparison, draw_presets
from irepdeploy.plots.folder_pictures import folder_pictures
from irepdeploy.plots.latency_points import latency_points
from irepdeploy.plots.pareto import draw_pareto
from irepdeploy.plots.search_history import SearchRun
from irepdeploy.plots.search_run import draw_search
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.runs import record
from irepdeploy.runs.comparison import SearchComparison, TrainingComparison
from irepdeploy.runs.journal import Epoch, Evolution, SearchJournal, SearchStart, Start, read_events
from irepdeploy.runs.pareto import ParetoSet
from irepdeploy.runs.result import SearchFigures, TrainingResult
from irepdeploy.runs.schema import JsonFile

ASSETS = Path(__file__).parent / "assets"


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (ParetoSet, "search/pareto.json"),
        (SearchFigures, "search/result.json"),
        (TrainingResult, "training/result.json"),
        (SearchComparison, "search_compare/compare.json"),
        (TrainingComparison, "training_compare/compare.json"),
    ],
)
def test_a_file_is_read_and_written_alike(kind: type[JsonFile], name: str, tmp_path: Path) -> None:
    found = kind.read(ASSETS / name)
    again = json.loads(found.write(tmp_path / "again.json").read_text())
    assert unsealed(again) == json.loads((ASSETS / name).read_text()) and "check" in again
    assert kind.read(tmp_path / "again.json") == found


@pytest.mark.parametrize(
    ("folder", "kinds"),
    [
        ("search", [SearchStart, Epoch, *[Epoch, Evolution] * 3]),
        ("training", [Start, *[Epoch] * 8]),
    ],
)
def test_a_journal_is_read_and_written_alike(folder: str, kinds: list[type], tmp_path: Path) -> None:
    path = ASSETS / folder / "journal.jsonl"
    events = read_events(path)
    assert [type(event) for event in events] == kinds
    for event in events:
        event.append(tmp_path / "again.jsonl")
    assert without_checks(tmp_path / "again.jsonl") == path.read_bytes()
    assert read_events(tmp_path / "again.jsonl") == events


def without_checks(path: Path) -> bytes:
    return re.sub(rb',"check":"[0-9a-f]{16}"}', b"}", path.read_bytes())


def test_a_search_is_drawn() -> None:
    run = SearchJournal.read(ASSETS / "search")
    assert (run.strategy, run.finished, len(run.positions), run.start.budget) == ("des", True, 51, 34)
    titles = [each.title.partition(":")[0] for each in folder_pictures(ASSETS / "search")]
    assert titles == ["Branch weights of the search"]
    assert isinstance(draw_search({"old": SearchRun.read(ASSETS / "search")}), Figure)
    best = Architecture.load(ASSETS / "search" / "best.json")
    assert read_architecture(ASSETS / "search", "old").architecture == best
    assert best == Architecture.load(ASSETS / "search" / "population" / "000.json")
    assert best.digest == SearchFigures.read(ASSETS / "search" / "result.json").best_digest


def test_comparisons_and_the_pareto_set_are_drawn() -> None:
    assert isinstance(draw_pareto(ParetoSet.read(ASSETS / "search" / "pareto.json")), Figure)
    strategies = SearchComparison.read(ASSETS / "search_compare" / "compare.json")
    presets = TrainingComparison.read(ASSETS / "training_compare" / "compare.json")
    assert len(draw_comparison(strategies).axes) == 3
    assert isinstance(draw_presets(presets), Figure)
    assert [row[0] for row in strategies.rows] == ["des", "random"] and strategies.rows[1][
        2
    ] == "35.00 +- 1.41 (-3.50 +- 0.71)"
    assert [row[:3] for row in presets.rows] == [["plain", "0", "10.05 +- 1.90"], ["ireps", "51", "11.47 +- 2.25"]]


def test_records_are_read_and_written_alike(tmp_path: Path) -> None:
    path = ASSETS / "records" / "records.jsonl"
    records = record.read(path)
    assert [each.label for each in latency_points(records)] == ["vgg6", "vgg6"]
    for each in records:
        record.append(tmp_path / "again.jsonl", each)
    assert without_checks(tmp_path / "again.jsonl") == path.read_bytes().replace(b'"schema":2}', b'"schema":3}')
    assert record.read(tmp_path / "again.jsonl") == records
