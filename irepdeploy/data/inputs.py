"""Seeded random inputs and real images for comparing the outputs of models."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from irepdeploy.data.photographs import photographs
from irepdeploy.data.registry import embedded_dataset
from irepdeploy.limits import check_memory

__all__ = ["random_inputs", "real_inputs"]


def random_inputs(shape: tuple[int, ...], count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return (count, *shape) float32 values from a standard normal distribution."""
    check_memory(4 * count * math.prod(shape), "an input of this size")
    return np.random.default_rng(seed).standard_normal((count, *shape), dtype=np.float32)


def real_inputs(
    shape: tuple[int, ...], count: int, dataset_name: str | None = None
) -> tuple[np.ndarray[Any, Any], str]:
    """Return real images (count, C, H, W) for comparing outputs, not for measuring accuracy, and their source."""
    data = None if dataset_name is None else embedded_dataset(dataset_name)
    if data is not None and data.input_shape == tuple(shape):
        return data.val.images[:count].numpy(), f"data set {dataset_name}"
    return photographs(shape, count), "photographs (scikit-learn)"
