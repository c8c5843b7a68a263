"""Detectors of the registry, built from a backbone of the registry and the parts of `irepdeploy.detect`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from irepdeploy.detect.centernet import CenterNet
from irepdeploy.detect.faster_rcnn import FasterRCNN
from irepdeploy.network.nets.resnet import ResNetMaps
from irepdeploy.network.nets.vgg import VGGMaps

__all__ = ["centernet_resnet", "centernet_vgg", "faster_rcnn_resnet", "faster_rcnn_vgg"]


def centernet_resnet(
    *,
    num_classes: int,
    in_channels: int = 3,
    block: Literal["basic", "bottleneck"] = "basic",
    depths: Sequence[int] = (2, 2, 2, 2),
    width: int = 64,
    **args: Any,
) -> CenterNet:
    """Build a CenterNet with a residual network as its backbone.

    Args:
        num_classes: Number of classes.
        in_channels: Number of input channels.
        block: Kind of the residual blocks, see `ResNet`.
        depths: Number of blocks in each stage.
        width: Channels of the first stage.
        args: Arguments of `CenterNet`.
    """
    backbone = ResNetMaps(block=block, depths=depths, in_channels=in_channels, width=width)
    return CenterNet(backbone, num_classes, **args)


def centernet_vgg(*, num_classes: int, in_channels: int = 3, stages: Sequence[Sequence[int]], **args: Any) -> CenterNet:
    """Build a CenterNet with a small VGG as its backbone; `stages` is as for `VGG`, and `args` are for `CenterNet`."""
    return CenterNet(VGGMaps(stages=stages, in_channels=in_channels), num_classes, **args)


def faster_rcnn_resnet(
    *,
    num_classes: int,
    in_channels: int = 3,
    block: Literal["basic", "bottleneck"] = "bottleneck",
    depths: Sequence[int] = (3, 4, 6, 3),
    width: int = 64,
    **args: Any,
) -> FasterRCNN:
    """Build a Faster R-CNN with a feature pyramid on a residual network.

    Args:
        num_classes: Number of classes.
        in_channels: Number of input channels.
        block: Kind of the residual blocks, see `ResNet`.
        depths: Number of blocks in each stage.
        width: Channels of the first stage.
        args: Arguments of `FasterRCNN`.
    """
    backbone = ResNetMaps(block=block, depths=depths, in_channels=in_channels, width=width)
    return FasterRCNN(backbone, num_classes, **args)


def faster_rcnn_vgg(
    *, num_classes: int, in_channels: int = 3, stages: Sequence[Sequence[int]], **args: Any
) -> FasterRCNN:
    """Build a Faster R-CNN with a feature pyramid on a small VGG.

    `stages` is as for `VGG`, and `args` are for `FasterRCNN`.
    """
    return FasterRCNN(VGGMaps(stages=stages, in_channels=in_channels), num_classes, **args)
