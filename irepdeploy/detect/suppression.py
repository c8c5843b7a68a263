"""Exact non-maximum suppression with static shapes, as the fixed point of matrix products."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from irepdeploy.detect.boxes import overlapping
from irepdeploy.detect.torchvision_operators import torchvision_operators

__all__ = ["kept"]


def kept(
    boxes: Tensor, threshold: float, valid: Tensor, groups: Tensor | None = None, rounds: int | None = None
) -> Tensor:
    """Return a mask (..., k), 1 or 0, of the boxes that greedy suppression keeps.

    A box is kept if no better box that is kept overlaps it. Starting with all boxes, each round applies this rule to
    the previous result. By induction, the i-th box is correct after i rounds, so the fixed point equals the result of
    the greedy loop. A chain of boxes, each overlapping the next, needs as many rounds as it has boxes, but this is
    rare: two rounds were enough in 40 images with 300 random boxes.

    Args:
        boxes: Boxes (..., k, 4) in order of decreasing score.
        threshold: Intersection over union above which the lower-scoring box is suppressed.
        valid: Mask (..., k), 0 for boxes to ignore.
        groups: Group (..., k) of each box, such as its class. Only boxes of the same group suppress each other.
        rounds: Number of rounds, for a static graph; None to continue until nothing changes.
    """
    operators = torchvision_operators(boxes) if rounds is None else None
    if operators is not None:
        return _by_torchvision(operators, boxes, threshold, valid, groups)
    count = boxes.shape[-2]
    clash = overlapping(boxes, boxes, threshold).to(boxes.dtype)
    if groups is not None:
        clash = clash * (groups[..., :, None] == groups[..., None, :]).to(boxes.dtype)
    # Row i marks the better boxes that overlap box i.
    clash = clash * torch.ones(count, count, dtype=boxes.dtype, device=boxes.device).tril(-1)
    valid = valid.to(boxes.dtype)
    found = valid
    for _ in range(count if rounds is None else rounds):
        before = found
        found = valid * (torch.matmul(clash, before[..., None])[..., 0] == 0).to(boxes.dtype)
        # On the meta device, which is used for counting costs, tensors have no values.
        if rounds is None and (found.is_meta or torch.equal(found, before)):
            break
    return found


def _by_torchvision(operators: Any, boxes: Tensor, threshold: float, valid: Tensor, groups: Tensor | None) -> Tensor:
    """Compute the same with ``torchvision.ops.nms``, separately for each image and group."""
    found = torch.zeros(boxes.shape[:-1], dtype=boxes.dtype, device=boxes.device)
    # Add an axis of images if there is none; `marks` is a view.
    flat, marks, counted = boxes.detach()[None].flatten(0, -3), found[None].flatten(0, -2), valid[None].flatten(0, -2)
    kinds = torch.zeros_like(marks) if groups is None else groups[None].flatten(0, -2)
    for image, counts in enumerate(counted > 0):
        for kind in kinds[image][counts].unique():
            mine = (counts & (kinds[image] == kind)).nonzero()[:, 0]
            # The boxes are already sorted, so any decreasing scores will do.
            scores = torch.arange(len(mine), 0, -1, device=boxes.device, dtype=boxes.dtype)
            marks[image, mine[operators.nms(flat[image, mine], scores, threshold)]] = 1
    return found
