"""Scores, uncertainties and checks of the shipped tasks, against scikit-learn and by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import jaccard_score, r2_score
from torch import Tensor

from irepdeploy.errors import InputError
from irepdeploy.tasks import Classification, Regression, Segmentation, Task, task_of
from irepdeploy.tasks.jackknife import contributions, jackknife_interval, totals_of

RANDOM = torch.Generator()


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    RANDOM.manual_seed(0)


def rows(task: Task, outputs: Tensor, targets: Tensor) -> np.ndarray[Any, Any]:
    return task.statistics(outputs, targets).T.contiguous().numpy()


def score(task: Task, outputs: Tensor, targets: Tensor) -> float:
    found = rows(task, outputs, targets)
    return task.score(totals_of(found), found.shape[1])


def test_accuracy_top_5_and_loss() -> None:
    logits, labels = torch.randn(50, 20, generator=RANDOM), torch.randint(20, (50,), generator=RANDOM)
    found = rows(Classification(label_smoothing=0.1), logits, labels)
    figures = Classification().figures(totals_of(found), 50)
    order = logits.argsort(1, descending=True)
    assert figures["accuracy"] == float((order[:, 0] == labels).double().mean())
    assert figures["top-5 accuracy"] == pytest.approx(float((order[:, :5] == labels[:, None]).any(1).double().mean()))
    # Without smoothing, whatever the training does.
    assert figures["cross-entropy"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-6)
    assert "top-5 accuracy" not in Classification().figures(
        totals_of(rows(Classification(), logits[:, :10], labels % 10)), 50
    )


def test_label_smoothing_and_shares_of_classes() -> None:
    logits, labels = torch.randn(8, 4, generator=RANDOM), torch.arange(8) % 4
    smoothed = F.cross_entropy(logits, labels, label_smoothing=0.2)
    assert torch.equal(Classification(0.2).loss(logits, labels), smoothed)
    mixed = F.one_hot(labels, 4).float()
    assert torch.allclose(Classification().loss(logits, mixed), F.cross_entropy(logits, labels))
    assert score(Classification(), logits, mixed) == score(Classification(), logits, labels.int())


def test_mean_intersection_over_union_is_that_of_scikit_learn() -> None:
    logits, labels = torch.randn(6, 4, 9, 7, generator=RANDOM), torch.randint(4, (6, 9, 7), generator=RANDOM)
    expected = jaccard_score(labels.flatten(), logits.argmax(1).flatten(), average="macro")
    assert score(Segmentation(), logits, labels) == pytest.approx(expected, rel=1e-9)
    # As bytes with a channel, as masks are often kept.
    assert score(Segmentation(), logits, labels.byte()[:, None]) == pytest.approx(expected, rel=1e-9)


def test_ignored_pixels_do_not_count() -> None:
    logits, labels = torch.randn(3, 3, 8, 8, generator=RANDOM), torch.randint(3, (3, 8, 8), generator=RANDOM)
    ignored = labels.clone()
    ignored[:, :, 4:] = 255
    task = Segmentation()
    assert score(task, logits, ignored) == pytest.approx(score(task, logits[..., :4], labels[..., :4]), rel=1e-9)
    assert torch.allclose(task.loss(logits, ignored), task.loss(logits[..., :4], labels[..., :4]))
    nothing = torch.full_like(labels, 255)
    assert float(task.loss(logits, nothing)) == 0
    assert np.isnan(score(task, logits, nothing))


def test_absent_classes_are_left_out_and_one_channel_is_two_classes() -> None:
    task, labels = Segmentation(), torch.randint(2, (4, 5, 5), generator=RANDOM)
    logits = torch.randn(4, 1, 5, 5, generator=RANDOM)
    two = torch.cat([torch.zeros_like(logits), logits, torch.full_like(logits, -99)], 1)
    assert score(task, logits, labels) == pytest.approx(score(task, two, labels))
    loss = F.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
    assert torch.allclose(task.loss(logits, labels), loss)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 4, 5)])
def test_r2_is_that_of_scikit_learn(shape: tuple[int, ...]) -> None:
    # A mean of a thousand deviations: in float32 the variance would be lost.
    targets = 1000 + torch.randn(40, *shape, generator=RANDOM)
    outputs = targets + torch.randn(40, *shape, generator=RANDOM) / 2
    columns = shape[0] if shape else 1
    flat = [t.double().reshape(40, columns, -1).transpose(1, 2).reshape(-1, columns) for t in (targets, outputs)]
    assert score(Regression(), outputs, targets) == pytest.approx(r2_score(*flat), rel=1e-6)


def test_a_constant_target_has_no_r2() -> None:
    assert np.isnan(score(Regression(), torch.randn(9, generator=RANDOM), torch.full((9,), 3.3)))


def test_the_interval_covers_the_true_score_about_as_often_as_it_says() -> None:
    task, covered = Segmentation(), 0
    everything = torch.randn(3000, 3, 4, 4, generator=RANDOM)
    labels = torch.where(torch.rand(3000, 4, 4, generator=RANDOM) < 0.6, everything.argmax(1), 0)
    whole = rows(task, everything, labels)
    truth = task.score(totals_of(whole), 3000)
    random = np.random.default_rng(0)
    for _ in range(200):
        interval = task.interval(whole[:, random.integers(3000, size=100)])
        assert interval is not None
        covered += interval.low <= truth <= interval.high
    assert 180 <= covered <= 199


def test_contributions_are_those_of_leaving_a_sample_out() -> None:
    task = Segmentation()
    found = rows(task, torch.randn(60, 3, 4, 4, generator=RANDOM), torch.randint(3, (60, 4, 4), generator=RANDOM))
    totals, whole = totals_of(found), task.score(totals_of(found), 60)
    without = np.array([60 * whole - 59 * task.score(totals - found[:, i], 59) for i in range(60)])
    assert np.corrcoef(without, task.contributions(found))[0, 1] > 0.99
    # Of a mean they are the values themselves.
    values = np.random.default_rng(0).random((1, 30))
    assert np.allclose(contributions(lambda totals, count: totals[0] / count, values), values[0])


def test_intervals_at_the_edge() -> None:
    right = Classification().interval(np.ones((2, 10)))
    assert 0.6 < right.low < 0.75 and right.high == pytest.approx(1)
    assert jackknife_interval(lambda totals, count: float(totals[0]), np.ones((2, 1))) is None


@pytest.mark.parametrize(
    ("task", "outputs", "targets", "words"),
    [
        (Classification(), (4, 3), torch.tensor([0, 1, 3, 1]), "outside the classes: the network has 3, 0 to 2, got 3"),
        (Classification(), (2, 3), torch.tensor([0, -1]), "got -1"),
        (Classification(), (2, 3), torch.rand(2), r"expected integer labels \(N,\), got float32 \(2,\)"),
        (Classification(), (2, 3), torch.zeros(2, 1).long(), r"got int64 \(2, 1\)"),
        (Classification(), (2, 3, 4, 4), torch.zeros(2).long(), "outputs of .N, classes.*segmentation"),
        (Segmentation(), (2, 3, 4, 4), torch.full((2, 4, 4), 7), r"0 to 2 or 255 \(ignored\), got 7"),
        (Segmentation(), (2, 3, 4, 4), torch.zeros(2, 8, 8).long(), "the same size, got 4x4 and 8x8"),
        (Segmentation(), (2, 3), torch.zeros(2, 8, 8).long(), r"outputs of \(N, classes, H, W\)"),
        (Segmentation(), (2, 3, 4, 4), torch.zeros(2).long(), r"expected integer labels \(N, H, W\)"),
        (Regression(), (2, 3), torch.rand(2), "like the outputs"),
        (Regression(), (2, 1), torch.tensor([1.0, float("nan")]), "finite"),
    ],
)  # fmt: skip
def test_targets_that_do_not_fit(task: Task, outputs: tuple[int, ...], targets: Tensor, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        task.check(torch.randn(outputs), targets, "train")
    assert caught.value.line.startswith("train: ") and "\n" not in caught.value.line


def test_tasks_by_name() -> None:
    assert task_of("segmentation", ignore_index=0) == Segmentation(ignore_index=0)
    assert task_of(Classification()) == Classification()
    assert task_of("regression").settings() == {"name": "regression", "kind": "mse"}
    for task, settings, words in (
        ("detect", {}, "unknown task 'detect'.*classification"),
        ("classification", {"smoothing": 1}, "has no smoothing .it has label_smoothing"),
        (Classification(), {"label_smoothing": 0.1}, "already set by the given task"),
        ("regression", {"kind": "l3"}, "unknown loss 'l3'"),
    ):
        with pytest.raises(InputError, match=words):
            task_of(task, **settings)  # type: ignore[arg-type]
