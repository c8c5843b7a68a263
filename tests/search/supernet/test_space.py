from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from irepdeploy.errors import RecipeError
from irepdeploy.network.nets import build
from irepdeploy.reparam.insert import insert_branches
from irepdeploy.reparam.presets import preset_of
from irepdeploy.search.supernet.budget import Budget, Group
from irepdeploy.search.supernet.space import SearchSpace
from support.tiny import Tiny


def space_of(net: str, preset: str) -> SearchSpace:
    # Names and geometry alone, no numbers: the supernet of VGG-16 would take half a gigabyte.
    with torch.device("meta"):
        return SearchSpace.of(insert_branches(build(net), preset, scaled=True), preset_of(preset).names)


@pytest.mark.parametrize(
    ("net", "preset", "layers", "possible", "share", "budget"),
    [
        ("vgg16", "ireps", 13, 113, "2/3", 75),
        ("vgg6", "ireps", 6, 51, "2/3", 34),
        ("resnet18_cifar", "ireps-resnet-cifar", 17, 17 * 8, "2/3", 90),
        ("resnet18", "ireps-resnet-imagenet", 16, 16 * 7, "1/2", 56),
        ("resnet34", "ireps-resnet-imagenet", 32, 32 * 7, "1/2", 112),
        ("resnet50", "ireps-resnet-imagenet", 16, 16 * 7, "1/2", 56),
    ],
)
def test_possible_branches_and_budget_of_the_papers_networks(
    net: str, preset: str, layers: int, possible: int, share: str, budget: int
) -> None:
    space = space_of(net, preset)
    assert len(space.layers) == layers
    assert space.size == possible
    assert space.budget(share).total == budget
    assert [group.capacity for group in space.budget("4/block").groups] == [4] * layers


def test_a_branch_that_a_layer_cannot_have_never_counts() -> None:
    space = space_of("vgg6", "ireps")
    identity = space.branches.index("identity")
    widening = [row for row, name in enumerate(space.layers) if name.split(".")[2] == "0"]
    assert [row for row in range(6) if (row, identity) not in space.positions] == widening == [0, 2, 4]
    full = space.architecture(np.ones(space.size, dtype=bool))
    assert full.count == space.size == 6 * 9 - 3
    assert all("identity" not in full.kept(space.layers[row]) for row in widening)


SMALL = SearchSpace(("a", "b", "c"), ("x", "y"), ((0, 0), (0, 1), (1, 1), (2, 0)))


@given(st.lists(st.booleans(), min_size=4, max_size=4))
def test_bits_survive_the_way_through_an_architecture(kept: list[bool]) -> None:
    bits = np.array(kept)
    architecture = SMALL.architecture(bits)
    assert architecture.count == bits.sum()
    assert np.array_equal(SMALL.bits(architecture), bits)
    assert SMALL.bits(architecture).dtype == bool


def test_each_bit_is_the_branch_that_its_position_names() -> None:
    for index, (row, column) in enumerate(SMALL.positions):
        bits = np.zeros(4, dtype=bool)
        bits[index] = True
        kept = {layer: SMALL.architecture(bits).kept(layer) for layer in SMALL.layers}
        assert kept == {layer: (SMALL.branches[column],) if i == row else () for i, layer in enumerate(SMALL.layers)}


@pytest.mark.parametrize(("share", "count"), [("1", 4), ("3/4", 3), ("74/100", 2), ("1/4", 1)])
def test_a_share_is_one_group_and_rounded_down(share: str, count: int) -> None:
    assert SMALL.budget(share) == Budget((Group((0, 1, 2, 3), count),))


@pytest.mark.parametrize(
    ("text", "capacities"), [("1/block", [1, 1, 1]), ("2/block", [2, 1, 1]), ("9/block", [2, 1, 1])]
)
def test_so_many_a_block_is_a_group_a_block_as_far_as_it_has_branches(text: str, capacities: list[int]) -> None:
    budget = SMALL.budget(text)
    assert [group.positions for group in budget.groups] == [(0, 1), (2,), (3,)]
    assert [group.capacity for group in budget.groups] == capacities
    assert budget.total == sum(capacities)


def test_a_block_without_branches_has_no_group() -> None:
    budget = SearchSpace(("a", "b"), ("x",), ((1, 0),)).budget("4/block")
    assert budget == Budget((Group((0,), 1),))


def test_share_that_keeps_nothing_is_refused_with_the_least_that_works() -> None:
    with pytest.raises(RecipeError, match=r"1/5 keeps none of the 4 possible.*at least 1/4") as caught:
        SMALL.budget("1/5")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["1", "4/block"])
def test_space_without_a_branch_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="no branch to search"):
        SearchSpace(("a",), (), ()).budget(text)


@pytest.mark.parametrize(
    "budget",
    ["0", "3/2", "-1/2", "abc", "1/0", ".nan", "[1, 2]", "null", "true", "0/block", "/block", "4/blocks", "-1/block"],
)
def test_impossible_budgets_are_faults_of_the_recipe(budget: str, tiny: Tiny) -> None:
    with pytest.raises(RecipeError, match=r"search\.budget") as caught:
        tiny(f"search.budget={budget}")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("given", "count"), [("2/3", 16), ("0.5", 12), ("1", 25), ("1e-1", 2), ("4/block", 12), ("9/block", 25)]
)
def test_a_budget_is_a_fraction_a_decimal_or_a_number_a_block(given: str, count: int, tiny: Tiny) -> None:
    recipe = tiny(f"search.budget={given}")
    # 8, 9 and 8 branches are possible.
    space = SearchSpace(
        ("a", "b", "c"), tuple("xxxxxxxxx"), tuple((row, i) for row, n in enumerate((8, 9, 8)) for i in range(n))
    )
    assert space.budget(recipe.search.budget).total == count
