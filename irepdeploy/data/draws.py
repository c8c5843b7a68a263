"""The random numbers of an augmentation, drawn on the CPU before an epoch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Draws"]


@dataclass(frozen=True)
class Draws:
    """The random numbers for N images; None for a disabled augmentation.

    Args:
        shifts: Top left corners (N, 2) of the crops in the padded images.
        flips: Whether each image is flipped horizontally, (N,) bool.
        holes: Centres (N, 2) of the cutout squares.
        seeds: Seeds (N,) of the random crops of decoded images.
        areas: Boxes (N, 4) of the random crops of images in memory; a box is (top, left, height, width).
        operations: Operations (N, R) of RandAugment, which stay on the CPU.
        signs: Signs (N, R) of these operations, which stay on the CPU.
        jitters: Factors of brightness, contrast and saturation, and shifts of the hue, (N, 4).
        erased: Boxes (N, 4) of random erasing; empty where nothing is erased.
        shares: Share (N,) that each image keeps of itself in mixup and CutMix.
        pasted: Boxes (N, 4) of CutMix; empty for mixup.
    """

    shifts: Tensor | None = None
    flips: Tensor | None = None
    holes: Tensor | None = None
    seeds: Tensor | None = None
    areas: Tensor | None = None
    operations: Tensor | None = None
    signs: Tensor | None = None
    jitters: Tensor | None = None
    erased: Tensor | None = None
    shares: Tensor | None = None
    pasted: Tensor | None = None

    def __getitem__(self, part: slice) -> Draws:
        return replace(self, **{name: None if all_ is None else all_[part] for name, all_ in vars(self).items()})

    def to(self, device: torch.device | str) -> Draws:
        """Move the draws to a device, except the operations and signs of RandAugment."""
        stay = ("operations", "signs")
        moved = {name: all_.to(device) for name, all_ in vars(self).items() if all_ is not None and name not in stay}
        return replace(self, **moved)
