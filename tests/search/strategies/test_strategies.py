from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irepdeploy.errors import RecipeError
from irepdeploy.recipe import SearchSection
from irepdeploy.search.strategies import STRATEGIES, Strategy, strategy
from irepdeploy.search.strategies.des import Directional
from irepdeploy.search.strategies.evolution import Evolution
from irepdeploy.search.strategies.importance import Importance
from irepdeploy.search.strategies.topk import TopK
from irepdeploy.search.supernet.space import Bits, SearchSpace


def space(layers: int, branches: int) -> SearchSpace:
    names = tuple(f"layer{i}" for i in range(layers)), tuple(f"branch{i}" for i in range(branches))
    return SearchSpace(*names, tuple((row, column) for row in range(layers) for column in range(branches)))


def settings(**changes: Any) -> SearchSection:
    numbers: dict[str, Any] = {
        "population": 6,
        "warmup_epochs": 0,
        "evolutions": 1,
        "epochs_per_evolution": 1,
        "subnets_per_step": 1,
        "batch_size": 2,
        "weights": {"lr": 0.1},
    }
    return SearchSection.model_validate({**numbers, **changes})


def directional(layers: int, branches: int, **changes: Any) -> Directional:
    made = strategy(space(layers, branches), settings(**changes))
    assert isinstance(made, Directional)
    return made


def random_importance(of: SearchSpace, seed: int) -> Importance:
    random = np.random.default_rng(seed)
    layer = np.array([row for row, _ in of.positions])
    return Importance(random.random(of.size), random.random(len(of.layers)), layer)


def equal_importance(of: SearchSpace) -> Importance:
    layer = np.array([row for row, _ in of.positions])
    return Importance(np.full(of.size, 0.5), np.full(len(of.layers), 0.5), layer)


def rows(population: list[Bits]) -> list[str]:
    return ["".join("01"[int(bit)] for bit in bits) for bits in population]


def following(
    made: Strategy, population: list[Bits], ranking: Sequence[int], *, importance: int = 0, seed: int = 7
) -> list[str]:
    """The next population, by seeds of the importance and of the strategy's generator."""
    found = made.next(population, ranking, random_importance(made.space, importance), np.random.default_rng(seed))
    return rows(found)


def assert_no_favourites(draw: Callable[[], Bits]) -> None:
    """Of twenty branches half are drawn: 100 of 200 times is expected of each, four deviations are 28."""
    drawn = sum(draw().astype(int) for _ in range(200))
    assert min(drawn) > 70 and max(drawn) < 130


@given(
    name=st.sampled_from(sorted(STRATEGIES)),
    layers=st.integers(1, 4),
    branches=st.integers(2, 5),
    numerator=st.integers(1, 10),
    per_block=st.booleans(),
    population=st.integers(2, 12),
    parents=st.floats(0, 0.6),
    offspring=st.floats(0, 0.4),
    crossover=st.floats(0, 1),
    mutation=st.floats(0, 1),
    rate=st.floats(0, 1),
    clamp=st.booleans(),
    seed=st.integers(0, 99),
)
def test_populations_keep_the_budget_differ_and_have_the_right_size(
    name: str,
    layers: int,
    branches: int,
    numerator: int,
    per_block: bool,
    population: int,
    seed: int,
    rate: float,
    **shares: Any,
) -> None:
    here = space(layers, branches)
    text = f"{numerator}/block" if per_block else f"{max(1, here.size * numerator // 10)}/{here.size}"
    budget = here.budget(text)
    population = min(population, budget.candidates)
    changes = {**shares, "mutation_rate": rate, "population": population, "budget": text}
    made = strategy(here, settings(strategy=name, **changes))
    assert made.budget == budget
    random = np.random.default_rng(seed)
    current = made.first(random)
    for generation in range(3):
        assert len(current) == population
        assert len(set(rows(current))) == population
        assert all(bits.dtype == bool and bits.shape == (here.size,) for bits in current)
        assert all(budget.allows(bits) for bits in current)
        ranking = [int(index) for index in random.permutation(population)]
        current = made.next(current, ranking, random_importance(here, seed + generation), random)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_same_seed_same_populations_and_another_seed_others(name: str) -> None:
    made = strategy(space(3, 5), settings(strategy=name))

    def two(seed: int) -> tuple[list[str], list[str]]:
        random = np.random.default_rng(seed)
        first = made.first(random)
        return rows(first), rows(made.next(first, range(6), random_importance(made.space, 0), random))

    assert two(1) == two(1)
    assert two(1)[0] != two(2)[0]
    # Without ties, topk is deterministic.
    assert (two(1)[1] == two(2)[1]) == (name == "topk")


