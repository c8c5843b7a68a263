"""Outputs of a run name the task's metric and its unit, not accuracy and percent."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import irepdeploy as ird
from irepdeploy.cli import main
from irepdeploy.errors import InputError
from irepdeploy.plots.comparison import draw_comparison
from irepdeploy.plots.pareto import draw_pareto
from irepdeploy.plots.search_history import SearchRun
from irepdeploy.plots.search_run import draw_fitness
from irepdeploy.runs.comparison import ComparedSearch, SearchComparison
from irepdeploy.runs.pareto import ParetoSet
from irepdeploy.runs.schema import MetricFacts
from support.foreign import TinyNet, maps, pairs

FEW: dict[str, Any] = {"population": 3, "evolutions": 1, "warmup_epochs": 1, "subnets_per_step": 2, "batch_size": 8}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Searches by R2, which has no unit and may be negative, and by mIoU, a share."""
    out = tmp_path_factory.mktemp("runs")
    torch.manual_seed(1)
    numbers = [(x, x.mean((2, 3))[:, 0]) for x in (pairs(16)[0], pairs(10, 1)[0])]
    net = TinyNet(1, pool=True)
    ird.search(net, train=numbers[0], val=numbers[1], task="regression", out=out / "R2", threads=1, **FEW)
    ird.search(TinyNet(), train=maps(16), val=maps(10, 1), task="segmentation", out=out / "mIoU", threads=1, **FEW)
    return {"R2": out / "R2", "mIoU": out / "mIoU"}


@pytest.mark.parametrize(("metric", "marked"), [("R2", ""), ("mIoU", " (%)")])
def test_pictures_and_tables_of_a_search(
    metric: str, marked: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, found = SearchRun.read(folders[metric]), ParetoSet.read(folders[metric] / "pareto.json")
    axes = draw_fitness({"run": run}).axes[0]
    assert axes.get_ylabel() == draw_pareto(found).axes[0].get_ylabel() == f"{metric}, search-validation set{marked}"
    scale = 100 if marked else 1
    assert list(axes.lines[-1].get_ydata()) == pytest.approx([scale * run.evolutions[0].mean])
    assert main(["search", "pareto", str(folders[metric]), "--out", str(tmp_path / "p.png")]) == 0
    printed = capsys.readouterr().out
    score = found.front[0].val_accuracy
    assert f" {metric} " in printed and (f"{score:.2%}" if marked else f"{score:.4f}") in printed
    assert "accuracy" not in printed.lower()


def test_searches_by_different_metrics_share_no_axis(folders: dict[str, Path]) -> None:
    runs = {name: SearchRun.read(folder) for name, folder in folders.items()}
    with pytest.raises(InputError, match="different metrics: R2, mIoU"):
        draw_fitness(runs)


def test_what_was_given_in_python_is_not_measured_from_the_command_line(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = shutil.copytree(folders["mIoU"], tmp_path / "run")
    assert main(["search", "pareto", str(folder), "--measure"]) == 2
    line = " ".join(capsys.readouterr().err.split())
    assert "--measure builds networks from a recipe, but TinyNet was passed to ird.search in Python" in line


def test_a_comparison_by_another_metric() -> None:
    def run(seed: int, best: float) -> ComparedSearch:
        return ComparedSearch(
            strategy="des",
            seed=seed,
            evaluations=(4,),
            best_so_far=(best,),
            mean=(-1.5,),
            diversity=(0.5,),
            val_accuracy=best,
            branches=3,
            digest="0" * 64,
            seconds=2.0,
            retrained_val=best,
            retrained_test=best,
        )

    runs = (run(0, -0.25), run(1, 0.75))
    found = SearchComparison(strategies=("des",), seeds=(0, 1), runs=runs, metric=MetricFacts(name="R2"))
    assert found.columns[2] == "best so far (R2)" and found.rows[0][2] == "0.25 +- 0.71"
    figure = draw_comparison(found)
    assert figure.axes[0].get_ylabel().startswith("best R2 so far") and "%" not in figure.axes[2].get_ylabel()
    with pytest.raises(ValueError, match="expected a share from 0 to 1, got -0"):
        SearchComparison(strategies=("des",), seeds=(0, 1), runs=runs)
