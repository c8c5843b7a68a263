from __future__ import annotations

import pytest

from irepdeploy.recipe import SgdSection, TrainSection
from irepdeploy.search.training.schedule import rate_at


def settings(**changes: object) -> TrainSection:
    values: dict[str, object] = {"epochs": 12, "batch_size": 4, "weights": SgdSection(lr=0.8)}
    return TrainSection.model_validate({**values, **changes})


def rates(of: TrainSection) -> list[float]:
    return [rate_at(of, epoch) for epoch in range(of.epochs)]


def test_cosine_falls_to_zero() -> None:
    found = rates(settings())
    assert found[0] == 0.8
    assert found[6] == pytest.approx(0.4)
    assert sorted(found, reverse=True) == found
    assert rate_at(settings(), 12) == pytest.approx(0)


def test_step_falls_to_a_tenth_twice() -> None:
    assert rates(settings(schedule="step")) == pytest.approx([0.8] * 4 + [0.08] * 4 + [0.008] * 4)


def test_constant() -> None:
    assert rates(settings(schedule="constant")) == [0.8] * 12


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_the_warm_up_rises_with_every_step_and_the_rest_is_as_without(schedule: str) -> None:
    warm = settings(schedule=schedule, warmup_epochs=2, epochs=14)
    assert rate_at(warm, 0) == 0
    assert rate_at(warm, 0, 0.5) == pytest.approx(0.2)
    assert rate_at(warm, 1, 0.5) == pytest.approx(0.6)
    assert rates(warm)[2:] == pytest.approx(rates(settings(schedule=schedule)))


def test_a_warm_up_without_end_is_refused() -> None:
    with pytest.raises(ValueError, match="expected warmup_epochs below epochs=12, got 12"):
        settings(warmup_epochs=12)
