"""A network preceded by the preprocessing that an export built into its files."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from irepdeploy.errors import InputError

__all__ = ["CameraNetwork"]


class CameraNetwork(nn.Module):
    """A network that takes uint8 images as a camera delivers them, and preprocesses them.

    Args:
        network: The network, which takes float32 images (N, C, H, W).
        preprocessing: The preprocessing as in the certificate: mean and std of each channel, peak, layout and channel
            order.

    Raises:
        InputError: `preprocessing` is not valid.
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
        """Normalize uint8 images in float64, round once to float32, and run the network.

        The images are (N, C, H, W), or (N, H, W, C) if the layout is "nhwc".
        """
        planes = images.double()
        if self._last:
            planes = planes.permute(0, 3, 1, 2)
        if self._reversed:
            planes = planes.flip(1)
        return self.network(((planes / self._peak - self._mean) / self._std).float().contiguous())
