"""Images of several sizes in one batch, mirrored and resized with their boxes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from irepdeploy.detect.augmentation import ObjectAugmentation, flipped, resized
from irepdeploy.detect.target import Target, Targets, collate
from irepdeploy.errors import InputError
from support.targets import some_targets, target


def painted(targets: list[Target], size: tuple[int, int]) -> Tensor:
    """Return images with bright boxes."""
    images = torch.zeros(len(targets), 1, *size)
    for image, each in zip(images, targets, strict=True):
        for left, top, right, bottom in each.boxes.round().long().tolist():
            image[:, top:bottom, left:right] = 1
    return images


def test_boxes_follow_a_mirrored_image() -> None:
    targets = [target([[3, 5, 20, 9]], [1]), target([[40, 5, 64, 9]], [1])]
    images, found = flipped(painted(targets, (32, 64)), targets, torch.tensor([True, False]))
    assert found[0].boxes.tolist() == [[44, 5, 61, 9]] and found[1] is targets[1]
    assert torch.equal(images, painted(found, (32, 64)))


def test_boxes_follow_a_resized_image() -> None:
    targets = [target([[4, 8, 20, 16]], [1])]
    images, found = resized(painted(targets, (32, 64)), targets, (64, 32))
    assert images.shape == (1, 1, 64, 32) and found[0].boxes.tolist() == [[2, 16, 10, 32]]
    inside = torch.zeros_like(images)
    inside[0, :, 18:30, 4:8] = 1
    assert bool((images[inside > 0] > 0.9).all())


def test_a_batch_is_drawn_by_the_generator() -> None:
    change = ObjectAugmentation(flip=True, scales=(0.5, 1.0, 1.5), multiple=8)
    targets, images = some_targets(), torch.rand(3, 1, 64, 48)
    torch.manual_seed(0)
    drawn = [change(images, targets) for _ in range(12)]
    assert {tuple(each.shape[2:]) for each, _ in drawn} == {(32, 24), (64, 48), (96, 72)}
    torch.manual_seed(0)
    again, boxes = change(images, targets)
    assert torch.equal(again, drawn[0][0]) and torch.equal(boxes[0].boxes, drawn[0][1][0].boxes)
    for each, found in drawn:
        factor = each.shape[2] / 64
        sides = found[1].boxes[0, 2:] - found[1].boxes[0, :2]
        assert sides.tolist() == pytest.approx([12 * factor, 14 * factor])


def test_images_of_several_sizes_are_padded_on_the_right_and_below() -> None:
    samples = [(torch.ones(3, 30, 50), target([], [])), (torch.ones(3, 40, 20), target([[0, 0, 9, 9]], [1]))]
    images, targets = collate(samples)
    assert images.shape == (2, 3, 64, 64) and isinstance(targets, Targets) and len(targets[1]) == 1
    assert images[0, :, :30, :50].min() == 1 and images[0].sum() == 3 * 30 * 50
    same, _ = collate(samples[:1])
    assert same.shape == (1, 3, 30, 50)
    with pytest.raises(InputError, match="the same number of channels"):
        collate([samples[0], (torch.ones(1, 30, 50), target([], []))])


def test_targets_are_split_as_images_are() -> None:
    targets = some_targets()
    assert [len(part) for part in targets.tensor_split(2)] == [len(part) for part in torch.zeros(3).tensor_split(2)]
    assert isinstance(targets[0:2], Targets) and targets[torch.tensor([2, 0])][1] is targets[0]
