"""Images stored as uint8, in a quarter of the memory of float32, and normalized on access."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["Pixels", "normalize"]


@dataclass(frozen=True)
class Pixels:
    """Images (N, C, H, W) stored as uint8, preferably in channels-last format.

    `mean` and `std` are given for pixels in [0, 1].
    """

    values: Tensor
    mean: Sequence[float]
    std: Sequence[float]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        return self.normalize(self.values[index])

    def to(self, device: torch.device | str, /) -> Pixels:
        """Move the pixels to a device."""
        return Pixels(self.values.to(device), self.mean, self.std)

    def normalize(self, values: Tensor) -> Tensor:
        """Normalize pixels (n, C, H, W) to float32, (x / 255 - mean) / std, on their device."""
        return normalize(values, self.mean, self.std)


def normalize(values: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Normalize pixels (n, C, H, W) to float32, (x / 255 - mean) / std, on their device."""
    factor, offset = _constants(tuple(mean), tuple(std), values.device)
    return values.float().mul_(factor).sub_(offset)


# Cached per device, because copying from the CPU in every batch would synchronize with the device.
@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    means = torch.tensor(mean, device=device).view(-1, 1, 1)
    deviations = torch.tensor(std, device=device).view(-1, 1, 1)
    return 1 / (255 * deviations), means / deviations
