"""Which boxes stand for which objects in training, and which of them a step is computed on."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["BACKGROUND", "IGNORED", "assigned", "sampled"]

BACKGROUND, IGNORED = -1, -2


def assigned(overlaps: Tensor, *, positive: float, negative: float, least: float | None = None) -> Tensor:
    """Return the object (k,) int64 of each box, BACKGROUND or IGNORED.

    Args:
        overlaps: (k, n) intersection over union of boxes and objects.
        positive: A box stands for the object that it overlaps most if by at least this.
        negative: Boxes that overlap all objects by less than this are background; those in between are ignored.
        least: An object also takes the boxes that overlap it most, all of several, if by at least this; None: not so.
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
    """Draw boxes for a step: at most a share of positive ones, the rest background, `count` together.

    Args:
        objects: (k,) of `assigned`.
        count: Number of boxes.
        share: Largest share of positive boxes.

    Returns:
        Indices of the positive boxes and of those of the background.
    """
    positive = _drawn(objects >= 0, int(count * share))
    return positive, _drawn(objects == BACKGROUND, count - len(positive))


def _drawn(chosen: Tensor, most: int) -> Tensor:
    found = chosen.nonzero()[:, 0]
    if len(found) <= most:
        return found
    # Drawn on the CPU, so that every device draws alike.
    return found[torch.randperm(len(found))[:most].to(found.device)]
