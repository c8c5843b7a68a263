"""Architectures as matrices, their sources, differences between two; and properties of all pictures."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import irepdeploy as ird
from irepdeploy.errors import ArchitectureError, InputError, OutputError
from irepdeploy.network.nets import build
from irepdeploy.plots.architecture import draw_architecture, draw_architectures, draw_difference
from irepdeploy.plots.architecture_source import read_architecture
from irepdeploy.plots.architecture_view import ArchitectureView, difference, in_column_order, stages_of
from irepdeploy.plots.figure import BLUE, ORANGE, figure_svg, save_figure, shown
from irepdeploy.reparam.architecture import Architecture
from irepdeploy.reparam.published import PUBLISHED
from support.search_journals import evolution, write_journal

ONE = Architecture(("stages.0", "stages.1", "head"), ("conv1x3", "identity"), ((0, 1), (1, 1), (1, 0)))
OTHER = Architecture(("stages.1", "stages.0", "tail"), ("dil2x2", "conv1x3"), ((1, 1), (0, 1), (1, 0)))
VGG6 = tuple(f"stages.{stage}.{conv}.conv" for stage in range(3) for conv in range(2))


def squares(figure: Figure, panel: int = 0) -> dict[tuple[int, int], Rectangle]:
    """By (row, column)."""
    patches = [patch for patch in figure.axes[panel].patches if isinstance(patch, Rectangle)]
    centres = [(patch.get_y() + patch.get_height() / 2, patch.get_x() + patch.get_width() / 2) for patch in patches]
    return {(round(row), round(column)): patch for (row, column), patch in zip(centres, patches, strict=True)}


def filled(figure: Figure, panel: int = 0) -> set[tuple[int, int]]:
    """(row, column) of the filled squares."""
    return {place for place, patch in squares(figure, panel).items() if patch.get_facecolor() == to_rgba(BLUE)}


def texts(figure: Figure, panel: int = 0) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def separators(figure: Figure, panel: int = 0) -> list[float]:
    return [float(line.get_ydata()[0]) for line in figure.axes[panel].lines]


def test_a_filled_square_is_a_kept_branch() -> None:
    figure = draw_architecture(ONE)
    assert len(squares(figure)) == 6
    assert filled(figure) == {(0, 1), (1, 0), (1, 1), (2, 0)}
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == list(ONE.layers)
    assert [label.get_text() for label in axes.get_xticklabels()] == list(ONE.branches)
    assert axes.get_title(loc="left") == "Architecture: 4 of 6 branches"
    # The first layer is at the top.
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_branches_that_cannot_be_are_crossed_out_and_do_not_count() -> None:
    figure = draw_architecture(ONE, possible={(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)}, title="Best")
    axes = figure.axes[0]
    assert [(text.get_position()[1], text.get_position()[0]) for text in axes.texts] == [(2, 1)]
    assert axes.get_title(loc="left") == "Best: 4 of 5 branches"
    assert "not possible" in axes.get_xlabel()
    everything = {(row, column) for row in range(3) for column in range(2)}
    assert draw_architecture(ONE, possible=everything).axes[0].get_xlabel() == ""


def test_several_stand_side_by_side_with_their_rows_level() -> None:
    views = [read_architecture(name, name) for name in PUBLISHED]
    figure = draw_architectures(views)
    assert len(figure.axes) == 3
    for panel, view in enumerate(views):
        matrix = view.architecture.matrix
        kept = {(row, column) for row, bits in enumerate(matrix) for column, bit in enumerate(bits) if bit}
        assert filled(figure, panel) == kept
    assert {axes.get_ylim() for axes in figure.axes} == {(31.6, -0.6)}
    assert [axes.get_title(loc="left").split(": ")[1] for axes in figure.axes] == [
        "57 of 112 branches",
        "114 of 224 branches",
        "57 of 112 branches",
    ]


def test_stages_and_channels_of_a_published_network() -> None:
    view = read_architecture("irep-resnet50", "fifty")
    # Stages of 3, 4, 6 and 3 blocks.
    assert view.stages == (0, 3, 7, 13)
    assert view.channels["layer1.0.conv2"] == (64, 64, 1)
    assert view.channels["layer2.0.conv2"] == (128, 128, 2)
    assert view.channels["layer4.2.conv2"] == (512, 512, 1)
    figure = draw_architectures([view])
    assert separators(figure) == [2.5, 6.5, 12.5]
    assert texts(figure)[:4] == ["64→64", "64→64", "64→64", "128→128 /2"]
    assert figure.axes[0].get_title(loc="left").startswith("fifty: ")


@pytest.mark.parametrize(
    ("layers", "channels", "expected"),
    [
        (("layer1.0.conv1", "layer1.1.conv1", "layer2.0.conv1"), {}, (0, 2)),
        (("stages.0.0", "stages.0.1", "stages.10.0", "stages.1.0"), {}, (0, 2, 3)),
        # One stage per layer is uninformative, so channels are used if known.
        (("features.0", "features.3", "features.7"), {}, (0,)),
        (
            ("features.0", "features.3", "features.7"),
            {"features.0": (3, 64, 1), "features.3": (64, 64, 1), "features.7": (64, 128, 1)},
            (0, 2),
        ),
        (("conv",), {}, (0,)),
        (("a", "b"), {}, (0,)),
        (("weights2x2", "weights2y2"), {}, (0,)),
        ((), {}, ()),
    ],
)
def test_where_stages_begin(
    layers: tuple[str, ...], channels: dict[str, tuple[int, int, int]], expected: tuple[int, ...]
) -> None:
    assert stages_of(layers, channels) == expected


def test_the_difference_of_two() -> None:
    found = difference(ONE, OTHER)
    assert found.layers == ("stages.0", "stages.1", "head", "tail")
    assert found.branches == ("conv1x3", "identity", "dil2x2")
    assert found.first == ((0, 1, 0), (1, 1, 0), (1, 0, 0), (0, 0, 0))
    assert found.second == ((1, 0, 0), (1, 0, 1), (0, 0, 0), (0, 0, 1))
    assert found.only == {"head": 0, "tail": 1}
    assert found.distance == 6
    assert difference(ONE, ONE).distance == 0
    deep = difference(PUBLISHED["irep-resnet50"], PUBLISHED["irep-resnet18"]).layers
    assert deep[:5] == ("layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2", "layer1.2.conv2")
    with pytest.raises(ArchitectureError, match=r"no layer in common: stages\.0 and a"):
        difference(ONE, Architecture(("a",), ("conv1x3",), ((1,),)))


def test_a_difference_is_drawn_by_colour_and_hatch() -> None:
    figure = draw_difference(ArchitectureView("one", ONE), ArchitectureView("two", OTHER))
    found = squares(figure)
    assert len(found) == 12
    looks = {place: (patch.get_hatch(), patch.get_facecolor()) for place, patch in found.items()}
    assert {place for place, look in looks.items() if look[0] == "//////"} == {(0, 1), (1, 1), (2, 0)}
    assert {place for place, look in looks.items() if look[0] == "...."} == {(0, 0), (1, 2), (3, 2)}
    assert filled(figure) == {(1, 0)}
    assert to_rgba(ORANGE) == found[2, 0].get_edgecolor()
    axes = figure.axes[0]
    assert axes.get_title(loc="left") == "one and two: 6 branches differ"
    assert axes.get_xlabel().replace("\n", " ") == "only one has head; only two has tail"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["both", "only one", "only two", "neither"]
    assert draw_difference(ArchitectureView("a", ONE), ArchitectureView("b", ONE)).axes[0].get_xlabel() == ""


def search_folder(folder: Path, *events: dict[str, object]) -> Path:
    start = {
        "event": "start",
        "recipe": {"net": {"name": "vgg6", "args": {}}, "data": {"name": "digits"}, "search": {"strategy": "des"}},
        "layers": list(VGG6),
        "branches": ["conv1x3", "identity"],
        "positions": [[row, column] for row in range(6) for column in range(2) if column == 0 or row % 2],
    }
    return write_journal(folder, start, *events).parent


def test_a_search_folder_is_read_with_its_network(tmp_path: Path) -> None:
    folder = search_folder(tmp_path / "run", evolution(0, [0.5, 0.5], loss=[2.0, 1.0], population=["1" * 9, "0" * 9]))
    kept = Architecture(VGG6, ("conv1x3", "identity"), ((1, 0),) * 6)
    kept.save(folder / "best.json")
    (folder / "population").mkdir()
    kept.save(folder / "population" / "000.json")
    for source in (folder, folder / "best.json", folder / "population" / "000.json"):
        view = read_architecture(source, "run")
        assert view.architecture == kept
        assert view.total == 9
        # The images of the data set are grey.
        assert view.channels[VGG6[0]] == (1, 16, 1)
        assert view.stages == (0, 2, 4)
    # Elsewhere, the file alone does not identify its network.
    kept.save(tmp_path / "alone.json")
    alone = read_architecture(tmp_path / "alone.json", "alone")
    assert (alone.possible, alone.channels, alone.total) == (None, {}, 12)
    # Another network's Architecture in the folder does not identify it either.
    ONE.save(folder / "other.json")
    assert read_architecture(folder / "other.json", "other").possible is None


def test_an_unfinished_search_shows_its_best_candidate(tmp_path: Path) -> None:
    folder = search_folder(
        tmp_path / "run",
        evolution(0, [0.9, 0.1, 0.1], loss=[1.0, 2.0, 2.0], population=["1" * 9, "0" * 9, "0" * 9]),
        evolution(1, [0.5, 0.7, 0.7], loss=[1.0, 1.0, 1.5], population=["0" * 9, "100000001", "1" * 9]),
    )
    view = read_architecture(folder, "run")
    assert view.label == "run, not finished, evolution 2"
    # Of equal accuracies the lower loss.
    assert [place for place, bit in enumerate(sum(view.architecture.matrix, ())) if bit] == [0, 11]


def test_a_network_that_the_registry_does_not_have_has_no_channels(tmp_path: Path) -> None:
    folder = search_folder(tmp_path / "run", evolution(0, [0.5], loss=[2.0], population=["111111111"]))
    text = re.sub(',"check":"[0-9a-f]+"', "", (folder / "journal.jsonl").read_text())
    (folder / "journal.jsonl").write_text(text.replace("vgg6", "another"))
    assert read_architecture(folder, "run").channels == {}


def test_a_checkpoint_in_train_and_fused_state(tmp_path: Path) -> None:
    net = ird.insert_branches(build("vgg6"), "ireps").eval()
    net.get_submodule(VGG6[1]).active = ("identity", "conv1x3")
    ird.save(net, tmp_path / "a.pt")
    fused = ird.fuse(net, prove=False)
    ird.save(fused, tmp_path / "b.pt")
    for name in ("a", "b"):
        view = read_architecture(tmp_path / f"{name}.pt", name)
        architecture = view.architecture
        assert architecture.branches == tuple(in_column_order(architecture.branches))
        assert set(architecture.kept(VGG6[0])) == set(architecture.branches) - {"identity"}
        if name == "a":
            assert architecture.kept(VGG6[1]) == ("conv1x3", "identity")
        # The identity does not stand where channels change.
        crossed = [(row, column) for row in range(6) for column in range(9) if (row, column) not in view.possible]
        assert crossed == [(0, 8), (2, 8), (4, 8)]
        assert view.channels[VGG6[2]] == (16, 32, 1)
    (tmp_path / "training").mkdir()
    ird.save(net, tmp_path / "training" / "best.pt")
    assert read_architecture(tmp_path / "training", "t").architecture.count == 6 * 9 - 3 - 7


def test_networks_of_the_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = read_architecture("irep_resnet18", "eighteen")
    assert view.architecture.digest == PUBLISHED["irep-resnet18"].digest
    with pytest.raises(InputError, match="without branches"):
        read_architecture("vgg6", "plain")
    monkeypatch.chdir(tmp_path)
    ONE.save(tmp_path / "irep-resnet18")
    assert read_architecture("irep-resnet18", "file").architecture == ONE


@pytest.mark.parametrize("source", ["none", "empty", "none.pt", "none.json", "none/best.json", "text.json"])
def test_what_is_no_architecture(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("text.json").write_text("[]")
    with pytest.raises(InputError):
        read_architecture(source, source)
    with pytest.raises(InputError, match="no Architecture"):
        draw_architectures([])


@pytest.mark.parametrize("ending", [".png", ".svg", ".PNG"])
def test_figures_are_written_whole(ending: str, tmp_path: Path) -> None:
    path = save_figure(draw_architecture(ONE), tmp_path / f"a{ending}")
    start = path.read_bytes()[:8]
    assert start == b"\x89PNG\r\n\x1a\n" if ending.lower() == ".png" else start.startswith(b"<?xml")
    assert [p.name for p in tmp_path.iterdir()] == [f"a{ending}"]


def test_the_same_figure_is_the_same_file(tmp_path: Path) -> None:
    first, second = (figure_svg(draw_architecture(ONE)) for _ in range(2))
    assert first == second
    assert ElementTree.fromstring(first).tag == "{http://www.w3.org/2000/svg}svg"


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.pdf", ".png"])
def test_another_ending_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.png or \.svg"):
        save_figure(draw_architecture(ONE), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        save_figure(draw_architecture(ONE), tmp_path / "file" / "a.png")


@pytest.mark.parametrize("layers", [1, 100, 600])
def test_few_and_many_layers(layers: int, tmp_path: Path) -> None:
    rows = tuple((index % 2,) for index in range(layers))
    many = Architecture(tuple(f"stages.{index}.conv" for index in range(layers)), ("conv1x3",), rows)
    figure = draw_architecture(many)
    assert len(filled(figure)) == many.count
    assert figure.get_size_inches()[1] < 30
    # Names do not overlap.
    assert len(figure.axes[0].get_yticks()) <= 26 / 0.1
    if layers < 600:
        save_figure(figure, tmp_path / "a.png")


def test_an_architecture_without_layers_or_branches_is_a_clear_picture(tmp_path: Path) -> None:
    for empty in (Architecture((), (), ()), Architecture(("a",), (), ((),))):
        save_figure(draw_architecture(empty), tmp_path / "a.png")


def test_names_are_drawn_as_they_are(tmp_path: Path) -> None:
    # Letters of other alphabets, and what matplotlib would take for a formula.
    names = ("größe", "слой", "$x_1$", r"$\nonsense{$", "a_b^c", "<&>", "层", "a\nb\t", "\N{SLICE OF PIZZA}", "x" * 90)
    strange = Architecture(names, ("β", "$y$"), ((0, 1),) * len(names))
    view = ArchitectureView("$层$", strange, None, {})
    figure = draw_architectures([view])
    save_figure(figure, tmp_path / "a.png")
    save_figure(figure, tmp_path / "a.svg")
    save_figure(draw_difference(view, view), tmp_path / "b.svg")
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert labels[:6] == list(names[:6])
    assert labels[7] == r"a\nb\t"
    assert len(labels[9]) == 48
    assert not any(label.get_parse_math() for label in figure.axes[0].get_xticklabels())
    assert not figure.axes[0].title.get_parse_math()


def test_letters_that_no_font_has_are_written_out() -> None:
    assert shown("größe $x$") == "größe $x$"
    assert shown("a\ue000b") == r"a\ue000b"
    assert shown("\x07") == r"\x07"
    assert shown("a" * 20 + "b" * 20, longest=11) == "aaaaa…bbbbb"
    assert shown("a" * 11, longest=11) == "a" * 11


def test_the_users_settings_of_matplotlib_change_nothing() -> None:
    from matplotlib import rc_context, rcParams

    plain = figure_svg(draw_architecture(ONE))
    with rc_context({"font.family": "monospace", "text.parse_math": True}):
        assert figure_svg(draw_architecture(ONE)) == plain
        assert rcParams["font.family"] == ["monospace"]


def test_pyplot_is_left_alone() -> None:
    # Its global state would need a screen and keep every figure.
    code = (
        "import sys; from irepdeploy.reparam.architecture import Architecture; "
        "from irepdeploy.plots.architecture import *;"
        "draw_architecture(Architecture(('a',), ('b',), ((1,),))); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
