from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.comparator import relative_error
from irepdeploy.data import Split
from irepdeploy.nets.statistics import randomize_statistics
from irepdeploy.recipe import Recipe
from irepdeploy.search import evaluate
from irepdeploy.search.evaluate import Fitness, PopulationEvaluator, score
from irepdeploy.search.space import Bits
from irepdeploy.search.supernet import Supernet


def images(count: int = 30, dtype: torch.dtype = torch.float32) -> Split:
    generator = torch.Generator().manual_seed(1)
    return Split(torch.randn(count, 1, 16, 16, generator=generator).to(dtype), torch.arange(count) % 10)


def supernet(recipe: Recipe, dtype: torch.dtype = torch.float32) -> Supernet:
    """In train mode, with random statistics, alpha and beta."""
    made = Supernet(recipe)
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
def test_a_candidate_from_cached_kernels_is_the_masked_network(
    tiny: Callable[..., Recipe], dtype: torch.dtype, allowed: float
) -> None:
    here, data = supernet(tiny(), dtype), images(dtype=dtype)
    evaluator = PopulationEvaluator(here, data)
    found = evaluator.evaluate(population(here))
    outputs = []
    for bits, fitness in zip(population(here), found, strict=True):
        reference = masked(here, bits)
        outputs.append(logits(reference, data))
        assert relative_error(outputs[-1], logits(evaluator.network(bits), data)) < allowed
        expected = score(reference, data)
        assert fitness.accuracy == pytest.approx(expected.accuracy, abs=1 / len(data) if allowed > 1e-9 else 0)
        assert fitness.negative_loss == pytest.approx(expected.negative_loss, rel=allowed)
    # The candidates are told apart by far more than is allowed.
    assert all(relative_error(outputs[0], other) > 1e-2 for other in outputs[1:])


def test_fused_candidates_are_plain_networks(tiny: Callable[..., Recipe]) -> None:
    here = supernet(tiny())
    network = PopulationEvaluator(here, images()).network(population(here)[1])
    kinds = {type(module) for module in network.modules()}
    assert nn.BatchNorm2d not in kinds
    assert sum(isinstance(module, nn.Conv2d) for module in network.modules()) == 3


def test_the_order_of_the_candidates_does_not_matter(tiny: Callable[..., Recipe]) -> None:
    here, data = supernet(tiny()), images()
    forth = PopulationEvaluator(here, data).evaluate(population(here))
    back = PopulationEvaluator(here, data).evaluate(population(here)[::-1])
    assert forth == back[::-1]
    assert len(set(forth)) == len(forth)


def test_identical_candidates_are_scored_once(tiny: Callable[..., Recipe], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    original = evaluate.score

    def counted(*args: Any) -> Fitness:
        calls.append(1)
        return original(*args)

    monkeypatch.setattr(evaluate, "score", counted)
    here = supernet(tiny())
    one, two = population(here)[2:4]
    evaluator = PopulationEvaluator(here, images())
    found = evaluator.evaluate([one, two, one.copy()])
    assert found == [*found[:2], found[0]]
    assert found[0] != found[1]
    assert evaluator.evaluate([two]) == [found[1]]
    assert len(calls) == 2


@pytest.mark.parametrize("training", [True, False])
def test_the_supernet_is_left_as_it_was(tiny: Callable[..., Recipe], training: bool) -> None:
    here = supernet(tiny())
    here.model.train(training)
    here.select(population(here)[3])
    before = copy.deepcopy(here.model)
    PopulationEvaluator(here, images()).evaluate(population(here))
    for (name, old), new in zip(before.named_modules(), here.model.modules(), strict=True):
        assert new.training == old.training == training, name
        assert getattr(new, "active", None) == getattr(old, "active", None), name
    for (name, old_value), new_value in zip(before.state_dict().items(), here.model.state_dict().values(), strict=True):
        assert torch.equal(old_value, new_value), name
    assert all(parameter.grad is None and parameter.requires_grad for parameter in here.model.parameters())


class Table(nn.Module):
    """Gives the logits that are written in the images."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_score_by_hand(batch_size: int) -> None:
    values = torch.tensor([[2.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    data = Split(values.reshape(3, 2, 1, 1), torch.tensor([0, 0, 0]))
    found = score(Table(), data, batch_size)
    losses = F.cross_entropy(values, data.labels, reduction="none")
    assert found.accuracy == 2 / 3
    assert found.negative_loss == pytest.approx(-float(losses.mean()), rel=1e-6)
    assert found.negative_loss < -1


def test_accuracy_ranks_first_and_the_smaller_loss_breaks_ties() -> None:
    ordered = [Fitness(0.5, -9.0), Fitness(0.6, -3.0), Fitness(0.6, -1.0), Fitness(0.7, -8.0)]
    assert sorted([ordered[2], ordered[3], ordered[0], ordered[1]]) == ordered
