"""Augmentation of whole batches on their device, from a single generator.

All random numbers of an epoch are drawn on the CPU before it starts, so that they do not depend on the device, the
batch size or the number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from irepdeploy.data import colours
from irepdeploy.data.boxes import Random, cropped, inside, random_boxes
from irepdeploy.data.draws import Draws
from irepdeploy.data.mixing import draw_mixing, mixed
from irepdeploy.data.randaugment import OPERATIONS, STRONGEST, randaugmented
from irepdeploy.errors import InputError

__all__ = ["Augmentation"]

_ASPECTS = (3 / 4, 4 / 3)
# Range of erased shares of the image and of their aspect ratios, for random erasing.
_ERASED, _ERASED_ASPECTS = (0.02, 1 / 3), (0.3, 1 / 0.3)
_JITTERS = {
    "brightness": colours.brightness,
    "contrast": colours.contrast,
    "saturation": colours.saturation,
    "hue": colours.hue,
}


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images, applied in the order of the arguments.

    RandAugment, brightness, contrast, saturation and hue need uint8 images: image files, or data sets stored as bytes.

    Args:
        crop: Pixels of black padding on each side before a random crop to the original size. Tensors that are already
            normalized are padded with 0, their mean.
        area: Minimum fraction of the image covered by a random resized crop (Szegedy et al. 2015; 0.08 for ImageNet).
            1 uses the whole image, or the centre crop of decoded images.
        flip: Flip each image horizontally with probability 1/2.
        randaugment: Number of random operations on each image (Cubuk et al. 2020), usually 2, out of torchvision's
            fourteen, with shears about the centre.
        magnitude: Strength of these operations, 0 to 30.
        brightness: Multiply the brightness by a random factor from 1 - brightness to 1 + brightness.
        contrast: Multiply the contrast by a random factor from 1 - contrast to 1 + contrast.
        saturation: Multiply the saturation by a random factor from 1 - saturation to 1 + saturation. Not for grey
            images.
        hue: Shift the hue by a random amount from -hue to hue, in turns; at most 0.5. Not for grey images.
        cutout: Side in pixels of a square that is set to the mean, centred anywhere in the image (DeVries and Taylor
            2017).
        erase: Probability of setting a rectangle of 2 to 33 % of the image to the mean (Zhong et al. 2020).
        mixup: Alpha of the beta distribution of mixup; 0 disables it. Labels become class shares.
        cutmix: Alpha of the beta distribution of CutMix; 0 disables it. With both, each image is mixed in one of the
            two ways.

    Raises:
        InputError: A value is out of range.
    """

    crop: int = 0
    area: float = 1.0
    flip: bool = False
    randaugment: int = 0
    magnitude: float = 9.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    cutout: int = 0
    erase: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        if self.crop < 0 or self.cutout < 0 or not 0 < self.area <= 1:
            raise InputError("expected crop and cutout of at least 0 and area in (0, 1]", where="augmentation")
        if self.randaugment < 0 or not 0 <= self.magnitude <= STRONGEST:
            text = f"expected randaugment of at least 0 and magnitude from 0 to {STRONGEST}"
            raise InputError(text, where="augmentation")
        limits = {"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0.5, "erase": 1, "mixup": 100, "cutmix": 100}
        for name, most in limits.items():
            if not 0 <= getattr(self, name) <= most:
                raise InputError(f"expected {name} from 0 to {most}, got {getattr(self, name)}", where="augmentation")

    @property
    def mixes(self) -> bool:
        """Whether labels become class shares."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def recolours(self) -> bool:
        """Whether the augmentation needs uint8 images."""
        return self.randaugment > 0 or any(getattr(self, name) for name in _JITTERS)

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator, *, decoded: bool = True) -> Draws:
        """Draw the random numbers for a number of images.

        Args:
            count: Number of images N.
            size: Height and width of the images.
            generator: CPU generator.
            decoded: Whether images are decoded on access. If so, random crops are given by seeds instead of boxes.
        """

        def whole(most: int, columns: int) -> Tensor:
            return torch.randint(0, most, (count, columns), generator=generator)

        return Draws(
            shifts=whole(2 * self.crop + 1, 2) if self.crop else None,
            flips=whole(2, 1).squeeze(1).bool() if self.flip else None,
            holes=torch.cat([whole(side, 1) for side in size], 1) if self.cutout else None,
            seeds=whole(2**62, 1).squeeze(1) if self.area < 1 and decoded else None,
            **self._draw_more(count, size, generator, decoded),
        )

    def _draw_more(
        self, count: int, size: tuple[int, int], generator: torch.Generator, decoded: bool
    ) -> dict[str, Tensor]:
        """Draw the numbers that numpy draws, with a separate seed for each augmentation to keep them independent."""

        def random() -> Random:
            return np.random.default_rng(int(torch.randint(2**62, (), generator=generator)))

        found: dict[str, Any] = {}
        if self.area < 1 and not decoded:
            boxes, fit = random_boxes(random(), count, size, (self.area, 1), _ASPECTS)
            found["areas"] = np.where(fit[:, None], boxes, (0, 0, *size))
        if self.randaugment:
            chosen = random()
            found["operations"] = chosen.integers(0, len(OPERATIONS), (count, self.randaugment))
            found["signs"] = 1 - 2 * chosen.integers(0, 2, (count, self.randaugment))
        if any(getattr(self, name) for name in _JITTERS):
            middle = np.array([1, 1, 1, 0])
            spread = np.array([getattr(self, name) for name in _JITTERS])
            found["jitters"] = (middle + spread * random().uniform(-1, 1, (count, 4))).astype(np.float32)
        if self.erase:
            chosen = random()
            boxes, fit = random_boxes(chosen, count, size, _ERASED, _ERASED_ASPECTS)
            found["erased"] = np.where((fit & (chosen.random(count) < self.erase))[:, None], boxes, 0)
        tensors = {name: torch.from_numpy(values) for name, values in found.items()}
        if self.mixes:
            tensors["shares"], tensors["pasted"] = draw_mixing(random(), count, size, self.mixup, self.cutmix)
        return tensors

    def move(self, pixels: Tensor, draws: Draws) -> Tensor:
        """Crop and flip images (N, C, H, W) of any dtype; return them in channels-last format."""
        if draws.areas is not None:
            pixels = cropped(pixels, draws.areas)
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
        # Crop and flip by a single gather, which is several times faster than indexing by three tensors or slicing.
        padded = F.pad(pixels.permute(0, 2, 3, 1), (0, 0, pad, pad, pad, pad))
        tall, wide = padded.shape[1:3]
        first = torch.arange(count, device=device)[:, None, None] * tall
        index = (first + rows[:, :, None]) * wide + columns[:, None, :]
        moved = padded.reshape(-1, channels).index_select(0, index.view(-1))
        return moved.view(count, height, width, channels).permute(0, 3, 1, 2)

    def recolour(self, pixels: Tensor, draws: Draws) -> Tensor:
        """Apply RandAugment and the colour changes to uint8 images (N, C, H, W)."""
        if draws.operations is not None and draws.signs is not None:
            pixels = randaugmented(pixels, draws.operations, draws.signs, self.magnitude)
        if draws.jitters is not None:
            for column, (name, function) in enumerate(_JITTERS.items()):
                if getattr(self, name):
                    pixels = function(pixels, draws.jitters[:, column])
        return pixels

    def mix(self, images: Tensor, labels: Tensor, draws: Draws, classes: int) -> tuple[Tensor, Tensor]:
        """Mix normalized images (N, C, H, W) and labels (N,) by mixup or CutMix; labels become shares (N, classes)."""
        if draws.shares is None or draws.pasted is None:
            return images, labels
        return mixed(images, labels, draws.shares, draws.pasted, classes)

    def cut(self, images: Tensor, draws: Draws) -> Tensor:
        """Set the cutout squares and erased rectangles of normalized images (N, C, H, W) to 0, in place."""
        if draws.erased is not None:
            images = images.masked_fill_(inside(draws.erased, (images.shape[2], images.shape[3])), 0)
        if draws.holes is None:
            return images
        masks = []
        for axis, side in enumerate(images.shape[2:]):
            offset = torch.arange(side, device=images.device) - draws.holes[:, axis : axis + 1] + self.cutout // 2
            masks.append((offset >= 0) & (offset < self.cutout))
        return images.masked_fill_((masks[0][:, :, None] & masks[1][:, None, :])[:, None], 0)
