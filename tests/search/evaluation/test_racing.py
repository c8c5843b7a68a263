from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import comb
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch

from irepdeploy.errors import InputError
from irepdeploy.search.evaluation.fitness import Outcome
from irepdeploy.search.evaluation.racing import RaceResult, cuts_of, is_beaten, race
from irepdeploy.tasks import Segmentation

Array = np.ndarray[Any, Any]


def classified(correct: Array, loss: Array) -> Outcome:
    return Outcome(np.stack([correct, loss]))


class Field:
    """Candidates with known outcomes, and the evaluations that a race requested."""

    def __init__(self, correct: Array, loss: Array | None = None, share: float = 0.1) -> None:
        self.correct = correct
        self.loss = np.where(correct, 0.1, 2.0) if loss is None else loss
        self.count, images = correct.shape
        edges = [0, *cuts_of(images, share), images]
        self.parts = [slice(start, end) for start, end in pairwise(edges)]
        self.asked: list[tuple[int, int]] = []

    def score(self, indices: Sequence[int], part: int) -> list[Outcome]:
        self.asked += [(index, part) for index in indices]
        images = self.parts[part]
        return [classified(self.correct[index, images], self.loss[index, images]) for index in indices]

    def race(self, parents: int, error: float = 0.05) -> RaceResult:
        return race(self.score, self.count, [part.stop - part.start for part in self.parts], parents, error)

    @property
    def fitness(self) -> list[tuple[float, float]]:
        whole = [classified(*pair).fitness for pair in zip(self.correct, self.loss, strict=True)]
        return [(each.value, each.negative_loss) for each in whole]

    def truly(self, parents: int) -> list[int]:
        return sorted(range(self.count), key=lambda index: self.fitness[index], reverse=True)[:parents]


def candidates(count: int, images: int, spread: float, seed: int, noise: float = 0.3) -> tuple[Array, Array]:
    """Correctness and loss by a probit model: images of a difficulty that all share, candidates of an ability."""
    random = np.random.default_rng(seed)
    ability = 1.2 + spread * random.normal(size=(count, 1))
    margin = ability - random.normal(size=images) + noise * random.normal(size=(count, images))
    return margin > 0, np.log1p(np.exp(-margin))


def test_the_parents_are_those_without_a_race_and_fewer_images_are_scored() -> None:
    shares = []
    for seed in range(20):
        field = Field(*candidates(64, 4000, spread=0.15, seed=seed))
        found = field.race(parents=16)
        # In order, fitness included: the survivors have seen everything.
        assert list(found.ranking[:16]) == field.truly(16)
        for index in set(range(64)) - set(found.dropped):
            fitness = found.fitness[index]
            assert (fitness.value, fitness.negative_loss) == field.fitness[index]
        shares.append(found.share)
    assert 1 / np.mean(shares) > 1.5


def test_no_image_is_scored_twice_and_the_share_is_what_was_scored() -> None:
    field = Field(*candidates(24, 1000, spread=0.3, seed=1))
    found = field.race(parents=4)
    assert len(set(field.asked)) == len(field.asked)
    seen = sum(field.parts[part].stop - field.parts[part].start for _, part in field.asked)
    assert found.share == seen / (24 * 1000) < 0.7
    assert found.facts.model_dump() == {
        "dropped": found.dropped,
        "back": found.back,
        "images": found.images,
        "share": found.share,
        "level": found.level,
    }


def test_the_dropped_rank_behind_all_survivors_by_the_images_that_they_saw() -> None:
    field = Field(*candidates(40, 2000, spread=0.4, seed=2))
    found = field.race(parents=4)
    assert len(found.dropped) > 10
    assert sorted(found.ranking) == list(range(40))
    survivors = [index for index in found.ranking if index not in found.dropped]
    assert list(found.ranking[: len(survivors)]) == survivors
    assert survivors == [index for index in field.truly(40) if index in survivors]
    seen = [found.images[index] for index in found.ranking]
    assert seen == sorted(seen, reverse=True)
    for index in found.dropped:
        part = classified(field.correct[index, : found.images[index]], field.loss[index, : found.images[index]])
        assert found.fitness[index] == part.fitness
        assert found.images[index] < found.total == 2000


def test_equal_candidates_are_all_kept_and_rank_by_index() -> None:
    row = np.random.default_rng(0).random(500) < 0.8
    found = Field(np.stack([row] * 6)).race(parents=2)
    assert found.ranking == tuple(range(6))
    assert not found.dropped
    assert found.share == 1


def test_a_tie_in_accuracy_is_decided_by_the_loss_of_all_images() -> None:
    random = np.random.default_rng(3)
    base = random.random(400) < 0.8
    # Twelve others as accurate as the first, wrong elsewhere; the last has the smallest loss.
    correct = np.stack([random.permutation(base) for _ in range(12)])
    loss = np.where(correct, 0.1, 2.0)
    loss[11] -= 0.05
    found = Field(correct, loss).race(parents=1)
    assert found.ranking[0] == 11


