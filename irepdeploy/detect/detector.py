"""The interface of a detector."""

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
    """The interface of a detector's backbone, a module that returns several maps.

    Attributes:
        channels: Number of channels of each map.
        strides: Stride of each map in pixels of the input per cell.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def first(self, stages: int) -> list[nn.Module]:
        """Return the modules of the stem and of the first `stages` stages, for freezing them."""
        ...

    def __call__(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of all stages."""
        ...


class Detector(nn.Module):
    """Base class of networks that find the boxes of objects.

    `forward` maps images (N, C, H, W) to raw heads, a tuple of tensors, in train mode and in eval mode. The attribute
    `backbone` is the part to which the branches, weights and freezing in recipes apply.

    Attributes:
        head_names: Names of the heads, in the order of `forward`.
        classes: Number of classes.
        max_detections: Maximum number of detections per image.
        stride: Number of which the height and width of the images must be multiples.
        score_threshold: Score that detections must exceed.
        float32: Modules that compute boxes and stay float32 in a half-precision file.
        rounds: Rounds of suppression in a static graph; None to continue until nothing changes. See
            `irepdeploy.detect.suppression.kept`.
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
        """Return the parts of the training loss of a batch by name. Their sum is minimized."""

    @abstractmethod
    def decode(self, *heads: Tensor) -> Found:
        """Compute detections from the raw heads, in order of decreasing score, without using any weights.

        Shapes do not depend on values, so that the operators can be exported. Rows from num_dets on are 0.

        Returns:
            num_dets (N, 1) int32; boxes (N, K, 4), which are left, top, right, bottom in pixels of the input; scores
            (N, K) in [0, 1]; classes (N, K) int32. K is at most `max_detections`.
        """


def selected(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Found:
    """Return sorted detections (N, K) as `Detector.decode` does, setting those at or below a threshold to 0."""
    counts = scores > threshold
    number = counts.to(torch.int32).sum(1, keepdim=True).to(torch.int32)
    weight = counts.to(scores.dtype)
    return number, boxes * weight[..., None], scores * weight, (classes.to(scores.dtype) * weight).to(torch.int32)
