from __future__ import annotations

import copy
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.data import Split
from irepdeploy.data.pixels import Pixels
from irepdeploy.errors import InputError
from irepdeploy.network.nets.resnet import ResNet
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.recipe import Recipe
from irepdeploy.reparam.comparator import relative_error
from irepdeploy.runtime.exact_arithmetic import exact_arithmetic
from irepdeploy.search.evaluation.evaluate import Mode, PopulationEvaluator
from irepdeploy.search.evaluation.fitness import Fitness, joined, score
from irepdeploy.search.supernet.builders import build_supernet
from irepdeploy.search.supernet.space import Bits
from irepdeploy.search.supernet.supernet import Supernet
from support.tiny import Tiny


def images(count: int = 30, dtype: torch.dtype = torch.float32) -> Split:
    generator = torch.Generator().manual_seed(1)
    return Split(torch.randn(count, 1, 16, 16, generator=generator).to(dtype), torch.arange(count) % 10)


def supernet(recipe: Recipe, dtype: torch.dtype = torch.float32) -> Supernet:
    """In train mode, with random statistics, alpha and beta."""
    made = build_supernet(recipe)
    randomize_statistics(made.model, seed=4)
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in made.arch_parameters():
            parameter.normal_()
    made.model.to(dtype).train()
    return made


def population(of: Supernet) -> list[Bits]:
    random = np.random.default_rng(0)
    size = of.space.size
    edges = [np.zeros(size, dtype=bool), np.ones(size, dtype=bool)]
    return edges + [random.random(size) < share for share in (0.2, 0.5, 0.8)]


def masked(of: Supernet, bits: Bits) -> nn.Module:
    """The multi-branch network with this candidate's branches, in eval mode."""
    model = copy.deepcopy(of.model).eval()
    kept = of.space.architecture(bits)
    for layer in of.space.layers:
        model.get_submodule(layer).active = kept.kept(layer)
    return model


@torch.no_grad()
def logits(model: nn.Module, data: Split) -> np.ndarray[Any, Any]:
    return model(data.images).double().numpy()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 1e-4), (torch.float64, 1e-10)])
def test_a_candidate_from_cached_kernels_is_the_masked_network(tiny: Tiny, dtype: torch.dtype, allowed: float) -> None:
    here, data = supernet(tiny(), dtype), images(dtype=dtype)
    evaluator = PopulationEvaluator(here, data)
    found = evaluator.evaluate(population(here))
    outputs = []
    for bits, fitness in zip(population(here), found, strict=True):
        reference = masked(here, bits)
        outputs.append(logits(reference, data))
        assert relative_error(outputs[-1], logits(evaluator.network(bits), data)) < allowed
        expected = score(reference, data)
        assert fitness.value == pytest.approx(expected.value, abs=1 / len(data) if allowed > 1e-9 else 0)
        assert fitness.negative_loss == pytest.approx(expected.negative_loss, rel=allowed)
    # The candidates differ by far more than the tolerance.
    assert all(relative_error(outputs[0], other) > 1e-2 for other in outputs[1:])


def test_fused_candidates_are_plain_networks(tiny: Tiny) -> None:
    here = supernet(tiny())
    network = PopulationEvaluator(here, images()).network(population(here)[1])
    kinds = {type(module) for module in network.modules()}
    assert nn.BatchNorm2d not in kinds
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == 3


def forwards(network: nn.Module) -> list[int]:
    """Return a list that gets one entry for each forward pass of `network`."""
    calls: list[int] = []
    network.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_identical_candidates_are_scored_once(tiny: Tiny) -> None:
    here = supernet(tiny())
    one, two = population(here)[2:4]
    evaluator = PopulationEvaluator(here, images(), batch_size=10)
    calls = forwards(evaluator.network(one))
    found = evaluator.evaluate([one, two, one.copy()])
    assert found == [*found[:2], found[0]]
    assert found[0] != found[1]
    assert evaluator.evaluate([two]) == [found[1]]
    assert len(calls) == 2 * 3


def test_a_candidate_is_scored_alike_whoever_is_scored_beside_it(tiny: Tiny) -> None:
    here, data = supernet(tiny()), images()
    together = PopulationEvaluator(here, data).outcomes(population(here))
    for index, bits in enumerate(population(here)):
        alone = PopulationEvaluator(here, data).outcomes([bits])[0]
        assert np.array_equal(alone.statistics, together[index].statistics)


def test_multi_branch_is_the_masked_supernet(tiny: Tiny) -> None:
    here, data = supernet(tiny()), images()
    evaluator = PopulationEvaluator(here, data, mode="multi-branch")
    for bits, fitness in zip(population(here), evaluator.evaluate(population(here)), strict=True):
        assert fitness == score(masked(here, bits), data)