def test_a_population_as_large_as_the_space_is_found() -> None:
    made = directional(1, 3, population=7, budget="2/3")
    population = made.first(np.random.default_rng(0))
    assert len(set(rows(population))) == 7
    again = made.next(population, range(7), equal_importance(made.space), np.random.default_rng(0))
    assert set(rows(again)) == set(rows(population))


def test_a_population_larger_than_the_space_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"search\.population.*allows 7.*at most 7") as caught:
        strategy(space(1, 3), settings(population=8, budget="2/3"))
    assert caught.value.exit_code == 2


@given(seed=st.integers(0, 10_000))
def test_repair_drops_the_lowest_scores_only(seed: int) -> None:
    made = directional(3, 4, budget="1/3")
    random = np.random.default_rng(seed)
    importance = random_importance(made.space, seed)
    bits = random.random(12) < random.random()
    before = bits.copy()
    repaired = made.repair(bits, importance, random)
    assert np.array_equal(bits, before)
    assert not (repaired & ~bits).any()
    assert repaired.sum() == min(bits.sum(), made.budget.total)
    dropped = bits & ~repaired
    if dropped.any():
        assert importance.score[dropped].max() < importance.score[repaired].min()


def test_ties_are_broken_by_chance() -> None:
    """If ties were broken by position, the first ten branches would always be dropped or kept."""
    made, top = directional(10, 2, budget="1/2"), topk(10, 2, budget="1/2")
    equal, random = equal_importance(made.space), np.random.default_rng(0)
    assert_no_favourites(lambda: made.repair(np.ones(20, bool), equal, random))
    assert_no_favourites(lambda: made.newcomer(equal, random))
    assert_no_favourites(lambda: next(top.by_score(equal, random)))


def test_crossover_takes_whole_layers_of_both_parents() -> None:
    made = directional(6, 3, budget="1", crossover=1.0, mutation=0.0)
    parents = [np.zeros(18, dtype=bool), np.ones(18, dtype=bool)]
    random = np.random.default_rng(0)
    children = [made.offspring(parents, equal_importance(made.space), random).reshape(6, 3) for _ in range(50)]
    assert all(len(set(layer)) == 1 for child in children for layer in child.tolist())
    assert any(child.any() and not child.all() for child in children)


@pytest.mark.parametrize(("mutation", "low", "high"), [(0.0, 0, 0), (0.5, 150, 250), (1.0, 400, 400)])
def test_mutation_has_its_probability_per_architecture(mutation: float, low: int, high: int) -> None:
    made = directional(2, 4, budget="1", crossover=0.0, mutation=mutation, mutation_rate=1.0)
    parent = np.arange(8) % 2 == 0
    random = np.random.default_rng(0)
    children = [made.offspring([parent], equal_importance(made.space), random) for _ in range(400)]
    assert all(np.array_equal(child, parent) or np.array_equal(child, ~parent) for child in children)
    assert low <= sum(np.array_equal(child, ~parent) for child in children) <= high


def test_mutation_flips_each_bit_with_its_rate() -> None:
    made = directional(5, 8, budget="1", crossover=0.0, mutation=1.0, mutation_rate=0.1)
    random = np.random.default_rng(0)
    parent = random.random(40) < 0.5
    children = [made.offspring([parent], equal_importance(made.space), random) for _ in range(200)]
    flipped = sum((child ^ parent).astype(int) for child in children)
    assert 0.08 < flipped.sum() / 8000 < 0.12
    assert min(flipped) > 0


