"""The contract of a detector."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from irepdeploy.detect.target import Target

__all__ = ["Backbone", "Detector", "Found", "selected"]

# num_dets (N, 1) int32, boxes (N, K, 4), scores (N, K), classes (N, K) int32.
Found = tuple[Tensor, Tensor, Tensor, Tensor]


class Backbone(Protocol):
    """What a detector needs of the network that it reads maps of: a module, whose type torch leaves open.

    Attributes:
        channels: Channels of each map.
        strides: Pixels of the input that a cell of each map stands for.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def first(self, stages: int) -> list[nn.Module]:
        """Return the modules of the stem and of the first stages, as freezes count them."""
        ...

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the map of each stage."""
        ...


class Detector(nn.Module):
    """A network that finds boxes of objects.

    `forward` maps images (N, C, H, W) to raw heads, a tuple of tensors, in train mode and in eval mode. `backbone` is
    the part whose branches, weights and freezes recipes name.

    Attributes:
        head_names: Names of the heads, in the order of `forward`.
        classes: Number of classes.
        max_detections: Detections of an image, at most.
        stride: Height and width of the images are multiples of it.
        score_threshold: Detections at or below it do not count.
        float32: Modules that compute boxes: they stay float32 in a file of half precision.
        rounds: Rounds of suppression in a static graph, None until nothing changes; see `kept`.
    """

    head_names: ClassVar[tuple[str, ...]]
    float32: ClassVar[tuple[str, ...]] = ()
    backbone: Any
    classes: int
    max_detections: int
    stride: int
    score_threshold: float
    rounds: int | None = None

    @abstractmethod
    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return the parts of the loss of a batch in training by name, whose sum is what is minimised."""

    @abstractmethod
    def decode(self, *heads: Tensor) -> Found:
        """Return the detections of raw heads by falling score, without reading a weight.

        Shapes do not depend on values, so that the operators export. Rows from num_dets on are 0.

        Returns:
            num_dets (N, 1) int32; boxes (N, K, 4): left, top, right, bottom in pixels of the input; scores (N, K) in
            [0, 1]; classes (N, K) int32. K is at most `max_detections`.
        """


def selected(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Found:
    """Return detections by falling score (N, K) as `Detector.decode` does: those at or below a threshold become 0."""
    counts = scores > threshold
    number = counts.to(torch.int32).sum(1, keepdim=True).to(torch.int32)
    weight = counts.to(scores.dtype)
    return number, boxes * weight[..., None], scores * weight, (classes.to(scores.dtype) * weight).to(torch.int32)
