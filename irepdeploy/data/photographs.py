"""Crops of the two photographs in scikit-learn, as real inputs for networks without a data set."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from irepdeploy.errors import InputError, MissingError

__all__ = ["photograph_files", "photographs"]

_NAMES = ("china.jpg", "flower.jpg")


def photographs(shape: tuple[int, ...], count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return random square crops (count, C, H, W) float32, normalized by mean 0.45 and standard deviation 0.25.

    Args:
        shape: Shape (C, H, W) of an image; C is 1 (greyscale) or 3.
        count: Number of crops.
        seed: Seed of the crops.

    Raises:
        InputError: C is not 1 or 3.
        MissingError: Scikit-learn is not installed.
    """
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(
            f"photographs have 1 or 3 channels, got shape {'x'.join(map(str, shape))}", hint="pass --inputs FILE.npy"
        )
    from PIL import Image

    channels, height, width = shape
    pictures = [Image.open(path).convert("RGB") for path in photograph_files()]
    random = np.random.default_rng(seed)
    crops = []
    for index in range(count):
        picture = pictures[index % len(pictures)]
        side = int(random.integers(min(picture.size) // 4, min(picture.size) + 1))
        left, top = (int(random.integers(0, extent - side + 1)) for extent in picture.size)
        crop = picture.crop((left, top, left + side, top + side)).resize((width, height), Image.Resampling.BILINEAR)
        pixels = np.asarray(crop.convert("L" if channels == 1 else "RGB"), dtype=np.float32) / 255
        crops.append(pixels.reshape(height, width, channels).transpose(2, 0, 1))
    return (np.stack(crops) - np.float32(0.45)) / np.float32(0.25)


def photograph_files() -> list[Path]:
    """Return the paths of the photographs."""
    # Importing scikit-learn would take longer than everything else in this module.
    spec = find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise MissingError("scikit-learn is not installed", hint="pip install scikit-learn")
    return [Path(spec.origin).parent / "datasets" / "images" / name for name in _NAMES]
