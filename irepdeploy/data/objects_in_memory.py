"""Images in memory with the objects in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from irepdeploy.data.pixels import Pixels
from irepdeploy.detect.target import Target, Targets

__all__ = ["ObjectsInMemory"]


@dataclass(frozen=True)
class ObjectsInMemory:
    """Images of one size, stored as bytes, with the target of each."""

    images: Pixels
    targets: Targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Return a normalized image (C, H, W) float32 and its objects."""
        return self.images[torch.tensor(index)], self.targets[index]

    def raw(self, index: int) -> tuple[Tensor, Target]:
        """Return an image (C, H, W) uint8 and its objects."""
        return self.images.values[index], self.targets[index]

    @property
    def normalization(self) -> tuple[Sequence[float], Sequence[float]]:
        """Mean and standard deviation of each channel, for pixels in [0, 1]."""
        return self.images.mean, self.images.std
