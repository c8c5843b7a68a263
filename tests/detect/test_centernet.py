"""CenterNet: heatmaps, radii, loss, decoding."""

from __future__ import annotations

import math

import pytest
import torch

from irepdeploy.detect.centernet import CenterNet
from irepdeploy.detect.coco_metric import average_precision
from irepdeploy.detect.deformable import deformed
from irepdeploy.detect.detections import Detections
from irepdeploy.detect.heatmap import focal_loss, heatmap, radii
from irepdeploy.network.nets import build_plain
from support.targets import some_targets, target


def perfect(net: CenterNet, targets: list, size: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    """Return the heads of a network that predicts the targets exactly."""
    height, width = (side // net.cell for side in size)
    heads = (
        torch.full((len(targets), net.classes, height, width), -9.0),
        *(torch.zeros(len(targets), 2, height, width),) * 2,
    )
    heads = heads[0], heads[1].clone(), heads[2].clone()
    for index, each in enumerate(targets):
        for box, label in zip(*each.trained, strict=True):
            middle = (box[:2] + box[2:]) / 2 / net.cell
            x, y = middle.long().tolist()
            heads[0][index, label, y, x] = 9.0
            heads[1][index, :, y, x] = (box[2:] - box[:2]) / net.cell
            heads[2][index, :, y, x] = middle - middle.floor()
    return heads


def test_decoded_targets_are_the_targets() -> None:
    net = build_plain("centernet_vgg6")
    assert isinstance(net, CenterNet) and net.cell == 4
    targets = some_targets()
    found = Detections.of_batch(*net.decode(*perfect(net, targets, (64, 64))))
    best = [each[each.scores > 0.5] for each in found]
    assert [len(each) for each in best] == [2, 1, 0]
    assert (
        average_precision(
            found,
            [
                target([*map(list, each.trained[0].tolist())], each.trained[1].tolist(), image_id=each.image_id)
                for each in targets
            ],
        ).ap
        == 1.0
    )
    for each, due in zip(best, targets, strict=True):
        order = each.labels.argsort()
        boxes, labels = due.trained
        assert torch.equal(each.labels[order], labels) and torch.allclose(each.boxes[order], boxes, atol=1e-4)


def test_the_loss_of_what_is_wanted_is_small() -> None:
    net, targets = build_plain("centernet_vgg6"), some_targets()
    assert isinstance(net, CenterNet)
    heads = perfect(net, targets, (64, 64))
    net.forward = lambda images: heads  # type: ignore[method-assign]
    parts = net.loss(torch.zeros(3, 1, 64, 64), targets)
    assert set(parts) == {"heatmap", "size", "offset"}
    assert float(sum(parts.values())) < 0.1
    heads[1][0] += 1.0
    # Two objects of three, both sides off by one cell.
    assert float(net.loss(torch.zeros(3, 1, 64, 64), targets)["size"]) == pytest.approx(0.1 * 4 / 6, rel=1e-4)


def test_a_gaussian_peaks_at_the_centre_and_ends_at_the_radius() -> None:
    centres, radius = torch.tensor([[5, 3], [6, 3], [0, 9]]), torch.tensor([2.0, 2.0, 0.0])
    found = heatmap(centres, radius, torch.tensor([1, 1, 0]), 3, (10, 12))
    assert found.shape == (3, 10, 12)
    assert found[1, 3, 5] == 1 and found[1, 3, 6] == 1 and found[0, 9, 0] == 1
    # The maximum of two, a cell away from the nearer.
    assert float(found[1, 3, 4]) == pytest.approx(math.exp(-1 / (2 * (5 / 6) ** 2)))
    assert found[1, 3, 9] == 0 and found[1, 6, 5] == 0
    assert not found[2].any() and found[0].count_nonzero() == 1


def test_radii_keep_the_overlap() -> None:
    sizes = torch.tensor([[20.0, 9.0], [3.0, 30.0], [64.0, 64.0], [0.5, 0.5]])
    found = radii(sizes)
    for (width, height), radius in zip(sizes.tolist(), found.tolist(), strict=True):
        for inside, outside in ((1, 0), (0, 2), (2, 0)):
            # Both corners move inwards, both outwards, or the box moves along the diagonal.
            if inside == 1:
                common = max(width - radius, 0) * max(height - radius, 0)
                union = 2 * width * height - common
            else:
                grown = outside * radius - inside * radius
                common = min(width + grown, width) * min(height + grown, height)
                union = max(width + grown, width) * max(height + grown, height)
            assert common / union >= 0.3 - 1e-9
    assert found.tolist()[3] == 0 and found[2] > found[1]


def test_the_focal_loss_is_that_of_shares() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 2, 5, 5, generator=generator, dtype=torch.float64)
    wanted = torch.rand(1, 2, 5, 5, generator=generator, dtype=torch.float64) * 0.9
    wanted[0, 1, 2, 2] = 1
    share = logits.sigmoid()
    due = -((1 - share) ** 2 * share.log())[wanted == 1].sum()
    due = due - (share**2 * (1 - share).log() * (1 - wanted) ** 4)[wanted < 1].sum()
    assert float(focal_loss(logits, wanted)) == pytest.approx(float(due))
    assert torch.isfinite(focal_loss(logits * 1e4, wanted))


def test_without_moves_a_deformable_convolution_is_a_convolution() -> None:
    x, weight, bias = torch.randn(2, 3, 6, 7), torch.randn(4, 3, 3, 3), torch.randn(4)
    found = deformed(x, torch.zeros(2, 18, 6, 7), torch.ones(2, 9, 6, 7), weight, bias, 1)
    assert torch.allclose(found, torch.nn.functional.conv2d(x, weight, bias, padding=1), atol=1e-4)
    # All taps one down and two to the right read the moved image.
    moves = torch.tensor([1.0, 2.0]).repeat(9)[:, None, None].expand(2, 18, 6, 7)
    moved = torch.nn.functional.pad(x, (0, 2, 0, 1))[:, :, 1:, 2:]
    found = deformed(x, moves, torch.full((2, 9, 6, 7), 0.5), weight, None, 1)
    due = torch.nn.functional.conv2d(moved, weight, padding=1) / 2
    assert torch.allclose(found[:, :, 1:-1, 1:-1], due[:, :, 1:-1, 1:-1], atol=1e-4)
