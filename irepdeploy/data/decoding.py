"""Decode an image file, crop it and resize it to a network's input size."""

from __future__ import annotations

import contextlib
import math
import os
import random
import struct
import warnings
import zlib
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from irepdeploy.errors import InputError, one_line
from irepdeploy.limits import open_file

__all__ = ["decode_image", "open_image"]

_LARGEST_FILE = 256 << 20
# For other formats, such as EPS, Pillow would run Ghostscript, regardless of the file name.
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
_DAMAGED = (OSError, ValueError, SyntaxError, IndexError, TypeError, struct.error, zlib.error)

# The evaluation protocol of ResNet: resize the shorter side to 256, then crop the central 224 pixels.
_CENTRE = 224 / 256
_ASPECT = (math.log(3 / 4), math.log(4 / 3))
_TRIES = 10
_LARGEST_REDUCTION = 8

Box = tuple[float, float, float, float]


def decode_image(
    file: IO[bytes] | str,
    size: int | tuple[int, int],
    *,
    area: float = 1.0,
    seed: int | None = None,
    name: str = "image",
) -> np.ndarray[Any, Any]:
    """Decode an image to (height, width, 3) uint8.

    Args:
        file: The encoded image or its path.
        size: Side of a square, to which the centre crop (224/256 of the shorter side) is resized; or the height and
            width that the image must have, in which case it is not resized.
        area: With a seed, the minimum fraction of the image that the crop covers.
        seed: Seed of a random crop with an aspect ratio of 3/4 to 4/3 (Szegedy et al. 2015); None for no random crop.
        name: Name of the image, for error messages.

    Raises:
        InputError: The file is not an image, is damaged or too large, or has the wrong size.
    """
    from PIL import Image

    with open_image(file, name) as image:
        width, height = image.size
        chosen = random.Random(seed)
        tall, wide = (size, size) if isinstance(size, int) else size
        if seed is not None:
            box = _random(width, height, area, chosen)
        elif isinstance(size, int):
            box = _centre(width, height)
        else:
            box = (0, 0, width, height)
        if not isinstance(size, int) and (height, width) != size:
            raise InputError(
                f"expected an image of {wide}x{tall} pixels like the others, got {width}x{height}",
                where=name,
                hint=f"data.options.size={min(width, height, *size)} crops and resizes all of them",
            )
        _reduce(image, box, max(tall, wide))
        # Converting a palette image with transparency directly to RGB gives wrong colours.
        picture = (image.convert("RGBA") if image.mode == "P" else image).convert("RGB")
        across, down = picture.width / width, picture.height / height
        scaled = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
        return np.asarray(picture.resize((wide, tall), Image.Resampling.BILINEAR, box=scaled))


@contextlib.contextmanager
def open_image(file: IO[bytes] | str | os.PathLike[str], name: object = None) -> Iterator[Any]:
    """Open an image with Pillow, and close it when the block ends.

    Args:
        file: The encoded image or its path.
        name: Name of the image, for error messages. Default: its path.

    Raises:
        InputError: The file is not an image, or is damaged or too large.
    """
    from PIL import Image

    with contextlib.ExitStack() as stack:
        if isinstance(file, str | os.PathLike):
            name = file if name is None else name
            file = stack.enter_context(open_file(file, "image", _LARGEST_FILE))
        # Pillow only warns about more than 90 million pixels, and refuses more than twice that; treat both as errors.
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield stack.enter_context(Image.open(file, formats=_FORMATS))
        except _DAMAGED as error:
            # Pillow's message contains the file object.
            reason = one_line(error).partition(" <_io.")[0]
            raise InputError(f"not an image, or damaged: {reason}", where=name, hint="replace or remove it") from error
        except (MemoryError, Image.DecompressionBombError, Image.DecompressionBombWarning):
            most = f"{Image.MAX_IMAGE_PIXELS:,} pixels"
            raise InputError(f"the image is too large: at most {most}", where=name, hint="scale it down") from None


def _reduce(image: Any, box: Box, size: int) -> None:
    """Decode a JPEG at 1/2, 1/4 or 1/8 of its size if the crop stays at least as large as `size`."""
    reduction = min(_LARGEST_REDUCTION, int(min(box[2] - box[0], box[3] - box[1]) / size))
    if reduction >= 2:
        power = 1 << (reduction.bit_length() - 1)
        image.draft("RGB", (image.width // power, image.height // power))


def _centre(width: int, height: int) -> Box:
    side = min(width, height) * _CENTRE
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _random(width: int, height: int, area: float, chosen: random.Random) -> Box:
    for _ in range(_TRIES):
        pixels = width * height * chosen.uniform(area, 1)
        aspect = math.exp(chosen.uniform(*_ASPECT))
        across, down = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < across <= width and 0 < down <= height:
            left, top = int(chosen.random() * (width - across + 1)), int(chosen.random() * (height - down + 1))
            return left, top, left + across, top + down
    # If no such crop fits into a very elongated image, use the largest centre crop with an allowed aspect ratio.
    across = min(width, round(height * math.exp(_ASPECT[1])))
    down = min(height, round(width / math.exp(_ASPECT[0])))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down
