"""Find the common size of the images of a data set from the headers of their files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from irepdeploy.data.decoding import open_image
from irepdeploy.data.image_files import ImageSource
from irepdeploy.errors import InputError

__all__ = ["own_size"]

# Number of images to check per source, evenly spaced. The others are checked when they are decoded.
_MOST = 2000
_SHOWN = 3
_LEAST = 8


def own_size(folder: object, sources: Sequence[ImageSource]) -> tuple[int, int]:
    """Return the common height and width of the images.

    Raises:
        InputError: The images have several sizes, or an image is damaged.
    """
    sizes: Counter[tuple[int, int]] = Counter()
    for source in sources:
        for index in np.unique(np.linspace(0, len(source) - 1, min(len(source), _MOST)).round().astype(int)).tolist():
            with open_image(source.open(index), source.name(index)) as image:
                sizes[image.size] += 1
    if len(sizes) > 1:
        shown = ", ".join(f"{width}x{height}" for (width, height), _ in sizes.most_common(_SHOWN))
        more = ", ..." if len(sizes) > _SHOWN else ""
        least = max(_LEAST, min(min(size) for size in sizes))
        raise InputError(
            f"expected images of one size, got {len(sizes)} sizes: {shown}{more}",
            where=folder,
            hint=f"give the side of the network's input: data.options.size={least} enlarges none of them",
        )
    ((width, height),) = sizes
    return height, width