def test_bfloat16_is_close_to_float32_and_is_bfloat16(tiny: Tiny) -> None:
    here, data = supernet(tiny()), images()
    wide, narrow = PopulationEvaluator(here, data), PopulationEvaluator(here, data, mode="fused-bf16")
    for bits in population(here):
        network = narrow.network(bits)
        assert {parameter.dtype for parameter in network.parameters()} == {torch.bfloat16}
        found = network(data.images[:].bfloat16()).float().detach().numpy()
        assert 1e-4 < relative_error(logits(wide.network(bits), data), found) < 2e-2
        # Rounded once: the sum of kernels is that of float32.
        for one, other in zip(wide.network(bits).parameters(), network.parameters(), strict=True):
            assert torch.equal(one.bfloat16(), other)
    for one, other in zip(wide.evaluate(population(here)), narrow.evaluate(population(here)), strict=True):
        assert one != other
        assert other.negative_loss == pytest.approx(one.negative_loss, rel=0.05)


def resnet() -> Supernet:
    """A supernet with convolutions and batch normalizations outside RepBlocks."""
    torch.manual_seed(0)
    here = Supernet(ResNet(block="basic", depths=(1, 1), num_classes=10, in_channels=1, stem="cifar"), "ireps")
    randomize_statistics(here.model, seed=1)
    return here


def test_in_bfloat16_the_statistics_of_what_is_not_fused_stay_float32() -> None:
    here = resnet()
    network = PopulationEvaluator(here, images(4), mode="fused-bf16").network(np.ones(here.space.size, dtype=bool))
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    for norm in norms:
        assert {tensor.dtype for tensor in (norm.weight, norm.running_mean, norm.running_var)} == {torch.float32}


@pytest.mark.parametrize("mode", get_args(Mode))
def test_refresh_takes_over_all_that_has_moved(mode: Mode) -> None:
    here, data = resnet(), images(8)
    random = np.random.default_rng(0)
    candidates = [random.random(here.space.size) < 0.5 for _ in range(2)]
    evaluator = PopulationEvaluator(here, data, mode=mode)
    before = evaluator.evaluate(candidates)
    with torch.no_grad():
        for parameter in here.model.parameters():
            parameter.add_(0.1 * torch.rand_like(parameter))
    randomize_statistics(here.model, seed=2)
    # Results of the old weights remain until then.
    assert evaluator.evaluate(candidates) == before
    evaluator.refresh()
    after = evaluator.evaluate(candidates)
    assert after == PopulationEvaluator(here, data, mode=mode).evaluate(candidates)
    assert all(one != other for one, other in zip(before, after, strict=True))
    tolerance = 2e-2 if mode == "fused-bf16" else 1e-4
    expected = score(masked(here, candidates[0]), data)
    assert after[0].negative_loss == pytest.approx(expected.negative_loss, rel=tolerance)


