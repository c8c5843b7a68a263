"""Assignment of boxes to objects in training, and sampling of the boxes for a step."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BACKGROUND", "IGNORED", "assigned", "sampled"]

BACKGROUND, IGNORED = -1, -2


def assigned(overlaps: Tensor, *, positive: float, negative: float, least: float | None = None) -> Tensor:
    """Return the index (k,) int64 of the object assigned to each box, or BACKGROUND or IGNORED.

    Args:
        overlaps: Intersection over union (k, n) of boxes and objects.
        positive: Minimum overlap at which a box is assigned to the object that it overlaps most.
        negative: Overlap with all objects below which a box is background. Boxes in between are ignored.
        least: Minimum overlap at which an object also gets the boxes that overlap it most, including ties; None to
            disable this.
    """
    if not overlaps.shape[1]:
        return torch.full(overlaps.shape[:1], BACKGROUND, device=overlaps.device)
    most, index = overlaps.max(1)
    found = torch.where(most >= positive, index, torch.where(most < negative, BACKGROUND, IGNORED))
    if least is not None:
        best = overlaps.max(0).values
        for number in range(overlaps.shape[1]):
            taken = (overlaps[:, number] == best[number]) & (best[number] >= least)
            found = torch.where(taken, number, found)
    return found


def sampled(objects: Tensor, count: int, share: float) -> tuple[Tensor, Tensor]:
    """Draw the boxes for a step: up to a share of positive boxes, filled up with background.

    Args:
        objects: Result (k,) of `assigned`.
        count: Number of boxes.
        share: Maximum share of positive boxes.

    Returns:
        Indices of the positive boxes and of the background boxes.
    """
    positive = _drawn(objects >= 0, int(count * share))
    return positive, _drawn(objects == BACKGROUND, count - len(positive))


def _drawn(chosen: Tensor, most: int) -> Tensor:
    found = chosen.nonzero()[:, 0]
    if len(found) <= most:
        return found
    # Draw on the CPU, so that the result does not depend on the device.
    return found[torch.randperm(len(found))[:most].to(found.device)]
