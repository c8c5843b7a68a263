"""A data set in three disjoint parts: train, search-validation, test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Dataset", "Split"]


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W), normalised, and their classes (N,)."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A classification data set.

    Args:
        input_shape: (C, H, W).
        classes: their names, in the order of the labels.
        mean: per channel, subtracted from pixels in [0, 1].
        std: per channel, divided by afterwards.
        train: what weights are trained on.
        val: the search-validation set, cut from the training set: every selection is made on it.
        load_test: gives the test set; to be read once, at the end.
    """

    name: str
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split
    val: Split
    load_test: Callable[[], Split]
