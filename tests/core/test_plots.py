from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from irepdeploy.arch import Architecture
from irepdeploy.cli import main
from irepdeploy.errors import InputError, OutputError
from irepdeploy.files import append_line
from irepdeploy.plots.architecture import draw_architecture
from irepdeploy.plots.figure import BLUE, ORANGE, save_figure
from irepdeploy.plots.search_run import draw_fitness, read_search

ONE = Architecture(("stages.0", "stages.1", "head"), ("conv1x3", "identity"), ((0, 1), (1, 1), (1, 0)))
START = {
    "event": "start",
    "recipe": {"search": {"strategy": "des"}},
    "layers": list(ONE.layers),
    "branches": list(ONE.branches),
    "positions": [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0]],
    "budget": 4,
}


def evolution(index: int, accuracy: Sequence[float]) -> dict[str, Any]:
    mean = sum(accuracy) / len(accuracy)
    return {"event": "evolution", "index": index, "best": max(accuracy), "mean": mean, "accuracy": list(accuracy)}


def journal(folder: Path, *events: Any) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    for event in events:
        append_line(folder / "journal.jsonl", event)
    return folder / "journal.jsonl"


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "search"
    journal(
        folder,
        START,
        {"event": "epoch", "epoch": 0},
        evolution(0, [0.5, 0.25, 0.75]),
        {"event": "epoch", "epoch": 1},
        evolution(1, [0.75, 0.5, 1.0]),
    )
    ONE.save(folder / "best.json")
    return folder


def squares(figure: Figure) -> list[Rectangle]:
    return [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]


def filled(figure: Figure) -> set[tuple[int, int]]:
    """(row, column) of the filled squares."""
    centres = {}
    for square in squares(figure):
        row, column = square.get_y() + square.get_height() / 2, square.get_x() + square.get_width() / 2
        centres[round(row), round(column)] = square.get_facecolor()
    return {place for place, colour in centres.items() if colour == to_rgba(BLUE)}


def test_a_filled_square_is_a_kept_branch() -> None:
    figure = draw_architecture(ONE)
    assert len(squares(figure)) == 6
    assert filled(figure) == {(0, 1), (1, 0), (1, 1), (2, 0)}
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(ONE.layers)
    assert [label.get_text() for label in axes.get_xticklabels()] == list(ONE.branches)
    assert axes.get_title(loc="left") == "Architecture: 4 of 6 branches"
    # The first layer stands at the top.
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_branches_that_cannot_be_are_crossed_out_and_do_not_count() -> None:
    figure = draw_architecture(ONE, possible={(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)}, title="Best")
    axes = figure.axes[0]
    assert [(text.get_position()[1], text.get_position()[0]) for text in axes.texts] == [(2, 1)]
    assert axes.get_title(loc="left") == "Best: 4 of 5 branches"
    assert "not possible" in axes.get_xlabel()
    everything = {(row, column) for row in range(3) for column in range(2)}
    assert draw_architecture(ONE, possible=everything).axes[0].get_xlabel() == ""