def test_weights_are_swapped_in_place(tiny: Tiny) -> None:
    here = supernet(tiny())
    evaluator = PopulationEvaluator(here, images())
    network = evaluator.network(population(here)[0])
    places = [tensor.data_ptr() for tensor in network.state_dict().values()]
    values = [tensor.clone() for tensor in network.state_dict().values()]
    evaluator.refresh()
    assert evaluator.network(population(here)[1]) is network
    assert [tensor.data_ptr() for tensor in network.state_dict().values()] == places
    assert not all(map(torch.equal, values, network.state_dict().values()))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_the_layout_is_that_of_kernels_and_images(tiny: Tiny, layout: torch.memory_format) -> None:
    here, data = supernet(tiny()), images()
    evaluator = PopulationEvaluator(here, data, layout=layout)
    network = evaluator.network(population(here)[3])
    convs = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    seen: list[Tensor] = []
    convs[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    found = evaluator.evaluate(population(here))
    assert convs[-1].weight.is_contiguous(memory_format=layout)
    assert seen[0].is_contiguous(memory_format=layout)
    for fitness, other in zip(found, PopulationEvaluator(here, data).evaluate(population(here)), strict=True):
        assert fitness.negative_loss == pytest.approx(other.negative_loss, rel=1e-5)


def test_cuts_give_parts_that_make_up_the_whole(tiny: Tiny) -> None:
    here, data = supernet(tiny()), images()
    candidates = population(here)
    whole = PopulationEvaluator(here, data).evaluate(candidates)
    evaluator = PopulationEvaluator(here, data, batch_size=8, cuts=[10, 16])
    assert evaluator.sizes == [10, 6, 14]
    parts = [evaluator.outcomes(candidates, part) for part in range(3)]
    calls = forwards(evaluator.network(candidates[0]))
    found = evaluator.evaluate(candidates)
    # Nothing is run a second time.
    assert not calls
    for index, fitness in enumerate(found):
        assert [len(outcomes[index]) for outcomes in parts] == evaluator.sizes
        assert fitness == joined([outcomes[index] for outcomes in parts]).fitness
        assert fitness.value == whole[index].value
        assert fitness.negative_loss == pytest.approx(whole[index].negative_loss, rel=1e-5)


def test_parts_are_random_and_the_same_every_time(tiny: Tiny) -> None:
    here, data = supernet(tiny()), images()
    bits = population(here)[3]
    losses = [
        PopulationEvaluator(here, data, cuts=[15], seed=seed).outcomes([bits])[0].statistics[-1] for seed in (0, 0, 1)
    ]
    first = PopulationEvaluator(here, Split(data.images[:15], data.labels[:15])).outcomes([bits])[0].statistics[-1]
    assert np.array_equal(losses[0], losses[1])
    assert sorted(losses[0]) != sorted(losses[2])
    assert sorted(losses[0]) != sorted(first)


@pytest.mark.parametrize("cuts", [(), (7,)])
def test_images_kept_as_bytes_are_scored_like_floats(tiny: Tiny, cuts: tuple[int, ...]) -> None:
    here = supernet(tiny())
    values = torch.randint(256, (30, 1, 16, 16), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    pixels = Pixels(values, [0.3], [0.35])
    labels = torch.arange(30) % 10
    found = PopulationEvaluator(here, Split(pixels, labels), batch_size=9, cuts=cuts).evaluate(population(here))
    floats = Split(pixels[:], labels)
    assert found == PopulationEvaluator(here, floats, batch_size=9, cuts=cuts).evaluate(population(here))


def test_refusals(tiny: Tiny) -> None:
    here, data = supernet(tiny()), images()
    with pytest.raises(InputError, match="unknown mode 'fast'"):
        PopulationEvaluator(here, data, mode="fast")  # type: ignore[arg-type]
    for cuts in ([0], [30], [10, 10], [20, 10]):
        with pytest.raises(InputError, match="cannot be cut"):
            PopulationEvaluator(here, data, cuts=cuts)
    for mode in get_args(Mode):
        with pytest.raises(InputError, match="CUDA graph"):
            PopulationEvaluator(here, data, mode=mode, graph=True)
    assert PopulationEvaluator(here, data).how == "eager"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mode", get_args(Mode))
def test_on_a_gpu_the_outcomes_are_those_of_a_cpu(tiny: Tiny, mode: Mode) -> None:
    here, data = supernet(tiny()), images()
    expected = PopulationEvaluator(here, data, batch_size=12).evaluate(population(here))
    here.model.cuda()
    allowed = 5e-2 if mode == "fused-bf16" else 1e-4
    with exact_arithmetic():
        for graph in (None, False):
            evaluator = PopulationEvaluator(here, data, batch_size=12, mode=mode, graph=graph)
            for one, other in zip(evaluator.evaluate(population(here)), expected, strict=True):
                assert one.negative_loss == pytest.approx(other.negative_loss, rel=allowed)
            assert evaluator.how == ("eager" if graph is False or mode == "multi-branch" else "cuda graph")


@pytest.mark.parametrize("mode", get_args(Mode))
@pytest.mark.parametrize("training", [True, False])
def test_the_supernet_is_left_as_it_was(tiny: Tiny, training: bool, mode: Mode) -> None:
    here = supernet(tiny())
    here.model.train(training)
    first = next(module for module in here.model.modules() if isinstance(module, nn.BatchNorm2d))
    first.train(not training)
    here.select(population(here)[3])
    before = copy.deepcopy(here.model)
    PopulationEvaluator(here, images(), mode=mode).evaluate(population(here))
    for (name, old), new in zip(before.named_modules(), here.model.modules(), strict=True):
        assert new.training == old.training, name
        assert getattr(new, "active", None) == getattr(old, "active", None), name
    for (name, old_value), new_value in zip(before.state_dict().items(), here.model.state_dict().values(), strict=True):
        assert torch.equal(old_value, new_value), name
    assert all(parameter.grad is None and parameter.requires_grad for parameter in here.model.parameters())


class Table(nn.Module):
    """Returns the logits stored in the images."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_score_by_hand(batch_size: int) -> None:
    values = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    data = Split(values.reshape(3, 2, 1, 1), torch.tensor([0, 0, 0]))
    found = score(Table(), data, batch_size)
    losses = F.cross_entropy(values, data.labels, reduction="none")
    assert found.value == 2 / 3
    assert found.negative_loss == pytest.approx(-float(losses.mean()), rel=1e-6)
    assert found.negative_loss < -1


def test_accuracy_ranks_first_and_the_smaller_loss_breaks_ties() -> None:
    ordered = [Fitness(0.5, -9.0), Fitness(0.6, -3.0), Fitness(0.6, -1.0), Fitness(0.7, -8.0)]
    assert sorted([ordered[2], ordered[3], ordered[0], ordered[1]]) == ordered
