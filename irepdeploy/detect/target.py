"""What is to be found in an image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from irepdeploy.errors import InputError

__all__ = ["Target", "Targets"]


@dataclass(frozen=True)
class Target:
    """The objects of one image.

    Args:
        boxes: (n, 4) float32, corners x0, y0, x1, y1 in pixels of the network's input.
        labels: (n,) int64 class indices.
        crowd: (n,) bool; a crowd is never a target of training, and detections inside it do not count as wrong.
        image_id: Number of the image in its annotations, which is not its place in the data set.
        size: (height, width) of the original image.
        areas: (n,) float32 areas of the objects, which COCO sorts into small, medium and large: those of the masks
            where there are masks. None for the areas of the boxes.
    """

    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    image_id: int
    size: tuple[int, int]
    areas: Tensor | None = None

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

    def to(self, device: torch.device | str) -> Target:
        """Move the target to a device."""
        areas = None if self.areas is None else self.areas.to(device)
        moved = {name: getattr(self, name).to(device) for name in ("boxes", "labels", "crowd")}
        return replace(self, **moved, areas=areas)


class Targets(list[Target]):
    """The targets of several images: a list that is indexed and moved like the labels of a `Split`."""

    def __getitem__(self, index: Any, /) -> Any:
        """Return one target for an integer, the Targets of a slice or of a tensor of indices otherwise."""
        if isinstance(index, Tensor):
            return Targets(super(Targets, self).__getitem__(place) for place in index.tolist())
        found = super().__getitem__(index)
        return Targets(found) if isinstance(index, slice) else found

    def to(self, device: torch.device | str) -> Targets:
        """Move the targets to a device."""
        return Targets(target.to(device) for target in self)