@pytest.mark.parametrize("ending", [".png", ".svg", ".PNG"])
def test_figures_are_written_whole(ending: str, tmp_path: Path) -> None:
    path = save_figure(draw_architecture(ONE), tmp_path / f"a{ending}")
    start = path.read_bytes()[:8]
    assert start == b"\x89PNG\r\n\x1a\n" if ending.lower() == ".png" else start.startswith(b"<?xml")
    assert [p.name for p in tmp_path.iterdir()] == [f"a{ending}"]


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.pdf", ".png"])
def test_another_ending_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.png or \.svg"):
        save_figure(draw_architecture(ONE), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        save_figure(draw_architecture(ONE), tmp_path / "none" / "a.png")


@pytest.mark.parametrize("layers", [1, 100])
def test_few_and_many_layers(layers: int, tmp_path: Path) -> None:
    rows = tuple((index % 2,) for index in range(layers))
    many = Architecture(tuple(f"stages.{index}.conv" for index in range(layers)), ("conv1x3",), rows)
    figure = draw_architecture(many)
    assert len(filled(figure)) == many.count
    save_figure(figure, tmp_path / "a.png")


def test_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    # Letters of other alphabets, and what matplotlib would take for a formula.
    names = ("größe", "слой", "$x_1$", r"$\nonsense{$", "a_b^c", "<&>")
    strange = Architecture(names, ("β", "$y$"), ((0, 1),) * 6)
    figure = draw_architecture(strange)
    save_figure(figure, tmp_path / "a.png")
    save_figure(figure, tmp_path / "a.svg")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(names)
    assert not any(label.get_parse_math() for label in figure.axes[0].get_xticklabels())


def lines(figure: Figure, marker: str, colour: str) -> list[list[float]]:
    """The heights of every line with this marker and colour."""
    found = [line for line in figure.axes[0].lines if line.get_marker() == marker and line.get_color() == colour]
    return [[float(value) for value in line.get_ydata()] for line in found]


def test_fitness_by_evolution(run_folder: Path) -> None:
    figure = draw_fitness({"des": read_search(run_folder / "journal.jsonl")})
    assert lines(figure, "o", BLUE) == [[75, 100]]
    assert lines(figure, "s", BLUE) == [[50, 75]]
    assert lines(figure, ".", BLUE) == [[50, 25, 75], [75, 50, 100]]
    legend = figure.axes[0].get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["des: best", "des: mean"]
    assert [list(line.get_xdata()) for line in figure.axes[0].lines if line.get_marker() == "o"] == [[1, 2]]


def test_two_runs_have_two_colours(run_folder: Path, tmp_path: Path) -> None:
    other = read_search(journal(tmp_path / "other", START, evolution(0, [0.1, 0.3])))
    figure = draw_fitness({"des": read_search(run_folder / "journal.jsonl"), "random": other})
    assert lines(figure, "o", ORANGE) == [[30]]
    assert lines(figure, "o", BLUE) == [[75, 100]]


def test_what_a_journal_says(run_folder: Path) -> None:
    run = read_search(run_folder / "journal.jsonl")
    assert run.possible == {(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)}
    assert run.strategy == "des"
    assert [event["index"] for event in run.evolutions] == [0, 1]


@pytest.mark.parametrize(
    ("events", "said"),
    [
        ([], "not the journal of a search"),
        ([3, [1], "text", None], "not the journal of a search"),
        ([{"event": "start", "architecture": None}], "not the journal of a search"),
        ([evolution(0, [0.5])], "not the journal of a search"),
        ([START], "has not finished an evolution yet"),
        ([START, 3, {"event": "epoch"}], "has not finished an evolution yet"),
    ],
)
def test_journals_that_cannot_be_drawn(events: list[Any], said: str, tmp_path: Path) -> None:
    path = journal(tmp_path, *events)
    path.touch()
    with pytest.raises(InputError, match=said):
        read_search(path)


def test_a_file_that_is_no_journal(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_text("some\ntext\n")
    with pytest.raises(InputError, match="line 1"):
        read_search(path)
    with pytest.raises(InputError, match="no such journal"):
        read_search(tmp_path / "none.jsonl")


def test_the_command_draws(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, source in (("arch", run_folder), ("arch", run_folder / "best.json"), ("search", run_folder)):
        out = tmp_path / f"{kind}-{source.name}.png"
        assert main(["plot", kind, str(source), "--out", str(out)]) == 0
        assert capsys.readouterr().out == f"wrote {out}\n"
        assert out.read_bytes().startswith(b"\x89PNG")


def test_two_folders_of_one_name_are_both_drawn(
    run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal(tmp_path / "later" / "search", START, evolution(0, [0.1]))
    drawn: list[str] = []
    original = draw_fitness
    monkeypatch.setattr("irepdeploy.plots.search_run.draw_fitness", lambda runs: drawn.extend(runs) or original(runs))
    command = ["plot", "search", str(run_folder), "--against", str(tmp_path / "later" / "search")]
    assert main([*command, "--out", str(tmp_path / "a.svg")]) == 0
    assert len(drawn) == 2


@pytest.mark.parametrize(
    "command",
    [
        ["arch", "none"],
        ["arch", "empty"],
        ["arch", "journal.jsonl"],
        ["search", "none"],
        ["search", "empty"],
        ["search", "journal.jsonl"],
        ["search", "search", "--against", "empty"],
        ["arch", "search", "--out", "a.jpg"],
        ["arch", "search", "--out", "none/a.png"],
        ["kernels", "search"],
    ],
)
def test_bad_input_exits_2_and_writes_nothing(
    command: list[str], run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_folder.parent
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    (folder / "journal.jsonl").write_text(json.dumps(START) + "\n")
    assert main(["plot", *command]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines()[-1].startswith("irepdeploy: error: ")
    assert "Traceback" not in printed.err
    assert sorted(path.name for path in folder.iterdir()) == ["empty", "journal.jsonl", "search"]


def test_pyplot_is_left_alone() -> None:
    # Its global state would want a screen, and keep every figure.
    code = (
        "import sys; from irepdeploy.arch import Architecture; from irepdeploy.plots.architecture import *;"
        "draw_architecture(Architecture(('a',), ('b',), ((1,),))); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
