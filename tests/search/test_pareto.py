from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.colors import to_rgba

from irepdeploy.errors import InputError
from irepdeploy.network.nets import build_plain
from irepdeploy.plots.figure import BLUE
from irepdeploy.plots.pareto import draw_pareto
from irepdeploy.profiling.counts import count
from irepdeploy.reparam.insert import insert_branches
from irepdeploy.runs.pareto import ParetoSet
from irepdeploy.search.evaluation.candidate_cost import CandidateCosts
from irepdeploy.search.evaluation.fitness import Fitness
from irepdeploy.search.pareto import pareto_set
from irepdeploy.search.supernet.space import Bits
from irepdeploy.search.supernet.supernet import Supernet

SHAPE = (1, 16, 16)
NETS = {
    # The second and the third convolution have one geometry and read maps of two sizes.
    "vgg6": ("vgg6", {"stages": ((4, 4), (4,))}, "ireps", SHAPE),
    "resnet": ("resnet18", {"depths": (1, 1), "in_channels": 3}, "ireps-resnet-imagenet", (3, 32, 32)),
}


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    name, args, preset, shape = NETS["vgg6"]
    return Supernet(build_plain(name, **args, input_shape=shape), preset)


@pytest.fixture(scope="module")
def costs(supernet: Supernet) -> CandidateCosts:
    return CandidateCosts(supernet.model, supernet.space, SHAPE)


