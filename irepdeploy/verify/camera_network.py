"""A network behind the preprocessing that an export built into its files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from irepdeploy.errors import InputError

__all__ = ["CameraNetwork"]


class CameraNetwork(nn.Module):
    """Take uint8 images as from a camera, preprocess them, and run a network of float32 images on them.

    Args:
        network: The network.
        preprocessing: As in the certificate: mean and std by channel, peak, layout and channel order.
    """

    def __init__(self, network: nn.Module, preprocessing: Mapping[str, Any]) -> None:
        super().__init__()
        self.network = network
        try:
            planes = [torch.tensor(preprocessing[name], dtype=torch.float64) for name in ("mean", "std")]
            self._mean, self._std = (plane.reshape(-1, 1, 1) for plane in planes)
            self._peak = float(preprocessing["peak"])
            self._last, self._reversed = preprocessing["layout"] == "nhwc", preprocessing["order"] == "bgr"
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise InputError(f"unknown preprocessing: {error}", where="certificate") from error
        self.train(network.training)

    def forward(self, images: Tensor) -> Any:
        """Normalise in float64 and round once."""
        planes = images.double()
        if self._last:
            planes = planes.permute(0, 3, 1, 2)
        if self._reversed:
            planes = planes.flip(1)
        return self.network(((planes / self._peak - self._mean) / self._std).float().contiguous())
