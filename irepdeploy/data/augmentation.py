"""Augmentation of whole batches on their device: random crop, flip and cutout, all from one generator.

What happens to each image of an epoch is drawn before it starts, on the CPU: the draws do not depend on the device, on
the batch size or on how many processes share the work.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from irepdeploy.errors import InputError

__all__ = ["Augmentation", "Draws"]


@dataclass(frozen=True)
class Draws:
    """What was drawn for N images; None of what an augmentation does not do.

    Args:
        shifts: (N, 2) upper left corners of the crops in the padded images.
        flips: (N,) whether left and right change places.
        holes: (N, 2) centres of the cut-out squares.
        seeds: (N,) seeds of the crops of images that are decoded.
    """

    shifts: Tensor | None = None
    flips: Tensor | None = None
    holes: Tensor | None = None
    seeds: Tensor | None = None

    def __getitem__(self, part: slice) -> Draws:
        return replace(self, **{name: None if all_ is None else all_[part] for name, all_ in vars(self).items()})

    def to(self, device: torch.device | str) -> Draws:
        """The same draws in the memory of a device."""
        return replace(self, **{name: None if all_ is None else all_.to(device) for name, all_ in vars(self).items()})


@dataclass(frozen=True)
class Augmentation:
    """What is done to training images, in this order.

    Args:
        crop: pixels of padding on each side, black, before a random crop of the size that was; images in memory. A
            tensor that is normalised already is padded with 0, its mean.
        area: the smallest share of the image that a random crop has, which is resized to the input (Szegedy et al.
            2015; 0.08 for ImageNet); images that are decoded. 1: the centre.
        flip: left and right change places in half the images.
        cutout: side of a square that is set to the mean, its centre anywhere in the image (DeVries and Taylor 2017).

    Raises:
        InputError: a negative number, or an area outside (0, 1].
    """

    crop: int = 0
    area: float = 1.0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.crop < 0 or self.cutout < 0 or not 0 < self.area <= 1:
            raise InputError("crop and cutout are at least 0, area is above 0 and at most 1", where="augmentation")

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
        """Draw for `count` images of (height, width)."""

        def whole(most: int, columns: int) -> Tensor:
            return torch.randint(0, most, (count, columns), generator=generator)

        return Draws(
            shifts=whole(2 * self.crop + 1, 2) if self.crop else None,
            flips=whole(2, 1).squeeze(1).bool() if self.flip else None,
            holes=torch.cat([whole(side, 1) for side in size], 1) if self.cutout else None,
            seeds=whole(2**62, 1).squeeze(1) if self.area < 1 else None,
        )

    def move(self, pixels: Tensor, draws: Draws) -> Tensor:
        """Crop and flip (N, C, H, W) of any type; the result is channels last."""
        if draws.shifts is None and draws.flips is None:
            return pixels
        count, channels, height, width = pixels.shape
        device, pad = pixels.device, self.crop
        rows = torch.arange(height, device=device).expand(count, -1)
        columns = torch.arange(width, device=device).expand(count, -1)
        if draws.flips is not None:
            columns = torch.where(draws.flips[:, None], width - 1 - columns, columns)
        if draws.shifts is not None:
            rows, columns = rows + draws.shifts[:, :1], columns + draws.shifts[:, 1:]
        # One gather of pixels does both: several times faster than indexing by three tensors, or a loop of slices.
        padded = F.pad(pixels.permute(0, 2, 3, 1), (0, 0, pad, pad, pad, pad))
        tall, wide = padded.shape[1:3]
        first = torch.arange(count, device=device)[:, None, None] * tall
        index = (first + rows[:, :, None]) * wide + columns[:, None, :]
        moved = padded.reshape(-1, channels).index_select(0, index.view(-1))
        return moved.view(count, height, width, channels).permute(0, 3, 1, 2)

    def cut(self, images: Tensor, draws: Draws) -> Tensor:
        """Cut the squares out of normalised images (N, C, H, W), in place."""
        if draws.holes is None:
            return images
        inside = []
        for axis, side in enumerate(images.shape[2:]):
            offset = torch.arange(side, device=images.device) - draws.holes[:, axis : axis + 1] + self.cutout // 2
            inside.append((offset >= 0) & (offset < self.cutout))
        return images.masked_fill_((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0)
