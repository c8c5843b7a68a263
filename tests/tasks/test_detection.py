"""The detection task: its statistics, the average precision from them, and errors."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from irepdeploy.detect.coco_metric import average_precision
from irepdeploy.detect.detections import Detections
from irepdeploy.detect.target import Target, Targets
from irepdeploy.errors import InputError
from irepdeploy.network.nets import build_plain
from irepdeploy.tasks import Detection, task_of
from irepdeploy.tasks.called import training_loss
from support.targets import some_targets, target


@pytest.fixture(scope="module")
def task() -> Detection:
    return Detection().bound(build_plain("centernet_vgg6"))


def found_of(targets: Targets, *, moved: float = 0, score: float = 0.9) -> tuple[Tensor, ...]:
    """Return targets as detections, moved to the right, and filled up to five."""
    number = torch.tensor([[len(each.trained[0])] for each in targets], dtype=torch.int32)
    boxes, scores, classes = torch.zeros(len(targets), 5, 4), torch.zeros(len(targets), 5), torch.zeros(len(targets), 5)
    for row, each in enumerate(targets):
        corners, labels = each.trained
        boxes[row, : len(labels)] = corners + torch.tensor([moved, 0, moved, 0])
        scores[row, : len(labels)], classes[row, : len(labels)] = score, labels.float()
    return number, boxes, scores, classes.int()


def rows(task: Detection, found: tuple[Tensor, ...], targets: Targets) -> np.ndarray[Any, Any]:
    return task.statistics(found, targets).T.contiguous().numpy()


def test_targets_as_detections_have_an_average_precision_of_one(task: Detection) -> None:
    targets = some_targets()
    statistics = rows(task, found_of(targets), targets)
    assert task.score_rows(statistics) == 1.0
    assert statistics[-1].tolist() == pytest.approx([0.1, 0.1, 0.0])
    # Detections of another image are wrong, in whatever order the images come.
    wrong = rows(task, found_of(targets), Targets([targets[1], targets[0], targets[2]]))
    assert task.score_rows(wrong) == 0.0
    assert task.score_rows(statistics[:, [2, 0, 1]]) == 1.0


def test_it_is_that_of_the_detections_themselves(task: Detection) -> None:
    targets = some_targets()
    found = found_of(targets, moved=3)
    figures = task.figures_rows(rows(task, found, targets))
    due = average_precision(Detections.of_batch(*found), targets)
    assert (figures["AP"], figures["AP50"], figures["AP75"]) == (due.ap, due.ap50, due.ap75)
    assert 0 < figures["AP"] < 1 and figures["AP small"] == due.small
    assert "AP large" not in figures


def test_areas_of_masks_decide_what_is_small(task: Detection) -> None:
    (large,) = [replace(each, areas=torch.tensor([1e4])) for each in [target([[0, 0, 8, 8]], [1])]]
    figures = task.figures_rows(rows(task, found_of(Targets([large])), Targets([large])))
    assert figures["AP large"] == 1.0 and "AP small" not in figures


def test_boxes_are_scored_in_the_original_image(task: Detection) -> None:
    # 20 x 20 pixels of the input are 40 x 80 of the original, which ends at 50.
    wide = replace(target([[10, 10, 30, 30]], [1]), scale=(0.5, 0.25), size=(50, 200))
    figures = task.figures_rows(rows(task, found_of(Targets([wide])), Targets([wide])))
    assert "AP medium" in figures and "AP small" not in figures
    # Parts of a detection beyond the image do not count: it ends at 50, and 40 by 10 is an eighth of the object.
    assert figures["AP"] == 0.0
    inside = replace(wide, size=(200, 200))
    assert task.score_rows(rows(task, found_of(Targets([inside])), Targets([inside]))) == 1.0


def test_nothing_found_and_nothing_to_find(task: Detection) -> None:
    targets = some_targets()
    none = tuple(torch.zeros_like(each) for each in found_of(targets))
    assert task.score_rows(rows(task, none, targets)) == 0.0
    empty = Targets([target([], []), target([[0, 0, 9, 9]], [1], [True])])
    assert np.isnan(task.score_rows(rows(task, found_of(empty), empty)))


def test_a_worse_box_breaks_a_tie(task: Detection) -> None:
    targets = some_targets()
    near, far = (rows(task, found_of(targets, moved=moved), targets)[-1].mean() for moved in (1, 2))
    assert near < far


def test_the_interval_contains_the_score(task: Detection) -> None:
    one = target([[10, 10, 30, 30]], [1])
    targets = Targets([replace(one, boxes=one.boxes + index) for index in range(24)])
    number, boxes, *rest = found_of(targets)
    boxes = boxes + torch.rand(24, 1, 1, generator=torch.Generator().manual_seed(0)) * 6
    statistics = rows(task, (number, boxes, *rest), targets)
    score = task.score_rows(statistics)
    interval = task.interval(statistics)
    assert interval is not None and 0 < interval.low < score < interval.high < 1
    assert float(task.contributions(statistics).mean()) == pytest.approx(score)
    assert task.interval(statistics[:, :5]) is None


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (target([[0, 0, 5, 5]], [10]), "labels from 0 to 9, got 10"),
        (target([[0, 0, float("nan"), 5]], [1]), "finite boxes"),
        (torch.zeros(3), "expected the objects of images, got Tensor"),
    ],
)
def test_targets_that_do_not_fit_are_refused(task: Detection, bad: Target | Tensor, told: str) -> None:
    with pytest.raises(InputError, match=told):
        task.check((), [bad], "train")


def test_too_many_objects_for_a_row_are_refused(task: Detection) -> None:
    many = Targets([target([[0, 0, 1, 1]] * 201, [0] * 201)])
    with pytest.raises(InputError, match="at most 200 objects"):
        task.statistics(found_of(some_targets()[:1]), many)


def test_a_network_that_detects_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="expected a network that detects, got Linear"):
        task_of("detection").bound(nn.Linear(2, 2))


def test_the_objective_is_the_sum_of_the_losses(task: Detection) -> None:
    net, images, targets = build_plain("centernet_vgg6").eval(), torch.randn(3, 1, 64, 64), some_targets()
    found = training_loss(task, task.objective(net), images, targets, whole=True)
    parts = [float(part.detach()) for part in net.loss(images, targets).values()]
    assert float(found.detach()) == pytest.approx(sum(parts))
    assert task.settings() == {"name": "detection"}
