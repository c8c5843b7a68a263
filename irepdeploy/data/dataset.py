"""A data set in three disjoint parts: train, search-validation, test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["Dataset", "DatasetFacts", "Images", "Split"]


class Images(Protocol):
    """The images of a split: a tensor (N, C, H, W) that is normalised, or whatever gives slices of one.

    `Pixels` keeps bytes in memory; `ImageFiles` decodes.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        """Normalised float32 images (n, C, H, W)."""
        ...

    def to(self, device: torch.device | str, /) -> Images:
        """The same images in the memory of a device; what has to be decoded is decoded once."""
        ...


@dataclass(frozen=True)
class Split:
    """Images (N, C, H, W), normalised, and their classes (N,)."""

    images: Images
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Split:
        """The split in the memory of a device; images of files are decoded by this, all of them."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class DatasetFacts:
    """What is known of a data set without its files.

    Args:
        input_shape: (C, H, W).
        classes: their names, in the order of the labels; empty where only the files say them.
        mean: per channel, subtracted from pixels in [0, 1].
        std: per channel, divided by afterwards.
    """

    name: str
    input_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True)
class Dataset(DatasetFacts):
    """A classification data set.

    Args:
        train: what weights are trained on.
        val: the search-validation set, cut from the training set: every selection is made on it.
        load_test: gives the test set; to be read once, at the end.
    """

    train: Split
    val: Split
    load_test: Callable[[], Split]
