"""Images, with the objects in them, that are augmented on access."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from irepdeploy.data.centre_crop import CentreCrop
from irepdeploy.data.distortion import distorted
from irepdeploy.data.pixels import normalize
from irepdeploy.detect.target import Target

__all__ = ["ChangedObjects", "RawObjects"]


@runtime_checkable
class RawObjects(Protocol):
    """Images with objects that are also available unprocessed, as stored."""

    def __len__(self) -> int: ...

    def raw(self, index: int, /) -> tuple[Tensor, Target]:
        """Return an image (C, H, W) uint8, neither resized nor normalized, and its objects in pixels of that image."""
        ...

    @property
    def normalization(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and standard deviation of each channel, for pixels in [0, 1]."""
        ...


@dataclass(frozen=True)
class ChangedObjects:
    """Training images whose colours are distorted, or which are cropped, before they are normalized.

    Random numbers come from torch's global generator.

    Args:
        objects: Images with their objects.
        photometric: Whether to distort the colours.
        crop: Random crop of the stored images; None to keep them whole.
    """

    objects: RawObjects
    photometric: bool
    crop: CentreCrop | None

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Return a normalized image (C, H, W) float32 and its objects."""
        pixels, target = self.objects.raw(index)
        pixels = distorted(pixels) if self.photometric else pixels
        if self.crop is not None:
            pixels, target = self.crop(pixels, target)
        return normalize(pixels[None], *self.objects.normalization)[0], target