def test_offspring_leave_their_parents_as_they_are() -> None:
    made = directional(3, 3, crossover=1.0, mutation=1.0, mutation_rate=0.5)
    parents = made.first(np.random.default_rng(0))
    before = rows(parents)
    for seed in range(20):
        made.offspring(parents, random_importance(made.space, seed), np.random.default_rng(seed))
    assert rows(parents) == before


def test_the_three_parts_of_a_population() -> None:
    calls = Counter[str]()

    class Watched(Directional):
        def offspring(self, *args: Any) -> Bits:
            calls["offspring"] += 1
            return super().offspring(*args)

        def newcomer(self, *args: Any) -> Bits:
            calls["newcomer"] += 1
            return super().newcomer(*args)

    made = Watched(space(5, 9), settings(population=20, parents=0.25, offspring=0.5, crossover=1.0, mutation=1.0))
    random = np.random.default_rng(0)
    population = made.first(random)
    ranking = [int(index) for index in random.permutation(20)]
    following = rows(made.next(population, ranking, random_importance(made.space, 0), random))
    assert following[:5] == rows([population[index] for index in ranking[:5]])
    assert not set(following[5:]) & set(following[:5])
    # Ten and five, and what was drawn again because it was there already.
    assert calls["offspring"] >= 10
    assert calls["newcomer"] >= 5


def test_all_children_come_from_the_parents_alone() -> None:
    made = directional(8, 4, population=10, parents=0.2, offspring=0.8, budget="1", crossover=1.0, mutation=0.0)
    random = np.random.default_rng(3)
    population = made.first(random)
    following = made.next(population, range(10), equal_importance(made.space), random)
    for child in following[2:]:
        layers = zip(child.reshape(8, 4), population[0].reshape(8, 4), population[1].reshape(8, 4), strict=True)
        assert all(np.array_equal(mine, a) or np.array_equal(mine, b) for mine, a, b in layers)


def test_a_sample_is_the_c_highest_scores_over_all_layers() -> None:
    made = directional(3, 4, budget="1/2")

    class Fixed(Importance):
        def perturbed_score(self, random: np.random.Generator, *, clamp: bool = True) -> np.ndarray[Any, Any]:
            return np.array([0.9, 0.1, 0.8, 0.2, 0.7, 0.3, 0.05, 0.6, 0.04, 0.5, 0.03, 0.4])

    bits = made.newcomer(Fixed(np.ones(12), np.ones(3), np.zeros(12)), np.random.default_rng(0))
    assert rows([bits]) == ["101010010101"]


def test_the_recipe_decides_about_the_clamp() -> None:
    seen = []

    class Asked(Importance):
        def perturbed_score(self, random: np.random.Generator, *, clamp: bool = True) -> np.ndarray[Any, Any]:
            seen.append(clamp)
            return self.score

    for clamp in (True, False):
        asked = Asked(np.ones(4), np.ones(2), np.array([0, 0, 1, 1]))
        directional(2, 2, clamp=clamp).newcomer(asked, np.random.default_rng(0))
    assert seen == [True, False]


def test_random_search_ignores_importance_and_all_but_the_best() -> None:
    made = strategy(space(3, 5), settings(strategy="random"))
    population = made.first(np.random.default_rng(0))
    one = following(made, population, [3, 0, 1, 2, 4, 5], importance=0)
    assert one == following(made, population, [3, 5, 4, 2, 1, 0], importance=1)
    assert one[0] == rows(population)[3]
    assert not set(one[1:]) & set(rows(population))


def test_all_strategies_start_from_the_same_population() -> None:
    firsts = [
        rows(strategy(space(3, 5), settings(strategy=name)).first(np.random.default_rng(4))) for name in STRATEGIES
    ]
    assert all(first == firsts[0] for first in firsts)


