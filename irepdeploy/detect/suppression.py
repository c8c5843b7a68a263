"""Non-maximum suppression as a fixed point of matrix products, which is exact and has static shapes."""

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
    """Return which boxes greedy suppression keeps: (..., k) float, 1 or 0.

    A box is kept if no better one that is kept overlaps it. Starting from all of them, each round applies that rule to
    the result of the last. By induction over the order the i-th box is right after i rounds, so the fixed point is what
    the greedy loop gives. A chain of boxes that each overlap the next takes as many rounds as it has boxes, which is
    rare: two rounds were enough in 40 images of 300 random boxes.

    Args:
        boxes: (..., k, 4) by falling score.
        threshold: Intersection over union above which the lower score goes.
        valid: (..., k): 0 for boxes that take no part.
        groups: (..., k): only boxes of one group, such as a class, suppress each other.
        rounds: Number of rounds, for a static graph; None: until nothing changes.
    """
    operators = torchvision_operators(boxes) if rounds is None else None
    if operators is not None:
        return _by_torchvision(operators, boxes, threshold, valid, groups)
    count = boxes.shape[-2]
    clash = overlapping(boxes, boxes, threshold).to(boxes.dtype)
    if groups is not None:
        clash = clash * (groups[..., :, None] == groups[..., None, :]).to(boxes.dtype)
    # Row i has the better ones that overlap box i.
    clash = clash * torch.ones(count, count, dtype=boxes.dtype, device=boxes.device).tril(-1)
    valid = valid.to(boxes.dtype)
    found = valid
    for _ in range(count if rounds is None else rounds):
        before = found
        found = valid * (torch.matmul(clash, before[..., None])[..., 0] == 0).to(boxes.dtype)
        # On the meta device, where costs are counted, nothing has a value.
        if rounds is None and (found.is_meta or torch.equal(found, before)):
            break
    return found


def _by_torchvision(operators: Any, boxes: Tensor, threshold: float, valid: Tensor, groups: Tensor | None) -> Tensor:
    """Return the same by ``torchvision.ops.nms``, which takes the boxes of an image and a group at a time."""
    found = torch.zeros(boxes.shape[:-1], dtype=boxes.dtype, device=boxes.device)
    # An axis of images where there is none; `marks` is a view.
    flat, marks, counted = boxes.detach()[None].flatten(0, -3), found[None].flatten(0, -2), valid[None].flatten(0, -2)
    kinds = torch.zeros_like(marks) if groups is None else groups[None].flatten(0, -2)
    for image, counts in enumerate(counted > 0):
        for kind in kinds[image][counts].unique():
            mine = (counts & (kinds[image] == kind)).nonzero()[:, 0]
            # They come by falling score already.
            scores = torch.arange(len(mine), 0, -1, device=boxes.device, dtype=boxes.dtype)
            marks[image, mine[operators.nms(flat[image, mine], scores, threshold)]] = 1
    return found
