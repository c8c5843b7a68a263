"""Loaders that bring batches of a split to a device: shuffled and augmented for training, in order for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from irepdeploy.data.augmentation import Augmentation
from irepdeploy.data.dataset import Split
from irepdeploy.data.draws import Draws
from irepdeploy.data.image_files import ImageFiles
from irepdeploy.data.pixels import Pixels
from irepdeploy.data.stream import Stream
from irepdeploy.errors import InputError
from irepdeploy.runtime.memory_format import channels_last

__all__ = ["Loader", "in_order"]


class Loader:
    """Loader of training batches. Each iteration is one epoch with a new order and new augmentation.

    All randomness comes from `generator`, which advances only at the start of an epoch, so a run resumes bit-exactly
    from its state between epochs. A split in memory is kept on the device; image files are decoded in advance.

    Args:
        split: Images and labels.
        batch_size: Images per batch, over all processes.
        generator: CPU generator, in the same state in every process.
        augmentation: Augmentation of the images. Default: none.
        device: Device of the batches.
        rank: Index of this process, which loads every `ranks`-th image of a batch.
        ranks: Number of processes.
        classes: Number of classes, for mixup and CutMix.

    Raises:
        InputError: The split has too few images, or the augmentation does not fit its images.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        generator: torch.Generator,
        augmentation: Augmentation | None = None,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        ranks: int = 1,
        classes: int | None = None,
    ) -> None:
        self.augmentation = augmentation or Augmentation()
        self.device = torch.device(device)
        self._files = split.images if isinstance(split.images, ImageFiles) else None
        if self.augmentation.recolours:
            _check_bytes(split, self.augmentation)
        if self.augmentation.mixes and (classes is None or split.labels.is_floating_point()):
            raise InputError("mixup and cutmix need class labels", where="augmentation")
        self._classes = classes or 0
        self._images = split.images if self._files is not None else split.images.to(self.device)
        self._labels = split.labels.to(self.device)
        self._size = self._files.sides if self._files is not None else _size(split)
        self._generator = generator
        # Batch statistics require at least two images in every process.
        starts = range(0, len(split), batch_size)
        ends = [(start, min(start + batch_size, len(split))) for start in starts]
        self._parts = [slice(start + rank, end, ranks) for start, end in ends if end - start >= 2 * ranks]
        if not self._parts:
            raise InputError(
                f"{len(split)} images in batches of {batch_size} are too few for {ranks} process(es)",
                where="training set",
                hint="each process needs at least 2 images of a batch",
            )

    def __len__(self) -> int:
        """Return the number of batches per epoch. A last batch with fewer than two images per process is dropped."""
        return len(self._parts)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield normalized float32 images (N, C, H, W) in channels-last format, and labels (N,).

        With mixup or CutMix, labels are class shares (N, classes) float32.
        """
        count = len(self._labels)
        order = torch.randperm(count, generator=self._generator)
        draws = self.augmentation.draw(count, self._size, self._generator, decoded=self._files is not None)
        augment = self.augmentation
        on_device, moves = order.to(self.device), draws.to(self.device)
        for part, pixels in zip(self._parts, self._pixels(order, on_device, draws), strict=True):
            mine = moves[part]
            moved = augment.recolour(augment.move(pixels, mine), mine)
            images = augment.cut(self._normalized(moved), mine)
            images, labels = augment.mix(images, self._labels[on_device[part]], mine, self._classes)
            yield channels_last(images), labels

    def _pixels(self, order: Tensor, on_device: Tensor, draws: Draws) -> Iterator[Tensor]:
        """Yield a copy of the images of each batch, not yet normalized."""
        if self._files is not None:
            seeds = None if draws.seeds is None else [draws.seeds[part].tolist() for part in self._parts]
            chosen = [order[part].tolist() for part in self._parts]
            yield from self._files.decode(chosen, self.device, area=self.augmentation.area, seeds=seeds)
            return
        values = self._images.values if isinstance(self._images, Pixels) else self._images
        for part in self._parts:
            yield values[on_device[part]]

    def _normalized(self, pixels: Tensor) -> Tensor:
        images = self._images
        return images.normalize(pixels) if isinstance(images, Pixels | ImageFiles) else pixels


def in_order(
    split: Split | Stream, batch_size: int, device: torch.device | str = "cpu"
) -> Iterator[tuple[Tensor, Any]]:
    """Yield batches of all images (N, C, H, W) and labels (N,) in order, in channels-last format, not augmented."""
    if isinstance(split, Stream):
        yield from split.in_order(batch_size, device)
        return
    starts = range(0, len(split), batch_size)
    labels = [split.labels[start : start + batch_size] for start in starts]
    images: Iterator[Tensor]
    if isinstance(split.images, ImageFiles):
        chosen = [list(range(start, min(start + batch_size, len(split)))) for start in starts]
        images = (split.images.normalize(pixels) for pixels in split.images.decode(chosen, device))
    else:
        images = (split.images[start : start + batch_size].to(device) for start in starts)
    for batch, classes in zip(images, labels, strict=True):
        yield channels_last(batch), classes.to(device)


def _check_bytes(split: Split, augmentation: Augmentation) -> None:
    if not isinstance(split.images, Pixels | ImageFiles):
        raise InputError(
            "randaugment, brightness, contrast, saturation and hue need uint8 images, got normalized floats",
            where="augmentation",
            hint="crop, area, flip, cutout, erase, mixup and cutmix accept both",
        )
    channels = 3 if isinstance(split.images, ImageFiles) else split.images.values.shape[1]
    if channels not in (1, 3):
        raise InputError(
            f"randaugment and colours need images of 1 or 3 channels, got {channels}", where="augmentation"
        )
    if channels == 1 and (augmentation.saturation or augmentation.hue):
        raise InputError("an image of 1 channel has no saturation and no hue", where="augmentation")


def _size(split: Split) -> tuple[int, int]:
    images = split.images.values if isinstance(split.images, Pixels) else split.images
    height, width = images[:1].shape[2:]
    return height, width
