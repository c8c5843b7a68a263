"""Real images for comparing the outputs of models."""

from __future__ import annotations

from typing import Any

import numpy as np

from irepdeploy.data.photographs import photographs
from irepdeploy.data.registry import embedded_dataset
from irepdeploy.data.shapes import LEAST_SIDE, SHAPES, shapes

__all__ = ["real_inputs"]


def real_inputs(
    shape: tuple[int, ...], count: int, dataset_name: str | None = None
) -> tuple[np.ndarray[Any, Any], str]:
    """Return real images (count, C, H, W) for comparing outputs (not for measuring accuracy), and their source."""
    if dataset_name == SHAPES.name and len(shape) == 3 and shape[0] == 1 and shape[1] == shape[2] >= LEAST_SIDE:
        canvases = shapes(size=shape[1], train=2, val=count).val
        return np.stack([canvases[index][0].numpy() for index in range(count)]), f"data set {dataset_name}"
    data = None if dataset_name is None else embedded_dataset(dataset_name)
    if data is not None and data.input_shape == tuple(shape):
        return data.val.images[:count].numpy(), f"data set {dataset_name}"
    return photographs(shape, count), "photographs (scikit-learn)"
