"""RandAugment (Cubuk et al. 2020) for whole uint8 batches on their device, with the operations of torchvision."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from irepdeploy.data import colours

__all__ = ["OPERATIONS", "STRONGEST", "randaugmented"]

# The maximum magnitude.
STRONGEST = 30
_GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
_BLENDS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": colours.brightness,
    "colour": colours.saturation,
    "contrast": colours.contrast,
    "sharpness": colours.sharpness,
}
OPERATIONS = ("identity", *_GEOMETRIC, *_BLENDS, "posterize", "solarize", "auto_contrast", "equalize")


def randaugmented(pixels: Tensor, chosen: Tensor, signs: Tensor, magnitude: float) -> Tensor:
    """Apply R operations to each image and return uint8 images (N, C, H, W).

    Args:
        pixels: Images (N, C, H, W) uint8.
        chosen: Indices (N, R) into `OPERATIONS`, on the CPU to avoid synchronizing with a device.
        signs: Direction (N, R) of the operations that have one, 1 or -1, on the CPU.
        magnitude: Strength of every operation, 0 to `STRONGEST`.
    """
    strength = magnitude / STRONGEST
    pixels = pixels.clone()
    for numbers, directions in zip(chosen.T, signs.T, strict=True):
        names = [OPERATIONS[number] for number in numbers.tolist()]
        geometric = [row for row, name in enumerate(names) if name in _GEOMETRIC]
        if geometric:
            rows = torch.tensor(geometric)
            towards = (directions[rows] * strength).tolist()
            matrices = [_matrix(names[row], by, pixels.shape) for row, by in zip(geometric, towards, strict=True)]
            where = rows.to(pixels.device)
            pixels[where] = _transformed(pixels[where], torch.tensor(matrices, device=pixels.device))
        for name in sorted(set(names) - {"identity", *_GEOMETRIC}):
            rows = torch.tensor([row for row, other in enumerate(names) if other == name])
            where = rows.to(pixels.device)
            factors = (1 + 0.9 * strength * directions[rows]).to(pixels.device)
            pixels[where] = _coloured(pixels[where], name, factors, strength)
    return pixels


def _coloured(pixels: Tensor, name: str, factors: Tensor, strength: float) -> Tensor:
    if name in _BLENDS:
        return _BLENDS[name](pixels, factors)
    if name == "posterize":
        return colours.posterized(pixels, 8 - round(4 * strength))
    if name == "solarize":
        # At strength 0 the comparison is strict, so that nothing is inverted.
        return torch.where(pixels.float() >= 255 * (1 - strength) + (strength == 0), 255 - pixels, pixels)
    return colours.auto_contrast(pixels) if name == "auto_contrast" else colours.equalized(pixels)


def _matrix(name: str, by: float, shape: torch.Size) -> list[list[float]]:
    """Return the 2x3 matrix that maps positions in the result to positions in the image, in pixels from the centre."""
    height, width = shape[2:]
    if name == "rotate":
        cos, sin = math.cos(math.radians(30 * by)), math.sin(math.radians(30 * by))
        return [[cos, sin, 0], [-sin, cos, 0]]
    x = {"shear_x": 0.3 * by}.get(name, 0.0)
    y = {"shear_y": 0.3 * by}.get(name, 0.0)
    right = {"translate_x": 150 / 331 * width * by}.get(name, 0.0)
    down = {"translate_y": 150 / 331 * height * by}.get(name, 0.0)
    return [[1, x, right], [y, 1, down]]


def _transformed(pixels: Tensor, matrices: Tensor) -> Tensor:
    """Transform images with nearest-neighbour sampling; areas outside the image are black."""
    height, width = pixels.shape[2:]
    # Coordinates of affine_grid range from -1 to 1.
    sides = torch.tensor([width, height, 2.0], device=pixels.device) / 2
    scaled = matrices * sides / sides[:2, None]
    grid = F.affine_grid(scaled, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels.float(), grid, mode="nearest", padding_mode="zeros", align_corners=False).to(
        torch.uint8
    )
