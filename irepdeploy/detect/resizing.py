"""How an image becomes one of a network's input size, and boxes return to the pixels of the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from irepdeploy.errors import InputError

__all__ = ["RULES", "Resizing"]

RULES = ("fit", "stretch")


@dataclass(frozen=True)
class Resizing:
    """A rule of resizing to a fixed size.

    Args:
        rule: "fit" keeps the aspect ratio: the image is as large as fits, its left upper corner in that of the input,
            and the rest is 0 after normalisation. "stretch" fills the input.
        height: Height of the input in pixels.
        width: Width of the input in pixels.
        turned: An image that is higher than wide gets an input of the other orientation.
    """

    rule: str
    height: int
    width: int
    turned: bool = False

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise InputError(f"expected {' or '.join(RULES)}, got {self.rule!r}", where="resizing")

    def resized(self, image: Any) -> tuple[Any, tuple[float, float]]:
        """Return a Pillow image resized, not padded, and the scales of x and y that result."""
        from PIL import Image

        width, height = self.width, self.height
        if self.turned and image.height > image.width:
            width, height = height, width
        if self.rule == "fit":
            share = min(width / image.width, height / image.height)
            width, height = (max(1, round(side * share)) for side in image.size)
        # Of the size that it really has: rounding moves boxes by up to half a pixel otherwise.
        scale = width / image.width, height / image.height
        if (width, height) == image.size:
            return image, scale
        return image.resize((width, height), Image.Resampling.BILINEAR), scale
