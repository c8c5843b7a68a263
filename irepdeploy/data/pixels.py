"""Images as the bytes they are published as, normalised when they are asked for: a quarter of the memory of floats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

__all__ = ["Pixels", "normalise"]


@dataclass(frozen=True)
class Pixels:
    """Images in memory.

    Args:
        values: (N, C, H, W) uint8; fastest channels last.
        mean: per channel, of pixels in [0, 1].
        std: per channel.
    """

    values: Tensor
    mean: Sequence[float]
    std: Sequence[float]

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        return self.normalise(self.values[index])

    def to(self, device: torch.device | str, /) -> Pixels:
        """The same pixels in the memory of a device."""
        return Pixels(self.values.to(device), self.mean, self.std)

    def normalise(self, values: Tensor) -> Tensor:
        """(x / 255 - mean) / std of pixels (n, C, H, W), as float32 on their device."""
        return normalise(values, self.mean, self.std)


def normalise(values: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x / 255 - mean) / std of pixels (n, C, H, W), as float32 on their device."""
    factor, offset = _constants(tuple(mean), tuple(std), values.device)
    return values.float().mul_(factor).sub_(offset)


# Made once for each device: a copy from the CPU in every batch would wait for all that the device still has to do.
@lru_cache(maxsize=16)
@torch.inference_mode(False)
def _constants(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    means = torch.tensor(mean, device=device).view(-1, 1, 1)
    deviations = torch.tensor(std, device=device).view(-1, 1, 1)
    return 1 / (255 * deviations), means / deviations
