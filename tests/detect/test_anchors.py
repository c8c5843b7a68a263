"""Anchors: their number, positions and shapes, and their assignment to objects."""

from __future__ import annotations

import torch

from irepdeploy.detect.anchors import Anchors
from irepdeploy.detect.assignment import BACKGROUND, IGNORED, assigned, sampled
from irepdeploy.detect.boxes import areas
from irepdeploy.detect.fpn import FPN

STRIDES = (4, 8, 16, 32, 64)


def test_a_pyramid_of_800x1280_has_255780() -> None:
    anchors, like = Anchors(STRIDES), torch.zeros(())
    maps = FPN((1, 1, 1, 1), 1)([torch.zeros(1, 1, 800 // stride, 1280 // stride) for stride in STRIDES[:4]])
    sizes = [(each.shape[2], each.shape[3]) for each in maps]
    assert sum(len(anchors.of(level, size, like)) for level, size in enumerate(sizes)) == 255_780


def test_shapes_have_one_area_and_the_ratios() -> None:
    found = Anchors((4, 8)).of(1, (2, 3), torch.zeros((), dtype=torch.float64))
    assert found.shape == (2 * 3 * 3, 4)
    assert torch.allclose(areas(found), torch.full((18,), 64.0**2, dtype=torch.float64))
    sides = found[:, 2:] - found[:, :2]
    assert torch.allclose(sides[:3, 1] / sides[:3, 0], torch.tensor([0.5, 1, 2], dtype=torch.float64))
    centres = (found[:, :2] + found[:, 2:]) / 2
    # Row by row, the three of a cell together, at its corner.
    assert centres[::3].tolist() == [[0, 0], [8, 0], [16, 0], [0, 8], [8, 8], [16, 8]]


def test_rounded_ones_are_torchvision_s() -> None:
    found = Anchors((4,), rounded=True).of(0, (1, 1), torch.zeros(()))
    assert found.tolist() == [[-23, -11, 23, 11], [-16, -16, 16, 16], [-11, -23, 11, 23]]


def test_assignment_by_hand() -> None:
    overlaps = torch.tensor([[0.8, 0.1], [0.5, 0.4], [0.5, 0.1], [0.1, 0.4], [0.1, 0.2], [0.75, 0.3]])
    assert assigned(overlaps, positive=0.7, negative=0.3, least=0.3).tolist() == [0, 1, IGNORED, 1, BACKGROUND, 0]
    assert assigned(overlaps, positive=0.5, negative=0.5).tolist() == [0, 0, 0, BACKGROUND, BACKGROUND, 0]
    assert assigned(torch.zeros(3, 0), positive=0.5, negative=0.5).tolist() == [BACKGROUND] * 3
    # An object without overlapping anchors is assigned none.
    assert assigned(torch.zeros(2, 1), positive=0.7, negative=0.3, least=0.3).tolist() == [BACKGROUND] * 2


def test_a_sample_has_its_share_and_is_filled_up() -> None:
    objects = torch.tensor([0] * 10 + [IGNORED] * 5 + [BACKGROUND] * 40)
    positive, negative = sampled(objects, 16, 0.25)
    assert len(positive) == 4 and len(negative) == 12
    assert bool((objects[positive] == 0).all()) and bool((objects[negative] == BACKGROUND).all())
    assert len(set(negative.tolist())) == 12
    few, many = sampled(objects[8:], 16, 0.25)
    assert len(few) == 2 and len(many) == 14
