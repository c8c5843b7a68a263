from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from irepdeploy.detect.detections import Detections
from irepdeploy.errors import InputError


def found(image: object = None) -> Detections:
    boxes = torch.tensor([[10.0, 20, 40, 30], [-5, 2, 20, 90], [60, 60, 61, 61]])
    return Detections(boxes, torch.tensor([0.3, 0.9, 0.5]), torch.tensor([1, 0, 11]), ("a cup", "tie"), (), image)


def test_coco_entries_are_left_top_width_height() -> None:
    entries = found().to_coco(17)
    assert entries[0] == {
        "image_id": 17,
        "category_id": 2,
        "bbox": [10.0, 20.0, 30.0, 10.0],
        "score": pytest.approx(0.3),
    }
    ids = Detections(torch.zeros(1, 4), torch.ones(1), torch.tensor([1]), ("a", "b"), (1, 90)).to_coco(1)
    assert ids[0]["category_id"] == 90


def test_the_best_come_first_and_a_threshold_cuts() -> None:
    assert found().above(0.5).labels.tolist() == [0, 11]
    assert found().above(0.95).to_coco(1) == [] and len(found().above(0)) == 3


def test_detections_are_the_valid_rows_of_a_batch() -> None:
    boxes = torch.arange(24.0).view(2, 3, 4)
    scores, classes = torch.rand(2, 3), torch.tensor([[0, 1, 2], [2, 1, 0]], dtype=torch.int32)
    first, second = Detections.of_batch(
        torch.tensor([[2], [0]], dtype=torch.int32), boxes, scores, classes, names=("a",)
    )
    assert torch.equal(first.boxes, boxes[0, :2]) and first.labels.tolist() == [0, 1] and first.names == ("a",)
    assert len(second) == 0 and second.to_coco(3) == []


@pytest.mark.parametrize("image", [np.zeros((100, 80), np.uint8), np.zeros((100, 80, 3), np.uint8)])
def test_boxes_are_drawn_on_an_enlarged_copy(image: np.ndarray) -> None:  # type: ignore[type-arg]
    drawn = found(image).draw()
    assert drawn.size == (320, 400) and not image.any()
    pixels = np.asarray(drawn)
    # The left edge of the first box has the second colour, and its middle is unchanged.
    assert tuple(pixels[25 * 4, 10 * 4]) == (0x00, 0x72, 0xB2) and not pixels[28 * 4, 30 * 4].any()
    large = Image.new("L", (1000, 500))
    assert found().draw(large).size == (1000, 500)


def test_detections_without_an_image_or_of_other_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"these detections contain no image \(pass it: \.draw\(image\)\)"):
        found().draw()
    with pytest.raises(InputError, match=r"expected boxes \(n, 4\), scores \(n,\) and labels \(n,\), got"):
        Detections(torch.zeros(2, 4), torch.zeros(1), torch.zeros(2).long())
