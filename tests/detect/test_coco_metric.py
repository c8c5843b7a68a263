from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from irepdeploy.detect.coco_metric import AveragePrecision, average_precision
from irepdeploy.detect.detections import Detections
from irepdeploy.detect.target import Target
from irepdeploy.errors import InputError, MissingError, RunError


def scene(images: int, classes: int, seed: int, ids: list[int] | None = None) -> tuple[list[Detections], list[Target]]:
    """Return targets of all sizes, including crowds, and the detections of a mediocre detector."""
    random = torch.Generator().manual_seed(seed)
    found, targets = [], []
    for image in range(images):
        count = int(torch.randint(0, 7, (), generator=random))
        corner = torch.rand(count, 2, generator=random) * 300
        boxes = torch.cat([corner, corner + 4 + torch.rand(count, 2, generator=random) ** 2 * 250], 1)
        labels = torch.randint(0, classes, (count,), generator=random)
        crowd = torch.rand(count, generator=random) < 0.1
        number = image if ids is None else ids[image]
        targets.append(Target(boxes, labels, crowd, number, (640, 640)))
        moved = torch.cat([boxes + torch.randn(count, 4, generator=random) * 6, torch.tensor([[0.0, 0, 50, 50]] * 3)])
        right = torch.rand(len(moved), generator=random) < 0.9
        guessed = torch.cat([labels, torch.randint(0, classes, (3,), generator=random)])
        other = torch.randint(0, classes, (len(moved),), generator=random)
        scores = torch.rand(len(moved), generator=random).mul(20).round() / 20  # with ties
        found.append(Detections(moved, scores, torch.where(right, guessed, other)))
    return found, targets


def as_detections(target: Target) -> Detections:
    return Detections(target.boxes, torch.full((len(target),), 0.9), target.labels)


def published(found: list[Detections], targets: list[Target]) -> list[float]:
    """Return the first six numbers that pycocotools itself prints, from COCO's own format."""
    truth, entries = COCO(), []
    for target in targets:
        columns = (target.boxes.double(), target.labels, target.crowd.int())
        for (x0, y0, x1, y1), label, crowd in zip(*(column.tolist() for column in columns), strict=True):
            box = {"bbox": [x0, y0, x1 - x0, y1 - y0], "area": (x1 - x0) * (y1 - y0), "iscrowd": crowd}
            entries.append({**box, "id": len(entries) + 1, "image_id": target.image_id, "category_id": label + 1})
    categories = [{"id": label} for label in range(1, 9)]
    images = [{"id": target.image_id} for target in targets]
    truth.dataset = {"images": images, "categories": categories, "annotations": entries}
    truth.createIndex()
    rows = [row for each, target in zip(found, targets, strict=True) for row in each.to_coco(target.image_id)]
    evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[:6].tolist()


def test_objects_fed_back_are_found_and_those_of_another_image_are_not() -> None:
    _, targets = scene(24, 3, 0, ids=list(range(900, 876, -1)))
    perfect = [as_detections(target) for target in targets]
    assert dataclasses.astuple(average_precision(perfect, targets)) == (1.0,) * 6
    assert average_precision([*perfect[1:], perfect[0]], targets).ap < 0.05
    # Together with their targets the images may come in any order.
    assert average_precision(perfect[::-1], targets[::-1]).ap == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_both_packages_agree_to_the_bit(seed: int) -> None:
    found, targets = scene(30, 5, seed)
    ours = average_precision(found, targets, evaluator="pycocotools")
    assert ours == average_precision(found, targets, evaluator="faster-coco-eval") == average_precision(found, targets)
    assert dataclasses.astuple(ours) == pytest.approx(published(found, targets), abs=1e-8)
    assert 0.05 < ours.ap < 0.9 and ours.small is not None and ours.large is not None


def test_nothing_found_is_precision_of_zero() -> None:
    _, targets = scene(6, 2, 1)
    nothing = [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())] * 6
    small = dataclasses.replace(targets[0], boxes=torch.tensor([[0.0, 0, 9, 9]]), labels=torch.zeros(1).long(),
                                crowd=torch.zeros(1).bool())  # fmt: skip
    assert average_precision(nothing[:1], [small]) == AveragePrecision(0.0, 0.0, 0.0, 0.0, None, None)
    one = [Detections(torch.tensor([[50.0, 50, 60, 60]]), torch.ones(1), torch.zeros(1).long())]
    assert average_precision(one, [small]) == AveragePrecision(0.0, 0.0, 0.0, 0.0, None, None)


def test_a_detection_inside_a_crowd_is_not_wrong_and_areas_are_those_given() -> None:
    boxes = torch.tensor([[0.0, 0, 20, 20], [100, 100, 400, 400]])
    target = Target(boxes, torch.zeros(2).long(), torch.tensor([False, True]), 5, (500, 500))
    many = torch.tensor([[0.0, 0, 20, 20], [120, 120, 150, 150], [200, 200, 240, 240]])
    found = Detections(many, torch.tensor([0.5, 0.9, 0.8]), torch.zeros(3).long())
    assert average_precision([found], [target]).ap == 1.0
    outside = Detections(many + torch.tensor([0.0, 500, 0, 500]), found.scores, found.labels)
    mixed = Detections(
        torch.cat([many, outside.boxes]), torch.cat([found.scores, outside.scores]), torch.zeros(6).long()
    )
    assert average_precision([mixed], [target]).ap < 0.4
    masked = dataclasses.replace(target, areas=torch.tensor([40.0**2, 300.0**2]))
    result = average_precision([found], [masked])
    assert result.small is None and result.medium == 1.0 and result.large is None


def test_the_callers_data_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    found, targets = scene(4, 2, 3)
    before = copy.deepcopy((found, targets))
    average_precision(found, targets)
    for now, then in zip((*found, *targets), (*before[0], *before[1]), strict=True):
        assert torch.equal(now.boxes, then.boxes) and torch.equal(now.labels, then.labels)
    assert capsys.readouterr() == ("", "")


def test_what_has_no_precision_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    found, targets = scene(4, 2, 3)
    with pytest.raises(InputError, match="detections of 3 images for targets of 4"):
        average_precision(found[1:], targets)
    with pytest.raises(InputError, match="an image id occurs twice"):
        average_precision(found[:2], [targets[0], targets[0]])
    nobody = Target(torch.zeros(0, 4), torch.zeros(0).long(), torch.zeros(0).bool(), 1, (9, 9))
    with pytest.raises(InputError, match="no annotated object: average precision is undefined"):
        average_precision(found[:1], [nobody])
    broken = Detections(found[0].boxes, found[0].scores * float("nan"), found[0].labels)
    with pytest.raises(RunError, match="detections of image 0: a score or box is not a finite number"):
        average_precision([broken, *found[1:]], targets)
    monkeypatch.setattr("irepdeploy.detect.coco_metric.find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"needs faster-coco-eval or pycocotools \(pip install irepdeploy\[detect"):
        average_precision(found, targets)
