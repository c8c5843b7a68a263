from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from irepdeploy.cli import main
from irepdeploy.errors import InputError
from irepdeploy.parsing.json_text import unsealed
from irepdeploy.plots.comparison import draw_comparison
from irepdeploy.runs.comparison import ComparedSearch, SearchComparison
from irepdeploy.runs.journal import Evolution, SearchJournal
from irepdeploy.search.compare import compare, epochs_of
from support.tiny import Stop, Tiny, stop_after

Compared = tuple[Path, SearchComparison, list[tuple[int, str]]]


@pytest.fixture(scope="module")
def compared(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Compared:
    """Two strategies, two seeds, retrained."""
    out = tmp_path_factory.mktemp("compare")
    said: list[tuple[int, str]] = []
    found = compare(
        tiny("seed=3", "search.evolutions=2", "train.epochs=1"),
        out,
        ["topk", "random"],
        2,
        retrain=True,
        advance=lambda epochs, note: said.append((epochs, note)),
    )
    return out, found, said


def journal(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == "evolution"]


def test_every_run_is_a_search_of_its_own_strategy_and_seed(compared: Compared) -> None:
    out, found, _ = compared
    assert [(run.strategy, run.seed) for run in found.runs] == list(itertools.product(["topk", "random"], [3, 4]))
    assert sorted(path.name for path in out.iterdir()) == [
        "compare.json",
        "random-seed3",
        "random-seed4",
        "topk-seed3",
        "topk-seed4",
    ]
    for run in found.runs:
        start = json.loads((out / f"{run.strategy}-seed{run.seed}" / "journal.jsonl").read_text().splitlines()[0])
        assert (start["recipe"]["search"]["strategy"], start["recipe"]["seed"]) == (run.strategy, run.seed)


def test_the_figures_are_those_of_journals_and_results(compared: Compared) -> None:
    out, found, _ = compared
    for run in found.runs:
        folder = out / f"{run.strategy}-seed{run.seed}"
        evolutions = journal(folder)
        best = [max(max(event["accuracy"]) for event in evolutions[: count + 1]) for count in range(2)]
        assert run.evaluations == (5, 10)
        assert list(run.best_so_far) == best
        assert list(run.mean) == [event["mean"] for event in evolutions]
        assert list(run.diversity) == [event.diversity for event in SearchJournal.read(folder).evolutions]
        result = json.loads((folder / "result.json").read_text())
        trained = json.loads((folder / "train" / "result.json").read_text())
        assert (run.val_accuracy, run.digest) == (result["val_accuracy"], result["best_digest"])
        assert (run.retrained_val, run.retrained_test) == (trained["val_accuracy"], trained["test_accuracy"])
        assert trained["branches"] == run.branches == result["branches"]
    assert SearchComparison.read(out / "compare.json") == found


def test_strategies_of_one_seed_start_alike(compared: Compared) -> None:
    out, found, _ = compared
    for seed in found.seeds:
        one, other = (journal(out / f"{name}-seed{seed}")[0] for name in found.strategies)
        assert one["population"] == other["population"]
        assert one["accuracy"] == other["accuracy"]


def test_progress_counts_every_epoch(compared: Compared, tiny: Tiny) -> None:
    _, _, said = compared
    recipe = tiny("search.evolutions=2", "train.epochs=1")
    assert sum(epochs for epochs, _ in said) == 4 * epochs_of(recipe, retrain=True) == 4 * (3 + 1)
    assert {note.partition("  ")[0] for _, note in said} == {
        f"{name}, seed {seed}" for name in ("topk", "random") for seed in (3, 4)
    }


def test_a_comparison_goes_on_where_it_was(tiny: Tiny, tmp_path: Path) -> None:
    recipe = tiny("search.evolutions=1")
    with pytest.raises(Stop):  # in the second run
        compare(recipe, tmp_path, ["des", "evolution"], 1, advance=stop_after(3))
    with pytest.raises(InputError, match="--resume continues") as caught:
        compare(recipe, tmp_path, ["des", "evolution"], 1)
    assert caught.value.exit_code == 2
    resumed = compare(recipe, tmp_path, ["des", "evolution"], 1, resume=True)
    whole = compare(recipe, tmp_path / "whole", ["des", "evolution"], 1)

    def timeless(found: SearchComparison) -> list[dict[str, Any]]:
        return [{**run, "seconds": 0} for run in found.to_dict()["runs"]]

    assert timeless(resumed) == timeless(whole)
    assert timeless(compare(recipe, tmp_path, ["des", "evolution"], 1, overwrite=True)) == timeless(whole)


def test_a_run_that_is_in_the_way_is_seen_before_another_begins(tiny: Tiny, tmp_path: Path) -> None:
    there = tmp_path / "evolution-seed1" / "journal.jsonl"
    there.parent.mkdir()
    there.write_text("")
    with pytest.raises(InputError, match="evolution-seed1: this folder already holds a run"):
        compare(tiny(), tmp_path, ["des", "evolution"], 2)
    assert [path.name for path in tmp_path.iterdir()] == ["evolution-seed1"]


def run(strategy: str, seed: int, best: float, test: float | None = None) -> ComparedSearch:
    return ComparedSearch(
        strategy=strategy,
        seed=seed,
        evaluations=(4, 8),
        best_so_far=(0.1, best),
        mean=(0.1, 0.2),
        diversity=(0.5, 0.4),
        val_accuracy=best,
        branches=3,
        digest="0" * 64,
        seconds=2.0,
        retrained_val=test,
        retrained_test=test,
    )


def test_rows_say_spread_and_paired_differences() -> None:
    runs = (run("des", 0, 0.8), run("des", 1, 0.6), run("random", 0, 0.7), run("random", 1, 0.5))
    rows = SearchComparison(strategies=("des", "random"), seeds=(0, 1), runs=runs).rows
    assert rows[0][:3] == ["des", "8", "70.00 +- 14.14"]
    # The seeds differ much, the strategies by ten points in each.
    assert rows[1][:3] == ["random", "8", "60.00 +- 14.14 (-10.00 +- 0.00)"]


def test_one_seed_has_no_spread_and_retraining_has_columns_of_its_own() -> None:
    found = SearchComparison(strategies=("des",), seeds=(0,), runs=(run("des", 0, 0.8, 0.9),))
    assert found.rows == [["des", "8", "80.00", "80.00", "40.00", "90.00", "90.00", "2.0"]]
    assert len(found.columns) == 8
    assert len(SearchComparison(strategies=("des",), seeds=(0,), runs=(run("des", 0, 0.8),)).columns) == 6


def diversity(population: list[str]) -> float:
    accuracy = [0.5] * len(population)
    return Evolution(index=0, best=0.5, mean=0.5, accuracy=accuracy, population=population).diversity


def test_diversity_is_the_mean_distance_of_pairs() -> None:
    assert diversity(["1100", "1100"]) == 0
    assert diversity(["1100", "0011"]) == 1
    assert diversity(["1100", "1010", "0000"]) == pytest.approx((2 + 2 + 2) / 3 / 4)
    assert diversity(["1"]) == 0
    random = np.random.default_rng(0)
    texts = ["".join("01"[int(bit)] for bit in random.random(20) < 0.3) for _ in range(9)]
    distances = [sum(a != b for a, b in zip(x, y, strict=True)) for x, y in itertools.combinations(texts, 2)]
    assert diversity(texts) == pytest.approx(sum(distances) / len(distances) / 20)


def test_the_picture_shows_means_and_the_range_over_seeds() -> None:
    runs = (run("des", 0, 0.8, 0.9), run("des", 1, 0.6, 0.7), run("topk", 0, 0.7, 0.5), run("topk", 1, 0.5, 0.6))
    figure = draw_comparison(SearchComparison(strategies=("des", "topk"), seeds=(0, 1), runs=runs))
    best, spread, test = figure.axes
    assert [line.get_label() for line in best.lines] == ["des", "topk"]
    assert list(best.lines[0].get_xdata()) == [4, 8]
    assert list(best.lines[0].get_ydata()) == pytest.approx([10, 70])
    band = best.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == pytest.approx((10, 80))
    assert list(spread.lines[1].get_ydata()) == pytest.approx([0.5, 0.4])
    dots = [line for line in test.lines if line.get_marker() == "o"]
    assert [list(line.get_ydata()) for line in dots] == [pytest.approx([90, 70]), pytest.approx([50, 60])]
    assert to_rgba(best.lines[0].get_color()) != to_rgba(best.lines[1].get_color())
    figure = draw_comparison(
        SearchComparison(
            strategies=("des", "topk"), seeds=(0, 1), runs=tuple(run(r.strategy, r.seed, 0.5) for r in runs)
        )
    )
    assert len(figure.axes) == 2


def test_the_command(tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["search", "compare", "digits", *tiny_overrides, "search.evolutions=1"]
    line += ["--strategies", "des, topk", "--seeds", "1"]
    assert main([*line, "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "difference from des, seed by seed" in printed and "\ntopk" in printed
    assert "Only retrained accuracies compare strategies fairly." in printed
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    assert main([*line, "--out", str(tmp_path), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == unsealed(json.loads((tmp_path / "compare.json").read_text()))


@pytest.mark.parametrize(
    ("strategies", "said"),
    [("des,best", "unknown strategy 'best'"), ("des,des", "each strategy once"), ("", "unknown strategy ''")],
)
def test_bad_strategies_are_refused_before_anything_runs(
    strategies: str, said: str, tiny_overrides: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["search", "compare", "digits", *tiny_overrides, "--strategies", strategies, "--out", str(out)]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()
