"""Random colour distortion like MMDetection's PhotoMetricDistortion (Liu et al. 2016, SSD)."""

from __future__ import annotations

import torch
from torch import Tensor

from irepdeploy.data.colours import turned

__all__ = ["distorted"]

# Values of MMDetection: brightness is a difference in grey levels, hue one in degrees; the others are factors.
_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE = 32.0, (0.5, 1.5), (0.5, 1.5), 18.0


def distorted(pixels: Tensor) -> Tensor:
    """Return an image (C, H, W) with randomly distorted colours as float32; values may be outside 0 to 255.

    Brightness, contrast, saturation, hue and the order of the channels are each changed with probability 1/2, contrast
    either before or after the colours. In a grey image, only brightness and contrast change. Random numbers come from
    torch's global generator.
    """
    found = pixels.float()
    if _coin():
        found = found + _uniform(-_BRIGHTNESS, _BRIGHTNESS)
    first, contrast = _coin(), _uniform(*_CONTRAST) if _coin() else 1.0
    found = found * contrast if first else found
    if len(found) == 3:
        if _coin():
            found = _saturated(found, _uniform(*_SATURATION))
        if _coin():
            found = turned(found[None], torch.tensor([_uniform(-_HUE, _HUE) / 360]))[0]
    found = found if first else found * contrast
    return found[torch.randperm(3)] if len(found) == 3 and _coin() else found


def _saturated(pixels: Tensor, factor: float) -> Tensor:
    """Multiply the saturation, (max - min) / max over the channels, by a factor, up to 1."""
    value = pixels.amax(0)
    chroma = value - pixels.amin(0)
    # A pixel darker than black has no saturation.
    most = torch.where(value > 0, value, chroma)
    wanted = chroma * factor if factor <= 1 else torch.minimum(chroma * factor, most)
    return value - (value - pixels) * (wanted / chroma.clamp(min=1e-6))


def _coin() -> bool:
    return bool(torch.randint(2, ()))


def _uniform(low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand(()))
