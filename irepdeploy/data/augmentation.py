"""Augment whole batches on their device: random crop, flip and cutout from a single generator.

All random numbers of an epoch are drawn on the CPU before it starts, so they do not depend on the device, the batch
size or the number of processes.
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
    """Random numbers for N images; None for a disabled augmentation.

    Args:
        shifts: (N, 2) top left corners of the crops in the padded images.
        flips: (N,) bool, whether an image is flipped horizontally.
        holes: (N, 2) centres of the cutout squares.
        seeds: (N,) seeds of the random crops of decoded images.
    """

    shifts: Tensor | None = None
    flips: Tensor | None = None
    holes: Tensor | None = None
    seeds: Tensor | None = None

    def __getitem__(self, part: slice) -> Draws:
        return replace(self, **{name: None if all_ is None else all_[part] for name, all_ in vars(self).items()})

    def to(self, device: torch.device | str) -> Draws:
        """Move the draws to a device."""
        return replace(self, **{name: None if all_ is None else all_.to(device) for name, all_ in vars(self).items()})


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images, applied in the order of the arguments.

    Args:
        crop: pixels of black padding on each side before a random crop to the original size; for images in memory.
            Tensors that are already normalised are padded with 0, their mean.
        area: minimum fraction of the image that a random resized crop covers (Szegedy et al. 2015; 0.08 for
            ImageNet); for decoded images. 1 takes the centre crop.
        flip: flip half of the images horizontally.
        cutout: side in pixels of a square that is set to the mean, centred anywhere in the image (DeVries and Taylor
            2017).
    """

    crop: int = 0
    area: float = 1.0
    flip: bool = False
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.crop < 0 or self.cutout < 0 or not 0 < self.area <= 1:
            raise InputError("expected crop and cutout of at least 0 and area in (0, 1]", where="augmentation")

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> Draws:
        """Draw the random numbers for `count` images of `size` (height, width)."""

        def whole(most: int, columns: int) -> Tensor:
            return torch.randint(0, most, (count, columns), generator=generator)

        return Draws(
            shifts=whole(2 * self.crop + 1, 2) if self.crop else None,
            flips=whole(2, 1).squeeze(1).bool() if self.flip else None,
            holes=torch.cat([whole(side, 1) for side in size], 1) if self.cutout else None,
            seeds=whole(2**62, 1).squeeze(1) if self.area < 1 else None,
        )

    def move(self, pixels: Tensor, draws: Draws) -> Tensor:
        """Crop and flip images (N, C, H, W) of any dtype; return them in channels-last format."""
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
        # A single gather crops and flips, several times faster than indexing by three tensors or slicing in a loop.
        padded = F.pad(pixels.permute(0, 2, 3, 1), (0, 0, pad, pad, pad, pad))
        tall, wide = padded.shape[1:3]
        first = torch.arange(count, device=device)[:, None, None] * tall
        index = (first + rows[:, :, None]) * wide + columns[:, None, :]
        moved = padded.reshape(-1, channels).index_select(0, index.view(-1))
        return moved.view(count, height, width, channels).permute(0, 3, 1, 2)

    def cut(self, images: Tensor, draws: Draws) -> Tensor:
        """Set the cutout squares of normalised images (N, C, H, W) to 0, in place."""
        if draws.holes is None:
            return images
        inside = []
        for axis, side in enumerate(images.shape[2:]):
            offset = torch.arange(side, device=images.device) - draws.holes[:, axis : axis + 1] + self.cutout // 2
            inside.append((offset >= 0) & (offset < self.cutout))
        return images.masked_fill_((inside[0][:, :, None] & inside[1][:, None, :])[:, None], 0)
