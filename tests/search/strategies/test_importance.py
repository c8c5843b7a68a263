from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from irepdeploy.search.strategies.importance import Importance
from irepdeploy.search.supernet.builders import build_supernet
from support.tiny import Tiny

# Two layers, the first with one branch, the second with two.
BY_HAND = Importance(alpha=np.array([0.1, 0.9, 0.5]), beta=np.array([0.2, 0.7]), layer=np.array([0, 1, 1]))


class Edge:
    """A generator that draws the lower or the upper end of every range, and keeps what it was asked for."""

    def __init__(self, end: str) -> None:
        self.end = end
        self.ranges: list[tuple[float, float, Any]] = []

    def uniform(self, low: float, high: float, size: Any) -> np.ndarray[Any, Any]:
        self.ranges.append((low, high, size))
        return np.full(size, low if self.end == "low" else high)


def test_score_is_alpha_times_the_beta_of_its_layer() -> None:
    assert BY_HAND.score == pytest.approx([0.1 * 0.2, 0.9 * 0.7, 0.5 * 0.7])


def test_ranges_of_the_noise_are_those_of_eq_8_and_9() -> None:
    edge = Edge("low")
    BY_HAND.perturbed_score(edge)  # type: ignore[arg-type]
    drawn = {size: (low, high) for low, high, size in edge.ranges}
    # alpha: 0.5 - 0.9 to 0.5 - 0.1, one number a branch; beta: 0.5 - 0.7 to 0.5 - 0.2, one number a layer.
    assert drawn[(3,)] == pytest.approx((-0.4, 0.4))
    assert drawn[(2,)] == pytest.approx((-0.2, 0.3))
    assert len(edge.ranges) == 2


@pytest.mark.parametrize(
    ("end", "clamp", "expected"),
    [
        # alpha + noise = -0.3, 0.5, 0.1; beta + noise = 0.0, 0.5
        ("low", True, [0.0, 0.25, 0.05]),
        # alpha + noise = 0.5, 1.3, 0.9; beta + noise = 0.5, 1.0
        ("high", True, [0.25, 1.3, 0.9]),
        ("high", False, [0.25, 1.3, 0.9]),
    ],
)
def test_perturbed_score_by_hand(end: str, clamp: bool, expected: list[float]) -> None:
    assert BY_HAND.perturbed_score(Edge(end), clamp=clamp) == pytest.approx(expected)  # type: ignore[arg-type]


def test_two_negative_factors_make_a_good_score_only_without_the_clamp() -> None:
    # alpha + noise = -0.3, 0.5 and beta + noise = -0.2, 0.5.
    values = Importance(np.array([0.1, 0.9]), np.array([0.1, 0.8]), np.array([0, 1]))
    assert values.perturbed_score(Edge("low"), clamp=False) == pytest.approx([0.06, 0.25])  # type: ignore[arg-type]
    assert values.perturbed_score(Edge("low"), clamp=True) == pytest.approx([0.0, 0.25])  # type: ignore[arg-type]


def test_noise_stays_in_its_range_and_differs_from_branch_to_branch() -> None:
    wide = Importance(np.linspace(0.3, 0.6, 500), np.array([0.5]), np.zeros(500, dtype=int))
    noise = wide.perturbed_score(np.random.default_rng(0)) / 0.5 - wide.alpha
    assert noise.min() >= -0.1 - 1e-12
    assert noise.max() <= 0.2 + 1e-12
    assert noise.min() < -0.09
    assert noise.max() > 0.19


def test_before_alpha_has_moved_there_is_no_noise_and_all_scores_tie() -> None:
    start = Importance(np.full(6, 0.5), np.full(2, 0.5), np.array([0, 0, 0, 1, 1, 1]))
    assert set(start.perturbed_score(np.random.default_rng(0))) == {0.25}


def test_alpha_and_beta_are_read_from_the_supernet(tiny: Tiny) -> None:
    supernet = build_supernet(tiny())
    expected_alpha, expected_beta = [], []
    with torch.no_grad():
        for value, (row, column) in enumerate(supernet.space.positions):
            block = supernet.model.get_submodule(supernet.space.layers[row])
            block.alpha[supernet.space.branches[column]].fill_(value / 10)
            expected_alpha.append(1 / (1 + np.exp(-value / 10)))
        for row, name in enumerate(supernet.space.layers):
            supernet.model.get_submodule(name).beta.fill_(-row)
            expected_beta.append(1 / (1 + np.exp(row)))
    found = Importance.of(supernet.model, supernet.space)
    assert found.alpha == pytest.approx(expected_alpha, rel=1e-6)
    assert found.beta == pytest.approx(expected_beta, rel=1e-6)
    assert found.layer.tolist() == [0] * 8 + [1] * 9 + [2] * 8
