"""Augmentation of batches of images together with the objects in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from irepdeploy.detect.target import Target, Targets

__all__ = ["ObjectAugmentation", "flipped", "resized"]


@dataclass(frozen=True)
class ObjectAugmentation:
    """Random changes of a batch, drawn from torch's global generator.

    Args:
        flip: Mirror each image with probability 1/2.
        scales: Factors, one of which is drawn to resize each batch; empty for none.
        multiple: Number of which resized heights and widths are multiples.
    """

    flip: bool = False
    scales: tuple[float, ...] = ()
    multiple: int = 32

    def __call__(self, images: Tensor, targets: Sequence[Target]) -> tuple[Tensor, Targets]:
        """Return the changed images (N, C, H, W) and targets."""
        if self.flip:
            images, targets = flipped(images, targets, torch.rand(len(images)) < 0.5)
        if self.scales:
            factor = self.scales[int(torch.randint(len(self.scales), ()))]
            sides = [max(1, round(side * factor / self.multiple)) * self.multiple for side in images.shape[2:]]
            images, targets = resized(images, targets, (sides[0], sides[1]))
        return images, Targets(targets)


def flipped(images: Tensor, targets: Sequence[Target], chosen: Tensor) -> tuple[Tensor, Targets]:
    """Mirror images (N, C, H, W) and their boxes horizontally where `chosen` (N,) is True."""
    width = images.shape[3]
    found = []
    for target, mirrored in zip(targets, chosen.tolist(), strict=True):
        left, top, right, bottom = target.boxes.unbind(1)
        found.append(
            replace(target, boxes=torch.stack([width - right, top, width - left, bottom], 1)) if mirrored else target
        )
    return torch.where(chosen.to(images.device)[:, None, None, None], images.flip(3), images), Targets(found)


def resized(images: Tensor, targets: Sequence[Target], size: tuple[int, int]) -> tuple[Tensor, Targets]:
    """Resize images (N, C, H, W) bilinearly to `size` (height, width), and scale their boxes accordingly."""
    down, across = size[0] / images.shape[2], size[1] / images.shape[3]
    if (down, across) == (1, 1):
        return images, Targets(targets)
    found = []
    for target in targets:
        areas = None if target.areas is None else target.areas * (down * across)
        factors = target.boxes.new_tensor([across, down, across, down])
        # Images changed for training are not scored in pixels of the original image.
        found.append(replace(target, boxes=target.boxes * factors, areas=areas, scale=None))
    grown = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=min(down, across) < 1)
    return grown, Targets(found)
