"""Rules for resizing images to the input size of a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from irepdeploy.errors import InputError

__all__ = ["RULES", "Resizing"]

RULES = ("fit", "stretch")


@dataclass(frozen=True)
class Resizing:
    """A rule for resizing images to a fixed input size.

    Args:
        rule: "fit" keeps the aspect ratio: the image is made as large as fits, placed in the upper left corner, and
            padded with 0 after normalization. "stretch" fills the whole input.
        height: Height of the input in pixels.
        width: Width of the input in pixels.
        turned: Swap height and width for images that are taller than wide.
    """

    rule: str
    height: int
    width: int
    turned: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise InputError(f"expected {' or '.join(RULES)}, got {self.rule!r}", where="resizing")

    def resized(self, image: Any) -> tuple[Any, tuple[float, float]]:
        """Return the resized Pillow image, not padded, and the resulting scales of x and y."""
        from PIL import Image

        width, height = self.width, self.height
        if self.turned and image.height > image.width:
            width, height = height, width
        if self.rule == "fit":
            share = min(width / image.width, height / image.height)
            width, height = (max(1, round(side * share)) for side in image.size)
        # Use the actual size: otherwise rounding would shift boxes by up to half a pixel.
        scale = width / image.width, height / image.height
        if (width, height) == image.size:
            return image, scale
        return image.resize((width, height), Image.Resampling.BILINEAR), scale
