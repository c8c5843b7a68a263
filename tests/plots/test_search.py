"""Figures from the journal of a search, and their plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from irepdeploy.errors import InputError
from irepdeploy.plots.figure import BLUE, ORANGE, save_figure
from irepdeploy.plots.search_history import SearchRun
from irepdeploy.plots.search_run import draw_fitness, draw_search
from irepdeploy.reparam.architecture import Architecture
from support.search_journals import evolution, write_journal

START = {
    "event": "start",
    "recipe": {"search": {"strategy": "des", "evolutions": 2}},
    "layers": ["stages.0", "stages.1", "head"],
    "branches": ["conv1x3", "identity"],
    "positions": [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0]],
    "budget": 4,
}
POPULATIONS = (["11000", "00111", "10101"], ["10001", "10001", "10101"])


def whole(index: int, accuracy: Sequence[float]) -> dict[str, Any]:
    """An evolution with everything that a search records."""
    alpha = [0.1 + index / 2 + place / 10 for place in range(5)]
    beta = [0.1 + index / 2, 0.2 + index / 2, 0.3 + index / 2]
    return evolution(index, accuracy, population=POPULATIONS[index], alpha=alpha, beta=beta)


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    epochs = [{"event": "epoch", "epoch": epoch} for epoch in range(2)]
    events = START, epochs[0], whole(0, [0.5, 0.25, 0.75]), epochs[1], whole(1, [0.75, 0.5, 1.0])
    return write_journal(tmp_path / "search", *events).parent


@pytest.fixture
def run(run_folder: Path) -> SearchRun:
    return SearchRun.read(run_folder / "journal.jsonl")


def lines(figure: Figure, style: str, colour: str) -> list[list[float]]:
    """The heights of every line of the first panel with this style and colour."""
    found = [line for line in figure.axes[0].lines if line.get_linestyle() == style and line.get_color() == colour]
    return [[float(value) for value in line.get_ydata()] for line in found]


def legend(figure: Figure, panel: int = 0) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].get_legend().get_texts()]


def test_what_a_journal_says(run: SearchRun, run_folder: Path) -> None:
    assert SearchRun.read(run_folder) == run
    assert run.positions == ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))
    assert run.strategy == "des"
    assert [event.index for event in run.evolutions] == [0, 1]
    assert run.finished
    assert not SearchRun(start=run.start, evolutions=run.evolutions[:1]).finished
    assert run.net == (None, {})


def test_numbers_of_a_search(run: SearchRun) -> None:
    kept = run.kept()
    assert kept is not None and kept.shape == (2, 3, 2)
    # Of three candidates: position by position 2, 1, 2, 1, 2 and then 3, 0, 1, 0, 3; the last layer has no identity.
    assert kept[0] == pytest.approx(np.array([[2 / 3, 1 / 3], [2 / 3, 1 / 3], [2 / 3, np.nan]]), nan_ok=True)
    assert kept[1] == pytest.approx(np.array([[1, 0], [1 / 3, 0], [1, np.nan]]), nan_ok=True)
    alpha, beta = run.alpha(), run.beta()
    assert alpha is not None and beta is not None
    assert alpha[1] == pytest.approx(np.array([[0.6, 0.7], [0.8, 0.9], [1.0, np.nan]]), nan_ok=True)
    assert beta == pytest.approx(np.array([[0.1, 0.2, 0.3], [0.6, 0.7, 0.8]]))
    # Diversity is the mean Hamming distance; by hand: 5, 3 and 2 of 5 positions; 0, 1 and 1.
    assert run.diversity() == pytest.approx([(5 + 3 + 2) / 3 / 5, 2 / 3 / 5])
    alone = SearchRun(start=START, evolutions=[evolution(0, [0.5], population=["11000"])])
    assert alone.diversity() == [0]


def test_the_best_candidate_of_the_last_evolution(run: SearchRun) -> None:
    expected = Architecture(("stages.0", "stages.1", "head"), ("conv1x3", "identity"), ((1, 0), (1, 0), (1, 0)))
    assert run.best_candidate() == expected
    with pytest.raises(InputError, match="does not contain the population"):
        SearchRun(start=START, evolutions=[evolution(0, [0.5])]).best_candidate()


def test_old_journals_hold_less(run: SearchRun) -> None:
    old = SearchRun(start=START, evolutions=[evolution(0, [0.5, 0.25, 0.75]), run.evolutions[1]])
    assert (old.kept(), old.alpha(), old.beta(), old.diversity()) == (None,) * 4


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([], "not the journal of a search"),
        ([3, [1], "text", None], "line 1: not an event: expected a valid dictionary, got 3"),
        ([{"event": "start", "recipe": {}, "architecture": None}], "not the journal of a search"),
        ([evolution(0, [0.5])], "not the journal of a search"),
        ([START], "has not finished an evolution yet"),
        ([START, 3, {"event": "epoch", "epoch": 0}], "line 2: not an event: expected a valid dictionary, got 3"),
        ([START, evolution(0, [0.5], population=["111"])], "evolution 0: population: expected 5 bits, got 3"),
        (
            [START, evolution(0, [0.5], population=["11111", "11111"])],
            r"population: expected 1 values \(candidates\), got 2",
        ),
        (
            [START, evolution(0, [0.5], population=[[1, 1, 1, 1, 1]])],
            r"line 2: not an evolution: population\.0: expected a valid string, got \[1, 1, 1, 1, 1\]",
        ),
        ([START, evolution(0, [0.5], loss=[0.5, 1.0])], r"loss: expected 1 values \(candidates\), got 2"),
        ([START, evolution(0, [0.5], alpha=[0.5])], r"alpha: expected 5 values \(possible branches\), got 1"),
        ([START, evolution(0, [0.5], beta=[0.5])], r"beta: expected 3 values \(layers\), got 1"),
        ([START, evolution(0, [0.5], beta=None)], "line 2: not an evolution: beta: expected a valid tuple, got None"),
        ([START, {**evolution(0, [0.5]), "accuracy": []}], "line 2: not an evolution: accuracy: "),
        ([START, {"event": "evolution", "index": 0}], "best is missing; mean is missing; accuracy is missing"),
        (
            [{**START, "positions": [[0]]}, evolution(0, [0.5])],
            r"line 1: not the start of a search: positions\.0\.1 is missing",
        ),
    ],
)
def test_journals_that_cannot_be_drawn(events: list[Any], said: str, tmp_path: Path) -> None:
    path = write_journal(tmp_path, *events)
    path.touch()
    with pytest.raises(InputError, match=said):
        SearchRun.read(path)


def test_a_file_that_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text("some\ntext\n")
    with pytest.raises(InputError, match="line 1"):
        SearchRun.read(path)
    with pytest.raises(InputError, match="no such journal"):
        SearchRun.read(tmp_path / "none")


def test_fitness_by_evolution(run: SearchRun) -> None:
    figure = draw_fitness({"des": run})
    assert lines(figure, "-", BLUE) == [[75, 100]]
    assert lines(figure, "--", BLUE) == [[50, 75]]
    assert lines(figure, "None", BLUE) == [[50, 25, 75], [75, 50, 100]]
    assert legend(figure) == ["des: best", "des: mean"]
    assert [list(line.get_xdata()) for line in figure.axes[0].lines if line.get_linestyle() == "-"] == [[1, 2]]


def test_runs_differ_in_colour_and_marker(run: SearchRun) -> None:
    other = SearchRun(start=START, evolutions=[evolution(0, [0.1, 0.3])])
    figure = draw_fitness({"des": run, "random": other})
    assert lines(figure, "-", ORANGE) == [[30]]
    assert lines(figure, "-", BLUE) == [[75, 100]]
    best = [line for line in figure.axes[0].lines if line.get_linestyle() == "-"]
    assert [line.get_marker() for line in best] == ["o", "s"]


def test_the_whole_of_a_search(run: SearchRun, tmp_path: Path) -> None:
    figure = draw_search({"$des$": run})
    titles = [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes]
    assert titles == [
        "fitness: best 100.00%, evolution 2; one dot per candidate",
        "diversity: mean Hamming distance between two candidates",
        "importance of a block",
        "importance of a branch, mean over layers",
        "kept by the last population",
    ]
    _, spread, beta, means, survival = figure.axes
    assert list(spread.lines[0].get_ydata()) == run.diversity()
    assert [list(line.get_ydata()) for line in beta.lines] == [[0.1, 0.6], [0.2, 0.7], [0.3, 0.8]]
    assert legend(figure, 2) == START["layers"]
    assert means.lines[0].get_ydata() == pytest.approx([0.3, 0.8])
    # Of the identity the two layers that have it.
    assert means.lines[1].get_ydata() == pytest.approx([0.3, 0.8])
    # By layer and branch, in the last evolution; the third layer cannot have the identity.
    kept = survival.images[0].get_array()
    assert kept.mask.tolist() == [[False, False], [False, False], [False, True]]
    assert kept.filled(-1) == pytest.approx(np.array([[1, 0], [1 / 3, 0], [1, -1]]))
    save_figure(figure, tmp_path / "a.svg")
    assert "not finished" not in figure.subfigs[1].get_suptitle()


def test_an_unfinished_search_and_an_old_one(run: SearchRun) -> None:
    unfinished = SearchRun(start=START, evolutions=run.evolutions[:1])
    old = SearchRun(start=START, evolutions=[evolution(0, [0.5])])
    figure = draw_search({"a": unfinished, "b": old})
    assert figure.subfigs[1].get_suptitle().endswith("not finished: evolution 1")
    said = [text.get_text() for axes in figure.axes for text in axes.texts if " " in text.get_text()]
    assert said == [f"this journal does not contain {what}" for what in ("beta", "alpha", "the population")]
    assert "the population" in draw_search({"b": old}).axes[1].texts[0].get_text()
    with pytest.raises(InputError, match="no search"):
        draw_search({})


def test_importances_that_hardly_differ_are_drawn_flat(run: SearchRun) -> None:
    flat = [
        event.model_copy(update={"alpha": [0.5] * 4 + [0.5001], "beta": [0.5, 0.5, 0.5001]}) for event in run.evolutions
    ]
    _, _, beta, alpha, _ = draw_search({"flat": SearchRun(start=START, evolutions=flat)}).axes
    assert all(high - low == pytest.approx(0.02) for low, high in (beta.get_ylim(), alpha.get_ylim()))


def test_importances_of_blocks_and_branches_have_one_range(run: SearchRun) -> None:
    _, _, beta, alpha, _ = draw_search({"a": run}).axes
    assert beta.get_ylim() == alpha.get_ylim()
    assert beta.get_ylim()[0] < 0.1 and beta.get_ylim()[1] > 0.8


@pytest.mark.parametrize("layers", [1, 30])
def test_few_and_many_layers(layers: int) -> None:
    start = {**START, "layers": [f"слой.{row}" for row in range(layers)], "positions": [[r, 1] for r in range(layers)]}
    events = [
        evolution(index, [0.5], population=["1" * layers], alpha=[0.5] * layers, beta=[0.5] * layers)
        for index in range(1 if layers > 1 else 40)
    ]
    figure = draw_search({"many": SearchRun(start=start, evolutions=events)})
    # No layer has the other branch: its panels are empty, and it has no line among the means.
    assert legend(figure, 3) == ["identity"]
    assert legend(figure, 2) == (["слой.0"] if layers == 1 else ["слой.0", "слой.29"])
    figure.draw_without_rendering()
