"""Random square crops around random centres, like MMDetection's RandomCenterCropPad (Law and Deng 2018, CornerNet)."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from irepdeploy.detect.augmentation import resized
from irepdeploy.detect.target import Target

__all__ = ["CentreCrop"]

# As in MMDetection: distance of centres from the border of a sufficiently large image, and number of centres to try.
_BORDER, _TRIES = 128, 50
_MOST = 10


@dataclass(frozen=True)
class CentreCrop:
    """Random square crops resized to one size; areas outside the image are black.

    A crop contains the centre of at least one object, if the image has objects. Objects whose centre is outside the
    crop are removed; the boxes of the others are clipped to the crop.

    Args:
        side: Height and width of the result in pixels.
        ratios: Possible sides of a crop, as multiples of `side`.
    """

    side: int
    ratios: tuple[float, ...] = (1.0,)

    def __call__(self, pixels: Tensor, target: Target) -> tuple[Tensor, Target]:
        """Return a random crop (C, side, side) float32 of an image (C, H, W), and its objects.

        The crop is drawn from torch's global generator.
        """
        patch, inside = self._drawn(pixels, target)
        left, top, side = patch
        height, width = pixels.shape[1:]
        crop = pixels.new_zeros((len(pixels), side, side), dtype=torch.float32)
        rows, columns = (
            slice(max(0, start), min(start + side, most)) for start, most in ((top, height), (left, width))
        )
        crop[:, rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = pixels[
            :, rows, columns
        ]
        boxes = (target.boxes[inside] - target.boxes.new_tensor([left, top, left, top])).clamp(0, side)
        areas = None if target.areas is None else target.areas[inside]
        labels, crowd = target.labels[inside], target.crowd[inside]
        mine = replace(target, boxes=boxes, labels=labels, crowd=crowd, areas=areas, scale=None)
        found, targets = resized(crop[None], [mine], (self.side, self.side))
        return found[0], targets[0]

    def _drawn(self, pixels: Tensor, target: Target) -> tuple[tuple[int, int, int], Tensor]:
        """Return the left, top and side of a crop, and whether it contains the centre of each object."""
        height, width = pixels.shape[1:]
        middles = (target.boxes[:, :2] + target.boxes[:, 2:]) / 2
        limits = middles.new_tensor([width, height])
        # The centre of an object that extends far beyond the image is outside it, where no crop can contain it.
        wanted = bool(((middles > 0) & (middles < limits)).all(1).any())
        for _ in range(_MOST):
            side = int(self.side * self.ratios[int(torch.randint(len(self.ratios), ()))])
            for _ in range(_TRIES):
                x, y = (_centre(size) for size in (width, height))
                corner = x - side // 2, y - side // 2
                low = middles.new_tensor([max(0, start) for start in corner])
                high = torch.minimum(middles.new_tensor([x + side // 2, y + side // 2]), limits)
                inside = ((middles > low) & (middles < high)).all(1)
                if bool(inside.any()) or not wanted:
                    return (*corner, side), inside
        return (*corner, side), inside


def _centre(size: int) -> int:
    """Draw a coordinate at least 128 pixels from the border, halving that distance until it is possible."""
    ratio = 2 * _BORDER / size
    border = _BORDER // 2 ** (math.ceil(math.log2(math.ceil(ratio))) + (ratio == int(ratio)))
    return border + int(torch.randint(size - 2 * border, ()))
