"""Detectors of the registry: a backbone of ours, and the parts of `irepdeploy.detect`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from irepdeploy.detect.centernet import CenterNet
from irepdeploy.network.nets.resnet import ResNetMaps
from irepdeploy.network.nets.vgg import VGGMaps

__all__ = ["centernet_resnet", "centernet_vgg"]


def centernet_resnet(
    *,
    num_classes: int,
    in_channels: int = 3,
    block: Literal["basic", "bottleneck"] = "basic",
    depths: Sequence[int] = (2, 2, 2, 2),
    width: int = 64,
    **args: Any,
) -> CenterNet:
    """Build CenterNet on a residual network."""
    backbone = ResNetMaps(block=block, depths=depths, in_channels=in_channels, width=width)
    return CenterNet(backbone, num_classes, **args)


def centernet_vgg(*, num_classes: int, in_channels: int = 3, stages: Sequence[Sequence[int]], **args: Any) -> CenterNet:
    """Build CenterNet on a small VGG."""
    return CenterNet(VGGMaps(stages=stages, in_channels=in_channels), num_classes, **args)
