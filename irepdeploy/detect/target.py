"""The objects of images, on which a detector is trained and scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from irepdeploy.errors import InputError

__all__ = ["Target", "Targets", "collate"]

# The deepest map of the usual backbones has a stride of 32.
_MULTIPLE = 32


# eq=False, because == of tensors does not return a single bool.
@dataclass(frozen=True, eq=False)
class Target:
    """The objects of one image.

    Args:
        boxes: Boxes (n, 4) float32, which are left, top, right, bottom in pixels of the network's input.
        labels: Class indices (n,) int64, from 0.
        crowd: Whether each object (n,) is a region of many objects. Such regions are not trained on, and detections
            inside them do not count as wrong.
        image_id: Id of the image in its annotations, which differs from its index in the data set.
        size: Height and width of the original image in pixels.
        areas: Areas (n,) float32 that define small, medium and large objects, which are those of masks if there are
            any; None for the areas of the boxes.
        scale: Pixels of the input per pixel of the original image, horizontally and vertically; None if boxes are not
            scored in an original image.

    Raises:
        InputError: The shapes do not match.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    image_id: int
    size: tuple[int, int]
    areas: Tensor | None = None
    scale: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        count = len(self.labels)
        shapes = (self.boxes.shape, self.crowd.shape, (count,) if self.areas is None else self.areas.shape)
        if shapes != ((count, 4), (count,), (count,)):
            raise InputError(
                f"expected boxes (n, 4), labels (n,) and crowd (n,), got {tuple(self.boxes.shape)}, "
                f"{tuple(self.labels.shape)} and {tuple(self.crowd.shape)}",
                where=f"image {self.image_id}",
            )

    def __len__(self) -> int:
        return len(self.labels)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Target:
        """Move the target to a device."""
        boxes, labels, crowd, areas = (
            None if each is None else each.to(device, non_blocking=non_blocking)
            for each in (self.boxes, self.labels, self.crowd, self.areas)
        )
        assert boxes is not None and labels is not None and crowd is not None
        return replace(self, boxes=boxes, labels=labels, crowd=crowd, areas=areas)

    @property
    def trained(self) -> tuple[Tensor, Tensor]:
        """The boxes and labels of the objects to train on, which excludes crowds."""
        return self.boxes[~self.crowd], self.labels[~self.crowd]

    def original(self, boxes: Tensor) -> tuple[Tensor, Target]:
        """Convert boxes (k, 4) of the input, clipped to the image, and the target to pixels of the original image."""
        if self.scale is None:
            return boxes, self
        across, down = self.scale
        factors = boxes.new_tensor([across, down, across, down])
        limits = boxes.new_tensor([self.size[1], self.size[0]] * 2)
        areas = None if self.areas is None else self.areas / (across * down)
        mine = replace(self, boxes=self.boxes / factors.to(self.boxes), areas=areas, scale=(1.0, 1.0))
        return torch.minimum((boxes / factors).clamp(min=0), limits), mine


class Targets(list[Target]):
    """The targets of several images: a list that can be indexed, split and moved like a tensor of labels."""

    def __getitem__(self, index: Any, /) -> Any:
        """Return one target for an integer, and Targets for a slice or a tensor of indices."""
        if isinstance(index, Tensor):
            return Targets(super(Targets, self).__getitem__(place) for place in index.tolist())
        found = super().__getitem__(index)
        return Targets(found) if isinstance(index, slice) else found

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Targets:
        """Move the targets to a device."""
        return Targets(target.to(device, non_blocking=non_blocking) for target in self)

    def tensor_split(self, parts: int) -> list[Targets]:
        """Split the targets in the same way as `torch.Tensor.tensor_split` splits the images."""
        return [self[index] for index in torch.arange(len(self)).tensor_split(parts)]


def collate(samples: Sequence[tuple[Tensor, Target]], multiple: int = _MULTIPLE) -> tuple[Tensor, Targets]:
    """Make a batch of images (C, H, W) and their targets, padded with zeros on the right and at the bottom.

    If the sizes differ, images are padded to the largest height and width of the batch, rounded up to `multiple`.

    Raises:
        InputError: The images have different numbers of channels.
    """
    images = [image for image, _ in samples]
    for image in images:
        if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[0] != images[0].shape[0]:
            got = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
            raise InputError(f"expected images (C, H, W) with the same number of channels, got {got}", where="batch")
    height, width = (max(image.shape[axis] for image in images) for axis in (1, 2))
    if any(image.shape != images[0].shape for image in images):
        height, width = (-(-side // multiple) * multiple for side in (height, width))
    padded = [F.pad(image, (0, width - image.shape[2], 0, height - image.shape[1])) for image in images]
    return torch.stack(padded), Targets(target for _, target in samples)
