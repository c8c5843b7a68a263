"""Draw boxes on an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from irepdeploy.errors import printable

__all__ = ["drawn"]

# The colour-blind-safe palette of Okabe and Ito, without black, and whether white text is readable on each colour.
_COLOURS = (
    ("#D55E00", True), ("#0072B2", True), ("#009E73", True), ("#CC79A7", False), ("#E69F00", False), ("#56B4E9", False),
    ("#F0E442", False),
)  # fmt: skip
_LEAST_SIDE = 384
_LONGEST_TEXT = 40


def drawn(image: Any, boxes: Sequence[Sequence[float]], texts: Sequence[str], labels: Sequence[int]) -> Any:
    """Return a copy of the image with labelled boxes in the colour of their class.

    Args:
        image: Pillow image, or uint8 array (H, W) or (H, W, 3). Images below 384 pixels are enlarged by an integer.
        boxes: Corners x0, y0, x1, y1 in pixels of the image, best box first.
        texts: Text of each box.
        labels: Class index of each box.
    """
    from PIL import Image, ImageDraw, ImageFont

    picture = (Image.fromarray(np.asarray(image)) if isinstance(image, np.ndarray) else image).convert("RGB")
    factor = max(1, -(-_LEAST_SIDE // max(picture.size)))
    picture = picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(picture)
    width = max(2, max(picture.size) // 400)
    font = ImageFont.load_default(max(12, max(picture.size) // 45))
    # Draw the best boxes, which come first, on top.
    for box, text, label in reversed(list(zip(boxes, texts, labels, strict=True))):
        colour, light = _COLOURS[label % len(_COLOURS)]
        x0, x1 = (min(max(value * factor, 0), picture.width - 1) for value in (box[0], box[2]))
        y0, y1 = (min(max(value * factor, 0), picture.height - 1) for value in (box[1], box[3]))
        pen.rectangle((min(x0, x1), min(y0, y1), x1, y1), outline=colour, width=width)
        shown = printable(text)
        shown = shown if len(shown) <= _LONGEST_TEXT else f"{shown[: _LONGEST_TEXT - 3]}..."
        left, top, right, bottom = pen.textbbox((0, 0), shown, font=font)
        wide, high = right - left + 4, bottom - top + 4
        # Place the text above the box, or inside its upper edge if the box is at the top of the image.
        x = max(0, min(x0, picture.width - wide))
        y = y0 - high if y0 >= high else y0
        pen.rectangle((x, y, x + wide, y + high), fill=colour)
        pen.text((x + 2 - left, y + 2 - top), shown, fill="white" if light else "black", font=font)
    return picture
