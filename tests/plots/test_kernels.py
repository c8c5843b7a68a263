"""Energy of fused kernels, weights of branches: as numbers, as tables and as pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import irepdeploy as ird
from irepdeploy.cli import main
from irepdeploy.errors import CheckpointError, InputError
from irepdeploy.network.nets import build
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.plots.arch_weights import (
    ArchWeights,
    draw_arch_weights,
    network_weights,
    read_arch_weights,
    search_weights,
)
from irepdeploy.plots.figure import save_figure
from irepdeploy.plots.kernel_energy import (
    FIXED,
    KernelEnergy,
    NetworkKernels,
    kernel_energy,
    network_kernels,
    read_kernels,
)
from irepdeploy.plots.kernels import draw_kernels
from irepdeploy.plots.search_history import SearchRun
from irepdeploy.plots.tables import arch_weights_table, kernel_table, network_tables

LAYER = "stages.0.1.conv"


def net(branches: str | None = "ireps") -> nn.Module:
    torch.manual_seed(0)
    return randomize_statistics(build("vgg6", branches=branches, stages=((4, 4), (8, 8), (8, 8))), 0).eval()


def run(alpha: list[float], beta: list[float], **recipe: Any) -> SearchRun:
    start = {
        "recipe": {"search": {"strategy": "des", **recipe}},
        "layers": ["a", "b"],
        "branches": ["conv1x3", "dil1x2", "dil2x1", "conv3x1"],
        "positions": [[0, 0], [0, 1], [1, 2], [1, 3], [1, 0]],
    }
    first = {"index": 0, "best": 0.5, "mean": 0.5, "accuracy": [0.5], "alpha": [0.5] * 5, "beta": [0.5] * 2}
    return SearchRun(start=start, evolutions=[first, {**first, "index": 1, "alpha": alpha, "beta": beta}])


def test_energy_and_shares_by_hand() -> None:
    fixed, branch = torch.zeros(2, 1, 3, 3), torch.zeros(2, 1, 3, 3)
    fixed[0, 0, 1, 1], fixed[1, 0, 0, 0] = 1, 2
    branch[0, 0, 1, 1], branch[0, 0, 1, 2] = 2, -1
    found = kernel_energy({"fixed": fixed, "branch": branch})
    # The sum: 3 in the centre, -1 to its right, 2 in a corner; together 9 + 1 + 4.
    assert found.taps == pytest.approx(np.array([[4, 0, 0], [0, 9, 1], [0, 0, 0]]) / 14)
    assert found.shares == pytest.approx({"fixed": (1 * 3 + 2 * 2) / 14, "branch": (2 * 3 + 1) / 14})
    assert found.cross == pytest.approx(10 / 14)


def test_an_operation_may_work_against_the_others() -> None:
    kernel = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    found = kernel_energy({"fixed": 3 * kernel, "branch": -kernel})
    assert found.shares == pytest.approx({"fixed": 1.5, "branch": -0.5})


def test_a_kernel_of_zeros_has_no_shares() -> None:
    found = kernel_energy({"fixed": torch.zeros(1, 1, 3, 3)})
    assert found.taps.sum() == found.cross == found.shares["fixed"] == 0


@pytest.mark.parametrize(("size", "even"), [(3, 5 / 9), (5, 9 / 25), (7, 13 / 49)])
def test_the_cross_of_an_even_kernel(size: int, even: float) -> None:
    assert kernel_energy({"": torch.ones(1, 1, size, size)}).cross == pytest.approx(even)


def test_it_is_the_kernel_that_is_deployed() -> None:
    model = net()
    model.get_submodule(LAYER).active = ("identity", "conv1x3")
    found = network_kernels(model, "net")
    fused = ird.fuse(model, prove=False)
    for name, layer in found.layers.items():
        weight = fused.get_submodule(name).weight.detach().double()
        assert layer.taps == pytest.approx(((weight**2).sum((0, 1)) / (weight**2).sum()).numpy(), rel=1e-5)
        assert sum(layer.shares.values()) == pytest.approx(1)
    assert list(found.layers[LAYER].shares) == [FIXED, "conv1x3", "identity"]
    assert found.operations[:3] == (FIXED, "conv1x3", "conv3x1")
    after = network_kernels(fused, "fused")
    assert list(after.layers) == list(found.layers)
    assert after.operations == () and after.layers[LAYER].shares == {}
    assert after.layers[LAYER].taps == pytest.approx(found.layers[LAYER].taps, rel=1e-5)


def test_plain_networks_have_their_batch_normalization_in_the_kernel() -> None:
    plain = net(None)
    unit = plain.get_submodule("stages.0.0")
    with torch.no_grad():
        unit.conv.weight[1:] = 0
        unit.conv.weight[0] = torch.arange(9.0).reshape(3, 3)
        unit.conv.weight[1, 0, 1, 1] = 1
        # Without it the first channel would have all the energy.
        unit.bn.weight[0] = 0
        unit.bn.weight[1] = 1
    found = network_kernels(ird.insert_branches(plain, "none").eval(), "plain")
    assert found.layers["stages.0.0.conv"].taps[1, 1] == pytest.approx(1)
    assert found.operations == (FIXED,)
    with pytest.raises(InputError, match=r"linear: no convolution of 3x3"):
        network_kernels(nn.Linear(2, 2), "linear")


def test_kernels_of_files_folders_and_names(tmp_path: Path) -> None:
    assert read_kernels("vgg6", "v").untrained == "random, seed 0"
    (tmp_path / "run").mkdir()
    ird.save(net(None), tmp_path / "run" / "best.pt")
    for source in (tmp_path / "run", tmp_path / "run" / "best.pt"):
        found = read_kernels(source, "run")
        assert found.operations == (FIXED,) and len(found.layers) == 6


def test_the_picture_of_kernels(tmp_path: Path) -> None:
    model = net()
    found = network_kernels(model, "$net$ 层", "random, seed 0")
    figure = draw_kernels(found)
    taps, shares = figure.axes[:2]
    assert [image.get_array().sum() for image in taps.images] == pytest.approx([1] * 6)
    drawn = shares.images[0].get_array()[1].tolist()
    assert drawn == pytest.approx([found.layers[LAYER].shares[name] for name in found.operations])
    # No identity where channels change.
    assert shares.images[0].get_array().mask[0].tolist() == [False] * 9 + [True]
    assert [label.get_text() for label in shares.get_xticklabels()] == list(found.operations)
    assert f"cross {found.layers[LAYER].cross:.0%}" in [text.get_text() for text in taps.texts]
    assert figure.get_supxlabel() == "UNTRAINED: random, seed 0"
    # The taps are squares.
    left, right, bottom, top = taps.images[0].get_extent()
    (x, y), (end, above) = taps.transData.transform([(left, bottom), (right, top)])
    assert end - x == pytest.approx(above - y)
    save_figure(figure, tmp_path / "a.svg")
    fused = draw_kernels(network_kernels(ird.fuse(model, prove=False), "fused"))
    assert len(fused.axes) == 1 and "not known" in fused.get_supxlabel()


@pytest.mark.parametrize("layers", [1, 40])
def test_few_and_many_layers(layers: int, tmp_path: Path) -> None:
    sizes = (3, 5, 7)
    kernels = {f"слой.{i}": KernelEnergy(np.full((s := sizes[i % 3],) * 2, s**-2), {FIXED: 1.0}) for i in range(layers)}
    save_figure(draw_kernels(NetworkKernels("many", kernels)), tmp_path / "a.png")
    weights = tuple({"conv1x3": 0.25, "dil1x2": 0.25} for _ in range(layers))
    figure = draw_arch_weights([ArchWeights("many", tuple(kernels), weights)])
    assert figure.get_supxlabel().endswith("all are equal: alpha has not changed\n\N{EN DASH}: one of them is missing")
    figure.draw_without_rendering()


def test_the_difference_of_weights_by_hand() -> None:
    found = search_weights(run([0.9, 0.5, 0.2, 0.4, 0.7], [0.5, 0.1]), "run")
    assert found.layers == ("a", "b")
    # The second layer has a conv1x3, and no dil1x2 to compare it with.
    expected = [[(0.9 - 0.5) * 0.5, None], [None, (0.4 - 0.2) * 0.1]]
    for row, due in zip(found.differences, expected, strict=True):
        assert row == [None if value is None else pytest.approx(value) for value in due]
    assert found.note == ""
    assert search_weights(run([0.5] * 5, [0.5] * 2, evolutions=9), "run").note == "not finished: evolution 2"
    old = SearchRun(start=run([], []).start, evolutions=[{"index": 0, "best": 0.5, "mean": 0.5, "accuracy": [0.5]}])
    with pytest.raises(InputError, match="old: the journal does not contain alpha and beta"):
        search_weights(old, "old")


def test_weights_of_a_network_are_the_factors_of_its_blocks(tmp_path: Path) -> None:
    model = net()
    block = model.get_submodule(LAYER)
    with torch.no_grad():
        block.alpha["conv1x3"].fill_(2.0)
        block.beta.fill_(-1.0)
    found = network_weights(model, "net")
    weights = found.weights[found.layers.index(LAYER)]
    sigmoid = {value: 1 / (1 + np.exp(-value)) for value in (2.0, -1.0, 0.0)}
    assert weights["conv1x3"] == pytest.approx(sigmoid[2.0] * sigmoid[-1.0])
    difference = found.differences[found.layers.index(LAYER)]
    assert difference == pytest.approx([(sigmoid[2.0] - 0.5) * sigmoid[-1.0], 0.0])
    block.active = ("conv1x3",)
    assert network_weights(model, "net").differences[found.layers.index(LAYER)] == [None, None]
    with pytest.raises(CheckpointError, match="fused: a fused network"):
        network_weights(ird.fuse(model, prove=False), "fused")
    for branches in ("repvgg", None):
        with pytest.raises(CheckpointError, match="no branches with alpha and beta"):
            network_weights(net(branches), "net")
    (tmp_path / "run").mkdir()
    ird.save(model, tmp_path / "run" / "best.pt")
    assert read_arch_weights(tmp_path / "run", "r").weights == network_weights(model, "").weights


def test_the_picture_of_weights(tmp_path: Path) -> None:
    one = search_weights(run([0.9, 0.5, 0.2, 0.4, 0.7], [0.5, 0.1]), "$one$")
    other = ArchWeights("層", ("a",), ({"conv1x3": 0.1, "dil1x2": 0.4},), "not finished")
    figure = draw_arch_weights([one, other])
    first, second, bar = figure.axes
    assert first.images[0].get_array().mask.tolist() == [[False, True], [True, False]]
    assert [text.get_text() for text in first.texts] == ["+0.2000", "\N{EN DASH}", "\N{EN DASH}", "+0.0200"]
    assert [text.get_text() for text in second.texts] == ["-0.3000", "\N{EN DASH}"]
    # One scale, the same to both sides.
    assert first.images[0].get_clim() == second.images[0].get_clim() == pytest.approx((-0.3, 0.3))
    assert bar.get_ylabel() == "difference"
    assert figure.get_supxlabel() == "weight: sigmoid(beta) sigmoid(alpha)\n\N{EN DASH}: one of them is missing"
    assert second.get_title().endswith("not finished")
    save_figure(figure, tmp_path / "a.svg")
    for empty in ([], [ArchWeights("none", ("a",), ({"conv1x3": 0.1},))]):
        with pytest.raises(InputError, match="no layer has both"):
            draw_arch_weights(empty)


def test_tables_for_a_terminal() -> None:
    kernels = NetworkKernels("net", {"a": kernel_energy({FIXED: torch.ones(1, 1, 3, 3)})}, "random, seed 0")
    shown = kernel_table(kernels)
    assert shown.columns == ["layer", "cross", "taps", FIXED]
    assert shown.rows == [["a", "56%", "11 11 11 / 11 11 11 / 11 11 11", "100%"]]
    assert shown.notes[-1] == "untrained: random, seed 0"
    weights = arch_weights_table(search_weights(run([0.9, 0.5, 0.2, 0.4, 0.7], [0.5, 0.1]), "run"))
    columns = ["layer", "conv1x3", "conv3x1", "dil1x2", "dil2x1", "conv1x3 - dil1x2", "conv3x1 - dil2x1"]
    assert weights.columns == columns
    assert weights.rows == [
        ["a", "0.4500", "-", "0.2500", "-", "+0.2000", "-"],
        ["b", "0.0700", "0.0400", "-", "0.0200", "-", "+0.0200"],
    ]
    assert network_tables("vgg6", kernels=False, arch_weights=False) == []


def test_inspect_prints_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = randomize_statistics(build("vgg6", branches="ireps", stages=((4, 4),), input_shape=(1, 8, 8)), 0)
    ird.save(small.eval(), tmp_path / "a.pt")
    assert main(["inspect", str(tmp_path / "a.pt"), "--kernels", "--arch-weights"]) == 0
    printed = capsys.readouterr().out
    assert "Energy of the fused kernels" in printed and "conv3x1 - dil2x1" in printed
    assert main(["inspect", str(tmp_path / "a.pt"), "--kernels", "--arch-weights", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(found["kernels"][LAYER]["shares"].values()) == pytest.approx(1)
    assert np.sum(found["kernels"][LAYER]["taps"]) == pytest.approx(1)
    assert found["arch_weights"][LAYER]["differences"] == {"conv1x3 - dil1x2": 0, "conv3x1 - dil2x1": 0}
    with pytest.raises(InputError, match=r"a\.onnx: an ONNX model does not record"):
        network_tables(tmp_path / "a.onnx")
