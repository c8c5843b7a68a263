"""Data sets with three disjoint splits: training, search validation and test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from irepdeploy.detect.target import Target

__all__ = ["Dataset", "DatasetFacts", "Images", "ObjectDataset", "Objects", "Split"]


class Images(Protocol):
    """The images of a split: a normalized tensor (N, C, H, W), or an object that returns parts of one.

    `Pixels` stores images as bytes in memory; `ImageFiles` decodes image files on access.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: slice | Tensor, /) -> Tensor:
        """Return normalized float32 images (n, C, H, W)."""
        ...

    def to(self, device: torch.device | str, /) -> Images:
        """Move the images to a device. Image files are decoded in the process."""
        ...


@dataclass(frozen=True)
class Split:
    """Normalized images (N, C, H, W) and their class indices (N,) int64."""

    images: Images
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str) -> Split:
        """Move the split to a device. All images of an `ImageFiles` split are decoded in the process."""
        return Split(self.images.to(device), self.labels.to(device))


@dataclass(frozen=True)
class DatasetFacts:
    """The properties of a data set that are known without its files.

    Args:
        name: Name of the data set.
        input_shape: Shape (C, H, W) of an image.
        classes: Class names in the order of the labels; empty if only the files contain them.
        mean: Mean of each channel, for pixels in [0, 1].
        std: Standard deviation of each channel, for pixels in [0, 1].
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
        train: The training set.
        val: The search-validation set, taken from the training set and used for every selection.
        load_test: Function that opens the test set, which should be scored only once, at the end.
        note: How the test set was chosen, if the data has none of its own; else "".
    """

    train: Split
    val: Split
    load_test: Callable[[], Split]
    note: str = ""


class Objects(Protocol):
    """Images with the objects in them, by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> tuple[Tensor, Target]:
        """Return a normalized float32 image (C, H, W) of any size, and its objects in pixels of that image."""
        ...


@dataclass(frozen=True)
class ObjectDataset(DatasetFacts):
    """A detection data set. `input_shape` is that of the network, whose batches are padded to one size.

    Args:
        train: The training set.
        val: The search-validation set, taken from the training images and used for every selection.
        load_test: Function that opens the test set, which should be scored only once, at the end.
    """

    train: Objects
    val: Objects
    load_test: Callable[[], Objects]
