"""`ird.Supernet` in a custom training loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader

import irepdeploy as ird
from irepdeploy.errors import InputError, RecipeError
from support.foreign import DictSamples, TinyNet, maps

OPTIONS: dict[str, Any] = {"task": "segmentation", "budget": "1/2", "population": 6, "subnets_per_step": 2}


def made(**changes: Any) -> Any:
    torch.manual_seed(0)
    return ird.Supernet(TinyNet(), **{**OPTIONS, **changes})


def test_a_whole_search_in_a_plain_loop() -> None:
    supernet = made()
    weights = torch.optim.SGD(supernet.weights(), lr=0.1, momentum=0.9)
    arch = torch.optim.Adam(supernet.arch_parameters(), lr=1e-2)
    loader = DataLoader(torch.utils.data.TensorDataset(*maps(16)), batch_size=8)
    val = DataLoader(DictSamples(maps(10, 1)), batch_size=4)
    population = supernet.first()
    assert len(population) == 6 and all(supernet.budget.allows(mask) for mask in population)
    losses = []
    for _ in range(6):
        for images, targets in loader:
            losses.append(supernet.accumulate(images, targets, supernet.draw(population)))
            weights.step()
            arch.step()
        fitness = supernet.score(population, val)
        best = supernet.best(population, fitness)
        assert supernet.space.bits(best).tolist() == population[fitness.index(max(fitness))].tolist()
        population = supernet.next(population, fitness)
    assert losses[-1] < losses[0] and supernet.model.training
    plain = ird.fuse(ird.insert_branches(TinyNet(), best).eval())
    assert plain(maps(2)[0]).shape == (2, 3, 6, 6)


def test_a_loss_computed_elsewhere_trains_the_branches_of_a_mask() -> None:
    supernet = made()
    mask = supernet.first()[0]
    supernet.select(mask)
    images, targets = maps(8)
    F.cross_entropy(supernet.model(images), targets).backward()
    blocks = supernet.space.blocks(supernet.model)
    for (row, column), kept in zip(supernet.space.positions, mask, strict=True):
        branch = blocks[row].branches[supernet.space.branches[column]]
        assert all((parameter.grad is not None) == kept for parameter in branch.parameters())


def test_the_same_seed_gives_the_same_masks_and_validation_is_read_once() -> None:
    reads = []

    class Watched(DictSamples):
        def __getitem__(self, index: int) -> Any:
            reads.append(index)
            return super().__getitem__(index)

    supernet, other = made(seed=3), made(seed=3)
    population = supernet.first()
    assert np.array_equal(population, other.first())
    assert not np.array_equal(population, made(seed=4).first())
    val = Watched(maps(10, 1))
    assert supernet.score(population, val) == supernet.score(population, val)
    assert len(reads) == 10


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"budget": "1/99"}, "keeps none"),
        ({"population": 1}, "population: expected"),
        ({"task": "x"}, "unknown task"),
        ({"branches": "none"}, "no branch to search"),
    ],
)
def test_refusals(changes: dict[str, Any], words: str) -> None:
    with pytest.raises((InputError, RecipeError), match=words):
        made(**changes)
