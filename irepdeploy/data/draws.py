"""Random numbers of augmentation, drawn on the CPU before an epoch."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["Draws"]


@dataclass(frozen=True)
class Draws:
    """Random numbers for N images; None for a disabled augmentation.

    Args:
        shifts: (N, 2) top left corners of the crops in the padded images.
        flips: (N,) bool, whether an image is flipped horizontally.
        holes: (N, 2) centres of the cutout squares.
        seeds: (N,) seeds of the random crops of decoded images.
        areas: (N, 4) boxes of the random crops of images in memory; a box is (top, left, height, width).
        operations: (N, R) operations of RandAugment, and (N, R) their signs; they stay on the CPU.
        jitters: (N, 4) factors of brightness, contrast and saturation, and shifts of the hue.
        erased: (N, 4) boxes of random erasing, empty ones where nothing is erased.
        shares: (N,) what an image keeps of itself in mixup and CutMix.
        pasted: (N, 4) boxes of CutMix, empty ones for mixup.
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
        """Move the draws to a device, except the operations of RandAugment."""
        stay = ("operations", "signs")
        moved = {name: all_.to(device) for name, all_ in vars(self).items() if all_ is not None and name not in stay}
        return replace(self, **moved)