def test_who_was_dropped_for_a_leader_that_fell_back_comes_back() -> None:
    images, first = 1000, 100
    right = np.random.default_rng(4).random((4, images))
    # The leader has the first part right and nothing more; the second is close enough to stay.
    correct = np.stack([np.zeros(images, dtype=bool), right[1] < 0.8, right[2] < 0.9, right[3] < 0.2])
    correct[:, :first] = True
    correct[1, :5] = correct[2, 5:20] = correct[3, 20:35] = False
    field = Field(correct)
    found = field.race(parents=1)
    assert found.ranking[0] == field.truly(1)[0] == 2
    assert found.back == (2, 3)
    # The last is beaten by the second after a few parts more, the leader while all still ran.
    assert first < found.images[3] < images
    assert 3 in found.dropped
    assert [part for index, part in field.asked if index == 2] == list(range(10))


def test_without_stages_no_candidate_is_dropped() -> None:
    field = Field(*candidates(10, 300, spread=0.5, seed=5), share=0)
    found = field.race(parents=3)
    assert list(found.ranking) == field.truly(10)
    assert found.images == (300,) * 10
    assert Field(*candidates(4, 300, spread=0.5, seed=5)).race(parents=4).share == 1


def test_a_race_by_intersection_over_union_finds_the_parents_too() -> None:
    task, shares = Segmentation(), []
    for seed in range(4):
        random = torch.Generator().manual_seed(seed)
        labels = torch.randint(3, (1500, 3, 3), generator=random)
        ability = 0.6 + 0.3 * torch.rand(12, generator=random)
        rows = []
        for each in ability:
            right = torch.rand(1500, 3, 3, generator=random) < each
            guess = torch.where(right, labels, torch.randint(3, labels.shape, generator=random))
            logits = torch.nn.functional.one_hot(guess, 3).permute(0, 3, 1, 2).float()
            rows.append(task.statistics(logits, labels).T.contiguous().numpy())
        whole = [Outcome(each, task).fitness for each in rows]
        edges = [0, *cuts_of(1500, 0.1), 1500]

        def score(indices: Sequence[int], part: int, rows: Any = rows, edges: Any = edges) -> list[Outcome]:
            return [Outcome(rows[index][:, edges[part] : edges[part + 1]], task) for index in indices]

        found = race(score, 12, [stop - start for start, stop in pairwise(edges)], 3, 0.05)
        assert list(found.ranking[:3]) == sorted(range(12), key=lambda index: whole[index], reverse=True)[:3]
        shares.append(found.share)
    assert max(shares) < 0.6


def level(images: int, discordant: int, seen: int, z: float) -> float:
    """Probability that one of two equally accurate candidates is found beaten, over the order of the images."""
    total = 0.0
    for m in range(min(seen, discordant) + 1):
        if images - discordant < seen - m:
            continue
        weight = comb(discordant, m) * comb(images - discordant, seen - m) / comb(images, seen)
        half = discordant // 2
        for behind in range(max(0, m - half), min(m, half) + 1):
            if is_beaten(m - 2 * behind, m, 1, 1 - seen / images, z):
                total += weight * comb(half, behind) * comb(half, m - behind) / comb(discordant, m)
    return total


@pytest.mark.parametrize("discordant", [4, 20, 60, 150])
@pytest.mark.parametrize("alpha", [1e-2, 1e-3, 1e-4])
def test_false_findings_over_all_stages_are_as_rare_as_stated(discordant: int, alpha: float) -> None:
    z = -NormalDist().inv_cdf(alpha)
    levels = [level(400, discordant, seen, z) for seen in range(40, 400, 40)]
    assert sum(levels) <= len(levels) * alpha
    # And not because there were no findings.
    if discordant == 150:
        assert sum(levels) > 0.3 * len(levels) * alpha


def test_the_level_shares_the_error_out_over_all_findings() -> None:
    field = Field(*candidates(3, 300, spread=0.5, seed=6), share=0.25)
    # One parent of three: j = 1 and 2, (1 + 1 - 1) / 1 + (1 + 2 - 1) / 2 = 2; three stages at which one may be dropped.
    assert field.race(parents=1, error=0.06).level == pytest.approx(0.06 / (2 * 3))


@pytest.mark.parametrize(
    ("images", "share", "cuts"),
    [
        (400, 0.0, []),
        (400, 0.25, [100, 200, 300]),
        (400, 0.4, [160]),
        (400, 0.3, [120, 240]),
        (10, 0.99, []),
        (7, 0.5, [4]),
    ],
)
def test_cuts(images: int, share: float, cuts: list[int]) -> None:
    assert cuts_of(images, share) == cuts


def test_refusals() -> None:
    field = Field(*candidates(3, 30, spread=0.5, seed=7))
    for parents in (0, 4):
        with pytest.raises(InputError, match="cannot select"):
            field.race(parents)
    for error in (0.0, 1.0):
        with pytest.raises(InputError, match="probability"):
            field.race(1, error)
    with pytest.raises(InputError, match="less than one"):
        cuts_of(4, 0.1)
