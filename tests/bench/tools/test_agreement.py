from __future__ import annotations

import numpy as np
import pytest

from irepdeploy.bench.tools.agreement import agreement, beta_outcomes, simulated_races, trained_supernet
from irepdeploy.data import Split
from irepdeploy.search.evaluation.evaluate import PopulationEvaluator
from irepdeploy.search.evaluation.fitness import Outcome
from irepdeploy.search.evaluation.kernels import PlainNetwork
from irepdeploy.search.supernet.space import Bits
from irepdeploy.search.supernet.supernet import Supernet


@pytest.fixture(scope="module")
def untrained() -> tuple[Supernet, Split, list[Bits]]:
    return trained_supernet(epochs=0, val=60)


def test_modes_that_compute_alike_agree(untrained: tuple[Supernet, Split, list[Bits]]) -> None:
    supernet, data, candidates = untrained
    found = agreement(supernet, data, candidates[:6])
    assert 0 < found.error < 1e-4
    assert 0.5 < found.kendall_bf16 <= 1


def test_a_mode_that_computes_something_else_is_seen(
    untrained: tuple[Supernet, Split, list[Bits]], monkeypatch: pytest.MonkeyPatch
) -> None:
    supernet, data, candidates = untrained
    original = PlainNetwork.write
    monkeypatch.setattr(PlainNetwork, "write", lambda plain, mask: original(plain, 1 - mask))
    found = agreement(supernet, data, candidates[:6])
    assert found.error > 1e-2
    assert not found.same_ranking
    assert found.kendall_bf16 < 0.9


def test_the_beta_model_has_images_that_all_candidates_share() -> None:
    made = beta_outcomes(40, 4000, spread=0.25)
    right = np.stack([outcome.statistics[0] for outcome in made])
    assert 0.87 < right.mean() < 0.93
    # If all images were alike, the share of correct candidates would hardly vary from image to image.
    assert right.mean(axis=0).std() > 3 * np.sqrt(0.9 * 0.1 / 40)


def test_simulated_races_of_candidates_far_apart_find_the_parents_early() -> None:
    random = np.random.default_rng(0)
    abilities = np.r_[np.full(12, 0.3), np.full(4, 0.9)]
    right = random.random((16, 1000)) < abilities[:, None]
    found = simulated_races([Outcome(np.stack([row, np.where(row, 0.1, 2.0)])) for row in right], 10)
    assert found.same == 1
    # A quarter of the candidates on all images, the others on the first tenth.
    assert found.speed == pytest.approx(1 / (0.25 + 0.75 * 0.1), rel=0.01)


@pytest.mark.slow
def test_the_modes_agree_on_a_trained_supernet_and_racing_finds_the_same_parents() -> None:
    supernet, data, candidates = trained_supernet(epochs=10)
    found = agreement(supernet, data, candidates)
    assert found.distinct >= 20
    assert found.error < 1e-4
    assert found.same_ranking
    assert found.kendall_bf16 >= 0.95
    races = simulated_races(PopulationEvaluator(supernet, data).outcomes(candidates), 100)
    assert races.same >= 0.95
    assert races.speed >= 1.5