@pytest.mark.parametrize(("name", "directed"), [("evolution", False), ("des", True)])
def test_undirected_evolution_is_blind_to_importance_and_directed_evolution_is_not(name: str, directed: bool) -> None:
    changes = {"population": 12, "budget": "1/3", "mutation": 1.0, "mutation_rate": 0.5}
    made = strategy(space(4, 5), settings(strategy=name, **changes))
    population = made.first(np.random.default_rng(0))
    one, other = (following(made, population, range(12), importance=seed) for seed in (0, 1))
    assert one[:3] == other[:3]  # parents
    assert (one[3:9] != other[3:9]) is directed  # repaired offspring
    assert (one[9:] != other[9:]) is directed  # newcomers


def test_undirected_evolution_has_the_parents_and_the_breeding_of_the_directed_one() -> None:
    # Nothing to repair, no newcomers: then the two are the same.
    changes = {"population": 12, "budget": "1", "parents": 0.25, "offspring": 0.75}
    made = [strategy(space(4, 5), settings(strategy=name, **changes)) for name in ("evolution", "des")]
    population = made[0].first(np.random.default_rng(0))
    ranking = [int(index) for index in np.random.default_rng(1).permutation(12)]
    one, two = (following(each, population, ranking) for each in made)
    assert one == two
    assert one[:3] == rows([population[index] for index in ranking[:3]])


def test_undirected_repair_and_newcomers_have_no_favourites() -> None:
    made = strategy(space(10, 2), settings(strategy="evolution", budget="1/2"))
    assert isinstance(made, Evolution)
    random = np.random.default_rng(0)
    skewed = random_importance(made.space, 0)
    assert_no_favourites(lambda: made.repair(np.ones(20, bool), skewed, random))
    drawn = sum(made.newcomer(skewed, random).astype(int) for _ in range(400))
    # Half of the branches are the most that is kept: 165 of 400 is expected of each.
    assert min(drawn) > 120 and max(drawn) < 210


def topk(layers: int, branches: int, **changes: Any) -> TopK:
    made = strategy(space(layers, branches), settings(strategy="topk", **changes))
    assert isinstance(made, TopK)
    return made


@pytest.mark.parametrize("budget", ["1/2", "2/3", "1", "1/block", "2/block", "9/block"])
@pytest.mark.parametrize("seed", range(3))
def test_topk_gives_every_candidate_once_by_falling_sum(budget: str, seed: int) -> None:
    made = topk(3, 3, budget=budget)
    importance = random_importance(made.space, seed)
    found = list(made.by_score(importance, np.random.default_rng(0)))
    assert len(found) == len(set(rows(found))) == made.budget.candidates
    assert all(made.budget.allows(bits) for bits in found)
    sums = [float(importance.score[bits].sum()) for bits in found]
    assert all(one >= following - 1e-12 for one, following in itertools.pairwise(sums))


def test_the_first_of_topk_is_eq_10_without_noise() -> None:
    made = topk(3, 4, budget="1/2")
    importance = random_importance(made.space, 5)
    population = made.next(made.first(np.random.default_rng(0)), range(6), importance, np.random.default_rng(0))
    assert set(np.flatnonzero(population[0])) == set(np.argsort(importance.score)[6:])
    # The second swaps the two branches on either side of the border.
    order = np.argsort(-importance.score)
    assert set(np.flatnonzero(population[0] ^ population[1])) == {order[5], order[6]}


def test_topk_has_neither_noise_nor_parents() -> None:
    made = topk(3, 5)
    first = made.first(np.random.default_rng(0))
    one = following(made, first, range(6), seed=0)
    assert one == following(made, first[::-1], [5, 3, 4, 1, 2, 0], seed=1)
    assert one != following(made, first, range(6), importance=1, seed=0)


def test_topk_of_a_large_space_takes_no_time() -> None:
    made = topk(32, 7, budget="1/2", population=1000)
    importance = random_importance(made.space, 0)
    found = made.next([], [], importance, np.random.default_rng(0))
    assert len(set(rows(found))) == 1000
