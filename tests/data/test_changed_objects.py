"""Training images of detectors with other colours and cropped, against the definitions."""

from __future__ import annotations

import colorsys
import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from irepdeploy.data import distortion
from irepdeploy.data.centre_crop import CentreCrop
from irepdeploy.data.changed_objects import ChangedObjects, RawObjects
from irepdeploy.data.colours import turned
from irepdeploy.data.distortion import distorted
from irepdeploy.data.shapes import SHAPES, shapes
from support.targets import target


def some_pixels() -> Tensor:
    return torch.randint(0, 256, (3, 9, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def by_colorsys(pixels: Tensor, saturation: float, turn: float) -> Tensor:
    rows = []
    for red, green, blue in (pixels.flatten(1).T.double() / 255).tolist():
        hue, share, value = colorsys.rgb_to_hsv(red, green, blue)
        rows.append(colorsys.hsv_to_rgb((hue + turn) % 1, min(1.0, share * saturation), value))
    return 255 * torch.tensor(rows).T.reshape(pixels.shape)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.5])
def test_saturation_and_hue_are_those_of_hsv(factor: float) -> None:
    pixels = some_pixels()
    found = distortion._saturated(pixels.float(), factor)
    assert torch.allclose(found, by_colorsys(pixels, factor, 0.0), atol=1e-3)
    found = turned(pixels.float()[None], torch.tensor([0.04 * factor]))[0]
    assert torch.allclose(found, by_colorsys(pixels, 1.0, 0.04 * factor), atol=1e-3)


def test_what_is_darker_than_black_stays_finite() -> None:
    pixels = some_pixels().float() - 200
    for factor in (0.5, 1.5):
        assert torch.isfinite(distortion._saturated(pixels, factor)).all()
    assert torch.equal(distortion._saturated(torch.zeros(3, 2, 2), 1.5), torch.zeros(3, 2, 2))


def test_colours_are_drawn_within_their_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    grey = torch.full((1, 2, 2), 100, dtype=torch.uint8)
    torch.manual_seed(0)
    drawn = torch.stack([distorted(grey)[0, 0, 0] for _ in range(200)])
    assert 40 < int((drawn == 100).sum()) < 65 and drawn.min() >= 34 and drawn.max() <= 198
    assert drawn.min() < 60 and drawn.max() > 140
    # With every change, contrast first multiplies and contrast last multiplies what the others made.
    monkeypatch.setattr(distortion, "_coin", lambda: True)
    monkeypatch.setattr(distortion, "_uniform", lambda low, high: high)
    found = distorted(some_pixels())
    order = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
    wanted = turned(distortion._saturated((some_pixels().float() + 32) * 1.5, 1.5)[None], torch.tensor([18 / 360]))[0]
    assert any(torch.allclose(found, wanted[each], atol=1e-4) for each in order)


def painted(height: int, width: int, boxes: list[list[float]]) -> Tensor:
    image = torch.full((1, height, width), 50, dtype=torch.uint8)
    for left, top, right, bottom in np.array(boxes, int).tolist():
        image[:, top:bottom, left:right] = 250
    return image


@pytest.mark.parametrize(("height", "width"), [(70, 41), (33, 200), (300, 200), (1, 1)])
def test_boxes_follow_a_crop(height: int, width: int) -> None:
    boxes = [[width * 0.1, height * 0.2, width * 0.5, height * 0.6], [width * 0.7, 0, width, height * 0.3]]
    boxes = [[float(round(value)) for value in box] for box in boxes] if height > 1 else [[0.0, 0.0, 1.0, 1.0]]
    objects = dataclasses.replace(target(boxes, list(range(len(boxes)))), areas=torch.full((len(boxes),), 8.0))
    change = CentreCrop(64, (0.6, 1.0, 1.3))
    torch.manual_seed(0)
    seen = set()
    for _ in range(20):
        image, found = change(painted(height, width, boxes), objects)
        assert image.shape == (1, 64, 64) and image.dtype == torch.float32 and len(found) >= 1
        assert found.scale is None and bool((found.boxes >= 0).all()) and bool((found.boxes <= 64).all())
        seen.add(len(found))
        bright = torch.zeros(64, 64, dtype=torch.bool)
        for left, top, right, bottom in found.boxes.tolist():
            inner = image[0, round(top) + 1 : round(bottom) - 1, round(left) + 1 : round(right) - 1]
            assert inner.numel() == 0 or inner.min() > 150
            bright[int(top) : int(bottom) + 1, int(left) : int(right) + 1] = True
        if len(found) == len(boxes):
            # Nothing outside of the boxes, where the image is dark or, beyond its border, black.
            assert image[0][~bright].max() < 150
    assert seen <= {1, 2}


def test_an_image_that_fits_is_surrounded_by_black() -> None:
    image, found = CentreCrop(64)(torch.full((3, 20, 20), 200, dtype=torch.uint8), target([[2, 3, 9, 8]], [4]))
    assert int((image[0] == 200).sum()) == 400 and int((image == 0).sum()) == 3 * (64 * 64 - 400)
    left, top = (image[0] == 200).nonzero().min(0).values.flip(0).tolist()
    assert found.boxes.tolist() == [[left + 2, top + 3, left + 9, top + 8]]


def test_objects_without_a_centre_in_the_image_do_not_end_in_a_loop() -> None:
    pixels = torch.zeros(3, 64, 64, dtype=torch.uint8)
    for boxes in ([], [[60.0, 60.0, 300.0, 300.0]]):
        image, found = CentreCrop(32)(pixels, target(boxes, [0] * len(boxes)))
        assert image.shape == (3, 32, 32) and len(found) == 0


def test_centres_keep_off_the_border_as_mmdetection_has_it() -> None:
    torch.manual_seed(0)
    from irepdeploy.data.centre_crop import _centre

    # size: least and greatest centre, from the formula of RandomCenterCropPad.
    for size, (low, high) in {640: (128, 511), 480: (128, 351), 256: (64, 191), 100: (32, 67), 64: (16, 47)}.items():
        drawn = [_centre(size) for _ in range(2000)]
        assert (min(drawn), max(drawn)) == (low, high)


def test_images_are_changed_before_they_are_normalized() -> None:
    data = shapes(train=4, val=1, size=48)
    assert isinstance(data.train, RawObjects)
    plain = ChangedObjects(data.train, False, None)
    assert len(plain) == 4 and torch.equal(plain[2][0], data.train[2][0])
    changed = ChangedObjects(data.train, True, CentreCrop(32, (2.0,)))
    torch.manual_seed(0)
    image, found = changed[1]
    torch.manual_seed(0)
    assert torch.equal(changed[1][0], image) and image.shape == (1, 32, 32) and len(found)
    # The black around a small image is black after normalization too.
    assert image.min() == pytest.approx(-SHAPES.mean[0] / SHAPES.std[0])
