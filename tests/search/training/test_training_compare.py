from __future__ import annotations

from pathlib import Path

import pytest

from irepdeploy.errors import InputError
from irepdeploy.plots.comparison import draw_presets
from irepdeploy.plots.figure import save_figure
from irepdeploy.recipe import Recipe
from irepdeploy.runs.comparison import TrainingComparison
from irepdeploy.search.training.training import Training
from irepdeploy.search.training.training_compare import compare_presets
from support.tiny import Tiny

Found = tuple[Path, TrainingComparison]


@pytest.fixture(scope="module")
def recipe(tiny: Tiny) -> Recipe:
    return tiny("train.epochs=1")


@pytest.fixture(scope="module")
def found(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Found:
    out = tmp_path_factory.mktemp("compared")
    return out, compare_presets(recipe, ["plain", "acnet"], 2, out)


def test_each_training_is_the_one_of_its_preset_and_seed(found: Found, recipe: Recipe, tmp_path: Path) -> None:
    out, comparison = found
    assert [(run.preset, run.seed) for run in comparison.runs] == [
        ("plain", 0),
        ("plain", 1),
        ("acnet", 0),
        ("acnet", 1),
    ]
    assert [run.branches for run in comparison.runs] == [0, 0, 6, 6]
    alone = Training(recipe.model_copy(update={"branches": "acnet", "seed": 1}), tmp_path, None).run()
    assert comparison.runs[3].test_accuracy == alone.test_accuracy
    assert TrainingComparison.read(out / "compare.json") == comparison


def test_rows_hold_mean_spread_and_paired_difference(found: Found) -> None:
    comparison = found[1]
    plain, acnet = ([each.test_accuracy for each in comparison.of(name)] for name in ("plain", "acnet"))
    mean = 50 * sum(acnet)
    gains = [100 * (b - a) for a, b in zip(plain, acnet, strict=True)]
    assert comparison.rows[0][3] == "-"
    assert comparison.rows[1][2].startswith(f"{mean:.2f} +- ")
    assert comparison.rows[1][3].startswith(f"{sum(gains) / 2:+.2f} +- ")
    assert len(comparison.columns) == len(comparison.rows[0])


def test_what_is_done_is_not_done_again(found: Found, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    out, comparison = found
    monkeypatch.setattr(Training, "train_epoch", lambda self, report: pytest.fail("trained again"))
    assert compare_presets(recipe, ["plain", "acnet"], 2, out, resume=True) == comparison


def test_the_picture(found: Found, tmp_path: Path) -> None:
    figure = draw_presets(found[1])
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["plain", "acnet"]
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert [len(line.get_ydata()) for line in dots] == [2, 2]
    assert save_figure(figure, tmp_path / "compare.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("presets", "seeds", "words"),
    [
        (["plane"], 1, "unknown preset 'plane'"),
        (["plain", "plain"], 1, "name each preset once"),
        ([], 1, "no preset is named"),
        (["plain"], 0, "at least one seed"),
    ],
)
def test_bad_input(presets: list[str], seeds: int, words: str, recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        compare_presets(recipe, presets, seeds, tmp_path / "out")
    assert words in caught.value.line
    assert not (tmp_path / "out").exists()
