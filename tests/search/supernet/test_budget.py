from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from irepdeploy.search.supernet.budget import Bits, Budget, Group

# Interleaved, so that no group is a run of positions.
MIXED = Budget((Group((0, 2, 5), 2), Group((1, 4), 1), Group((3,), 1)))


@st.composite
def budgets(draw: st.DrawFn) -> Budget:
    """Up to three groups over up to seven positions, in any order."""
    group_of = draw(st.lists(st.integers(0, 2), min_size=1, max_size=7))
    groups = [tuple(i for i, g in enumerate(group_of) if g == group) for group in sorted(set(group_of))]
    return Budget(tuple(Group(group, draw(st.integers(0, len(group)))) for group in groups))


def every(size: int) -> list[Bits]:
    return [np.array(bits, dtype=bool) for bits in itertools.product([0, 1], repeat=size)]


def size_of(budget: Budget) -> int:
    return sum(len(group.positions) for group in budget.groups)


def test_what_the_mixed_budget_allows_by_hand() -> None:
    assert MIXED.total == 4
    assert MIXED.candidates == 7 * 3 * 2
    assert MIXED.allows(np.array([1, 0, 1, 1, 1, 0], dtype=bool))
    assert not MIXED.allows(np.array([1, 0, 1, 0, 0, 1], dtype=bool))  # three of the first group
    assert not MIXED.allows(np.array([0, 1, 0, 0, 1, 0], dtype=bool))  # two of the second


@given(budgets())
def test_candidates_are_counted(budget: Budget) -> None:
    assert budget.candidates == sum(budget.allows(bits) for bits in every(size_of(budget)))


@given(budgets(), st.integers(0, 99))
def test_uniform_draws_keep_the_budget(budget: Budget, seed: int) -> None:
    random = np.random.default_rng(seed)
    bits = budget.uniform(random)
    assert bits.dtype == bool and bits.shape == (size_of(budget),)
    assert budget.allows(bits)


def test_uniform_is_uniform_over_all_candidates() -> None:
    random = np.random.default_rng(0)
    drawn = Counter(MIXED.uniform(random).tobytes() for _ in range(42 * 200))
    assert len(drawn) == MIXED.candidates == 42
    # 200 are expected of each; five standard deviations are 71.
    assert min(drawn.values()) > 130 and max(drawn.values()) < 270


def test_uniform_draws_stay_uniform_beyond_512_positions() -> None:
    wide = Budget((Group(tuple(range(800)), 720),))
    random = np.random.default_rng(0)
    sizes = [int(wide.uniform(random).sum()) for _ in range(50)]
    # Nearly all of the 2^800 subsets have 400 branches, plus or minus four times 14.
    assert all(340 < size < 460 for size in sizes)


@given(budgets(), st.integers(0, 9999))
def test_a_cut_drops_as_few_as_it_must_and_the_lowest_of_each_group(budget: Budget, seed: int) -> None:
    random = np.random.default_rng(seed)
    size = size_of(budget)
    bits, score = random.random(size) < 0.7, random.random(size)
    before = bits.copy()
    kept = budget.cut(bits, score, random)
    assert np.array_equal(bits, before)
    assert not (kept & ~bits).any()
    for group in budget.groups:
        here = np.zeros(size, dtype=bool)
        here[list(group.positions)] = True
        assert (kept & here).sum() == min((bits & here).sum(), group.capacity)
        dropped = bits & ~kept & here
        if dropped.any() and (kept & here).any():
            assert score[dropped].max() < score[kept & here].min()


def test_a_cut_breaks_ties_by_chance() -> None:
    random = np.random.default_rng(0)
    budget = Budget((Group(tuple(range(0, 20, 2)), 5), Group(tuple(range(1, 20, 2)), 5)))
    kept = sum(budget.cut(np.ones(20, bool), np.zeros(20), random).astype(int) for _ in range(200))
    # 100 is expected of each; four deviations are 28.
    assert min(kept) > 70 and max(kept) < 130


@pytest.mark.parametrize("size", [1, 4])
def test_a_budget_of_everything_allows_everything(size: int) -> None:
    budget = Budget((Group(tuple(range(size)), size),))
    assert budget.candidates == math.prod([2] * size)
    assert np.array_equal(budget.cut(np.ones(size, bool), np.zeros(size), np.random.default_rng(0)), np.ones(size))
