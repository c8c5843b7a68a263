from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from irepdeploy.data import dataset_facts, load_objects, real_inputs
from irepdeploy.data.shapes import _digits, shapes
from irepdeploy.errors import InputError


def test_canvases_are_reproducible_and_hold_their_facts() -> None:
    data, again = shapes(train=40, val=3, test=3), shapes(train=40, val=5, test=9)
    assert torch.equal(data.train.images.values, again.train.images.values)  # type: ignore[attr-defined]
    image, target = data.train[0]
    assert image.shape == (1, 64, 64) == data.input_shape and image.dtype == torch.float32
    assert target.size == (64, 64) and target.image_id == 1 and not target.crowd.any()
    assert torch.equal(again.val[2][0], data.val[2][0]) and len(data.load_test()) == 3
    assert not torch.equal(shapes(train=2, val=1, seed=1).train[0][0], image)
    facts = dataset_facts("shapes")
    assert facts is not None and facts.classes == data.classes == tuple("0123456789")
    whole = data.train.images[0:40]  # type: ignore[attr-defined]
    assert abs(float(whole.mean())) < 0.3 and 0.4 < float(whole.std()) < 1.2


def test_boxes_are_tight_around_the_ink() -> None:
    # Noise stays below 0.6, and most ink is above.
    data = shapes(train=200, val=1, size=96)
    gaps = []
    for index in range(200):
        canvas = data.train.images.values[index, 0].numpy() / 255  # type: ignore[attr-defined]
        for left, top, right, bottom in data.train[index][1].boxes.int().tolist():
            assert 0 <= left < right <= 96 and 0 <= top < bottom <= 96
            bright = canvas[top:bottom, left:right] > 0.6
            if bright.sum() < 30:
                continue
            rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
            gaps.append([rows[0], columns[0], bottom - top - 1 - rows[-1], right - left - 1 - columns[-1]])
    # A tile of 8x8 pixels has a margin of two columns, which here is up to ten pixels.
    assert len(gaps) > 100 and np.mean(gaps) < 3.5


@pytest.mark.parametrize("background", ["noise", "photographs"])
def test_objects_hardly_overlap(background: str) -> None:
    data = shapes(train=30, val=1, background=background)
    counts = {len(data.train[index][1]) for index in range(30)}
    assert counts == {1, 2, 3}
    for index in range(30):
        boxes = data.train[index][1].boxes
        for one in range(len(boxes)):
            for other in range(one):
                corner, end = torch.maximum(boxes[one], boxes[other])[:2], torch.minimum(boxes[one], boxes[other])[2:]
                inside = (end - corner).clamp(min=0).prod()
                sides = boxes[[one, other], 2:] - boxes[[one, other], :2]
                assert inside <= 0.1001 * (sides.prod(1).sum() - inside)


def test_no_digit_is_in_two_sets() -> None:
    drawings, _ = _digits(None)
    seen = [{tile.tobytes() for tile in drawings(name)[0]} for name in ("train", "val", "test")]
    assert [len(part) for part in seen] == [1200, 300, 297]
    assert len(set.union(*seen)) == 1797


def test_articles_come_from_fashion_mnist(requires_debian: Callable[[str, str], str]) -> None:
    requires_debian("dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist")
    data = load_objects("shapes", source="fashion", size=96, train=3, val=1)
    assert data.classes[9] == "Ankle boot" and data.train[0][0].shape == (1, 96, 96)


def test_real_inputs_of_a_detector_are_canvases() -> None:
    images, name = real_inputs((1, 48, 48), 3, "shapes")
    assert images.shape == (3, 1, 48, 48) and name == "data set shapes"
    assert real_inputs((3, 48, 48), 2, "shapes")[1] == real_inputs((3, 48, 48), 2, "coco")[1] != name


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"source": "letters"}, "data option source: expected digits or fashion, got 'letters'"),
        ({"background": "sky"}, "data option background: expected noise or photographs, got 'sky'"),
        ({"size": 16}, "data option size: expected an integer from 32 to 1024, got 16"),
        ({"train": 1}, "data option train: expected an integer at least 2, got 1"),
        ({"root": "/x"}, r"data.root: the digits need no files \(omit it, or data.options.source=fashion\)"),
    ],
)
def test_wrong_options_are_named(options: dict[str, object], line: str) -> None:
    with pytest.raises(InputError, match=line):
        load_objects("shapes", **options)
