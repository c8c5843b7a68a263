"""Equality with torchvision's detector and operators where it can be imported, as where `make ecosystem` runs."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from irepdeploy.detect import torchvision_operators
from irepdeploy.detect.detections import Detections
from irepdeploy.detect.roi import RoIAlign
from irepdeploy.detect.suppression import kept
from irepdeploy.network.nets import build_plain
from irepdeploy.network.nets.statistics import randomize_statistics
from irepdeploy.network.state_dict import fitted
from irepdeploy.network.weights import load_weights


@pytest.fixture(scope="module")
def torchvision() -> Any:
    operators = torchvision_operators.torchvision_operators(torch.zeros(()))
    if operators is None:
        pytest.skip("torchvision cannot be imported beside this torch")
    import torchvision

    return torchvision


def test_operators_are_those_of_torchvision(torchvision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(300, 2, generator=generator) * 100
    boxes = torch.cat([corners, corners + 1 + torch.rand(300, 2, generator=generator) * 40], 1)
    keep = torchvision.ops.nms(boxes, torch.arange(300, 0, -1).float(), 0.5)
    assert kept(boxes, 0.5, torch.ones(300)).nonzero()[:, 0].tolist() == keep.tolist()
    maps = [torch.randn(1, 4, 38, 37, generator=generator)]
    boxes = boxes.clamp(max=148)
    boxes[0] = torch.tensor([147.9, 151.9, 148.0, 152.0])
    for samples in (1, 2):
        for aligned in (False, True):
            for training in (False, True):
                pool = RoIAlign((4,), side=7, samples=samples, aligned=aligned).train(training)
                wanted = torchvision.ops.roi_align(maps[0], [boxes], 7, 0.25, samples, aligned)
                assert torch.allclose(pool(maps, boxes[None])[0], wanted, atol=2e-5)
                with monkeypatch.context() as patch:
                    patch.setattr(torchvision_operators, "_imported", lambda: None)
                    assert torch.allclose(pool(maps, boxes[None])[0], wanted, atol=2e-5)


def test_suppression_is_that_of_plain_torch(torchvision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(3, 400, 2, generator=generator) * 100
    boxes = torch.cat([corners, corners + 1 + torch.rand(3, 400, 2, generator=generator) * 40], -1)
    valid = (torch.rand(3, 400, generator=generator) < 0.9).float()
    groups = torch.randint(5, (3, 400), generator=generator)
    for mine in (None, groups):
        for threshold in (0.3, 0.5, 0.7):
            found = kept(boxes, threshold, valid, mine)
            with monkeypatch.context() as patch:
                patch.setattr(torchvision_operators, "_imported", lambda: None)
                assert torch.equal(found, kept(boxes, threshold, valid, mine)) and 0 < found.sum() < valid.sum()


def test_gradients_are_those_of_plain_torch(torchvision: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    corners = torch.rand(2, 30, 2, generator=generator) * 90
    boxes = torch.cat([corners, corners + 1 + torch.rand(2, 30, 2, generator=generator) * 40], -1)
    maps = [torch.randn(2, 4, 140 // stride, 140 // stride, generator=generator) for stride in (4, 8)]
    gradients = []
    for operators in (torchvision.ops, None):
        monkeypatch.setattr(torchvision_operators, "_imported", lambda operators=operators: operators)
        leaves = [each.clone().requires_grad_() for each in maps]
        RoIAlign((4, 8), side=5, finest=14).train()(leaves, boxes).square().sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    for one, other in zip(*gradients, strict=True):
        assert one is not None and torch.allclose(one, other, atol=1e-3, rtol=1e-4)


def test_its_weights_find_what_it_finds(torchvision: Any) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    randomize_statistics(theirs)
    with torch.no_grad():
        # Scores that differ, and some above the threshold.
        theirs.rpn.head.cls_logits.weight.mul_(0.2)
        theirs.rpn.head.bbox_pred.weight.mul_(0.02)
        theirs.roi_heads.box_predictor.cls_score.weight.mul_(0.05)
        theirs.roi_heads.box_predictor.bbox_pred.weight.mul_(0.02)
    theirs.eval()
    ours = build_plain("faster_rcnn_resnet50_fpn", num_classes=90, rounded=True, aligned=False).eval()
    found, _ = fitted(ours, theirs.state_dict())
    load_weights(ours, found, "torchvision")
    images = torch.randn(2, 3, 128, 192)
    with torch.no_grad():
        sizes = [(128, 192)] * 2
        listed = torchvision.models.detection.image_list.ImageList(images, sizes)
        features = theirs.backbone(images)
        proposals, _ = theirs.rpn(listed, features)
        wanted, _ = theirs.roi_heads(features, proposals, sizes)
        mine = Detections.of_batch(*ours.decode(*ours(images)))
    for each, due in zip(mine, wanted, strict=True):
        assert len(each) == len(due["scores"]) > 10
        assert torch.allclose(each.scores, due["scores"], atol=1e-4)
        assert torch.equal(each.labels + 1, due["labels"])
        assert torch.allclose(each.boxes, due["boxes"], atol=1e-2)