def kept_by_autograd(net: torch.nn.Module, shape: tuple[int, ...]) -> int:
    """Return the bytes that a real forward pass of two images keeps, without parameters."""
    own = {tensor.untyped_storage().data_ptr() for tensor in net.state_dict().values()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = net.train()(torch.randn(2, *shape))
    del out
    return sum(storage.nbytes() for place, storage in kept.items() if place not in own)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_a_sum_over_branches_is_what_the_network_with_these_branches_has(name: str, share: float) -> None:
    net, args, preset, shape = NETS[name]
    built = {key: value for key, value in args.items() if key != "in_channels"}
    plain = build_plain(net, **built, input_shape=shape)
    supernet = Supernet(plain, preset)
    bits = np.random.default_rng(0).random(supernet.space.size) < share
    cost = CandidateCosts(supernet.model, supernet.space, shape).of(bits)
    branched = insert_branches(plain, supernet.space.architecture(bits), scaled=True)
    counted = count(branched, shape)
    assert cost.params == counted.params
    # Values computed once per batch, on the kernels, count for half an image here.
    assert cost.macs == pytest.approx(counted.macs, rel=1e-3)
    assert cost.param_bytes == 4 * cost.params
    # Additional buffers of the CPU kernels may differ slightly from what shapes alone imply.
    assert cost.activation_bytes == pytest.approx(kept_by_autograd(branched, shape) / 2, rel=0.02)


def test_counting_leaves_the_supernet_as_it_was(supernet: Supernet) -> None:
    before = {name: tensor.clone() for name, tensor in supernet.model.state_dict().items()}
    active = [module.active for module in supernet.model.modules() if hasattr(module, "active")]
    supernet.model.eval()
    CandidateCosts(supernet.model, supernet.space, SHAPE)
    assert not supernet.model.training
    assert [module.active for module in supernet.model.modules() if hasattr(module, "active")] == active
    assert all(torch.equal(before[name], tensor) for name, tensor in supernet.model.state_dict().items())
    assert not any(tensor.is_meta for tensor in supernet.model.state_dict().values())


def test_costs_of_a_merged_supernet_are_those_of_exact_steps(costs: CandidateCosts) -> None:
    name, args, preset, shape = NETS["vgg6"]
    merged = Supernet(build_plain(name, **args, input_shape=shape), preset, step="merged")
    bits = np.ones(merged.space.size, dtype=bool)
    assert CandidateCosts(merged.model, merged.space, shape).of(bits) == costs.of(bits)
    assert {block.step for block in merged.space.blocks(merged.model)} == {"merged"}


def test_memory_is_three_times_the_weights_and_the_activations_of_a_batch(
    supernet: Supernet, costs: CandidateCosts
) -> None:
    cost = costs.of(np.ones(supernet.space.size, dtype=bool))
    assert cost.memory_bytes(10) == 3 * cost.param_bytes + 10 * cost.activation_bytes


def population(supernet: Supernet, accuracies: list[float], seed: int = 0) -> tuple[list[Bits], ParetoSet]:
    random = np.random.default_rng(seed)
    bits = [random.random(supernet.space.size) < random.random() for _ in accuracies]
    fitness = [Fitness(accuracy, -1.0) for accuracy in sorted(accuracies, reverse=True)]
    architectures = [supernet.space.architecture(each) for each in bits]
    return bits, pareto_set(supernet, architectures, fitness, input_shape=SHAPE, batch_size=8)


@settings(max_examples=5)
@given(st.lists(st.sampled_from([0.5, 0.6, 0.7, 0.8]), min_size=1, max_size=12), st.integers(0, 99))
def test_the_front_is_what_nothing_beats(supernet: Supernet, accuracies: list[float], seed: int) -> None:
    _, found = population(supernet, accuracies, seed)
    rows = [(c.val_accuracy, -c.macs, -c.memory_bytes) for c in found.candidates]
    beaten = [any(all(a >= b for a, b in zip(x, y, strict=True)) and x != y for x in rows) for y in rows]
    assert [candidate.pareto for candidate in found.candidates] == [not each for each in beaten]
    assert found.front
    assert [candidate.rank for candidate in found.candidates] == list(range(len(accuracies)))


def test_the_cheapest_and_the_most_accurate_are_in_the_front_whatever_the_others(supernet: Supernet) -> None:
    bits, found = population(supernet, [0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert found.candidates[0].pareto
    assert min(found.candidates, key=lambda candidate: candidate.macs).pareto
    for each, candidate in zip(bits, found.candidates, strict=True):
        assert candidate.branches == each.sum()
        assert candidate.digest == supernet.space.architecture(each).digest


def test_less_memory_for_more_macs_is_in_the_front(supernet: Supernet, costs: CandidateCosts) -> None:
    branches, bits = supernet.space.branches, np.zeros((2, supernet.space.size), dtype=bool)
    for index, (row, column) in enumerate(supernet.space.positions):
        bits[0, index] = branches[column] in ("identity", "conv1x1") and row == 1
        bits[1, index] = branches[column] == "conv1x1_3x3" and row == 2
    light, lean = (costs.of(each) for each in bits)
    assert light.macs < lean.macs and light.memory_bytes(8) > lean.memory_bytes(8)
    architectures = [supernet.space.architecture(each) for each in bits]
    found = pareto_set(supernet, architectures, [Fitness(0.5, -1.0)] * 2, input_shape=SHAPE, batch_size=8)
    assert len(found.front) == 2


def test_the_picture_fills_the_front(supernet: Supernet, tmp_path: Path) -> None:
    _, found = population(supernet, [0.9, 0.8, 0.8, 0.7, 0.6, 0.5], seed=3)
    figure = draw_pareto(ParetoSet.read(found.write(tmp_path / "pareto.json")))
    left, right = figure.axes
    for axes, values in ((left, [c.macs for c in found.front]), (right, [c.memory_bytes for c in found.front])):
        every, front = axes.lines
        assert len(every.get_xdata()) == 6
        assert to_rgba(front.get_color()) == to_rgba(BLUE)
        assert list(front.get_xdata()) == pytest.approx([value / 1e6 for value in values])
        assert list(front.get_ydata()) == pytest.approx([100 * c.val_accuracy for c in found.front])
    assert "batch 8" in right.get_xlabel() and "batch" not in left.get_xlabel()


def test_a_file_with_a_wrong_value_is_refused(supernet: Supernet, tmp_path: Path) -> None:
    _, found = population(supernet, [0.9, 0.8])
    for key, value in (("rank", "0"), ("digest", 1), ("val_accuracy", None), ("macs", "many"), ("pareto", 1)):
        content = found.to_dict()
        content["candidates"][1][key] = value
        (tmp_path / "pareto.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=rf"not the pareto\.json of a search: candidates\.1\.{key}: expected"):
            ParetoSet.read(tmp_path / "pareto.json")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"candidates": [], "batch_size": 2}', '{"candidates": [1]}'])
def test_another_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "pareto.json").write_text(content)
    with pytest.raises(InputError, match=r"not the pareto\.json"):
        ParetoSet.read(tmp_path / "pareto.json")
