"""Pillow's colour operations for whole batches of uint8 images (N, C, H, W) with C = 1 or 3.

A factor per image blends it with a degenerate version of itself, such as black or grey (Haeberli and Voorhies 1994): 0
gives the degenerate version, 1 the image, and a larger factor the opposite. Means are computed in integers, so that the
result for an image does not depend on its batch.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "auto_contrast", "brightness", "contrast", "equalized", "hue", "posterized", "saturation", "sharpness", "turned",
]  # fmt: skip


def brightness(pixels: Tensor, factors: Tensor) -> Tensor:
    """Blend images with black by factors (N,)."""
    return _blended(torch.zeros((), device=pixels.device), pixels, factors)


def saturation(pixels: Tensor, factors: Tensor) -> Tensor:
    """Blend images with their grey versions by factors (N,); grey images do not change."""
    return pixels if pixels.shape[1] == 1 else _blended(_grey(pixels), pixels, factors)


def contrast(pixels: Tensor, factors: Tensor) -> Tensor:
    """Blend images with their mean grey levels by factors (N,)."""
    grey = _grey(pixels)
    count = grey[0].numel()
    mean = (grey.long().sum((1, 2, 3), keepdim=True) + count // 2) // count
    return _blended(mean, pixels, factors)


def sharpness(pixels: Tensor, factors: Tensor) -> Tensor:
    """Blend images with their smoothed versions by factors (N,); border pixels do not change."""
    channels, *sides = pixels.shape[1:]
    if min(sides) < 3:
        return pixels
    kernel = torch.ones(channels, 1, 3, 3, device=pixels.device)
    kernel[:, :, 1, 1] = 5
    smooth = pixels.clone()
    # Sums of integers are exact in float32.
    sums = F.conv2d(pixels.float(), kernel, groups=channels)
    smooth[:, :, 1:-1, 1:-1] = (sums / 13 + 0.5).to(torch.uint8)
    return _blended(smooth, pixels, factors)


def posterized(pixels: Tensor, bits: int) -> Tensor:
    """Keep the highest `bits` of the 8 bits of each value."""
    return pixels & (256 - (1 << (8 - bits)))


def auto_contrast(pixels: Tensor) -> Tensor:
    """Stretch each channel of each image to the range from 0 to 255."""
    flat = pixels.flatten(2).long()
    low, high = flat.amin(2, keepdim=True), flat.amax(2, keepdim=True)
    levels = torch.arange(256, device=pixels.device)
    # Use integers: with Pillow's floating-point scale, some of the brightest pixels become 254.
    stretched = 255 * (levels - low) // (high - low).clamp(min=1)
    table = torch.where(high > low, stretched.clamp(0, 255), levels)
    return table.gather(2, flat).to(torch.uint8).view(pixels.shape)


def equalized(pixels: Tensor) -> Tensor:
    """Equalize the histogram of each channel of each image."""
    flat = pixels.flatten(2).long()
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.long, device=pixels.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    # Like Pillow, exclude the pixels of the largest value from the step.
    last = counts.gather(2, flat.amax(2, keepdim=True))
    step = (flat.shape[2] - last) // 255
    below = counts.cumsum(2) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=pixels.device))
    return table.gather(2, flat).to(torch.uint8).view(pixels.shape)


def hue(pixels: Tensor, shifts: Tensor) -> Tensor:
    """Rotate the hue of colour images by `shifts` (N,), in turns."""
    return turned(pixels.float(), shifts).round_().clamp_(0, 255).to(torch.uint8)


def turned(channels: Tensor, shifts: Tensor) -> Tensor:
    """Rotate the hue of floating-point colour images (N, 3, H, W) by `shifts` (N,), in turns."""
    value, low = channels.amax(1, keepdim=True), channels.amin(1, keepdim=True)
    chroma = value - low
    red, green, blue = channels.split(1, 1)
    safe = chroma.clamp(min=1e-6)
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    moved = sixths + 6 * shifts.float().view(-1, 1, 1, 1)
    places = (moved + torch.tensor([5.0, 3.0, 1.0], device=channels.device).view(1, 3, 1, 1)) % 6
    return value - chroma * torch.minimum(places, 4 - places).clamp(0, 1)


def _grey(pixels: Tensor) -> Tensor:
    """Return the luma (N, 1, H, W) by ITU-R 601, rounded as in Pillow."""
    if pixels.shape[1] == 1:
        return pixels
    red, green, blue = pixels.int().split(1, 1)
    return (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16


def _blended(degenerate: Tensor, pixels: Tensor, factors: Tensor) -> Tensor:
    start = degenerate.float()
    moved = start + factors.float().view(-1, 1, 1, 1) * (pixels.float() - start)
    return moved.clamp_(0, 255).to(torch.uint8)
