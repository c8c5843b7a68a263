"""The registry: all networks by name, with their builder, input, branches for training, and notes for tables.

RepVGG, RepNAS and ACNet in Table 2 are VGG-16 with their branches; fused they all have the same graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from irepdeploy.network.nets import cells, detectors, repvgg, resnet, vgg

__all__ = ["NETS", "Net"]


@dataclass(frozen=True)
class Net:
    """A network of the registry.

    Attributes:
        builder: Function that builds the plain network from `num_classes`, `in_channels` and `args`.
        input_shape: Default input shape (C, H, W); other sizes work if the strides of the network allow them.
        num_classes: Default number of classes.
        args: Keyword arguments of the builder.
        branches: Name of a preset or of a published Architecture, names of branches, or None for a plain network.
        least: Smallest height and width.
        multiple: Number of which height and width must be multiples.
        note: How the network differs from the published one, and why; shown in tables.
        where: Layers that get branches, as in `insert_branches`.
    """

    builder: Callable[..., nn.Module]
    input_shape: tuple[int, int, int]
    num_classes: int
    args: dict[str, Any] = field(default_factory=dict)
    branches: str | tuple[str, ...] | None = None
    least: int = 1
    multiple: int = 1
    note: str = ""
    where: str = "*"


_SMALL, _LARGE = (3, 32, 32), (3, 224, 224)
_VGG16: dict[str, Any] = {"stages": vgg.VGG16_STAGES, "bias": True}
_RESNET18: dict[str, Any] = {"block": "basic", "depths": (2, 2, 2, 2)}
_RESNET34: dict[str, Any] = {"block": "basic", "depths": (3, 4, 6, 3)}
_RESNET50: dict[str, Any] = {"block": "bottleneck", "depths": (3, 4, 6, 3)}

_NO_ARCHITECTURE = (
    "with every candidate branch: the paper publishes no Architecture for CIFAR-10; fused it is the plain network"
)
_COLUMNS = (
    "which column of the paper's matrix is which branch is inferred; in training {ours}M parameters, the paper counts "
    "{paper}M; fused it is the plain network"
)
_GROWN = (
    "every convolution beyond 1x1 grown once{count}: which ones a training grows depends on its data; fused it is the "
    "plain network"
)
_REPNAS = (
    "with every branch of its search space: which ones it kept on VGG-16 was not found; fused it is the plain network"
)
_PDARTS = "the cell of its published code; its paper draws that of another run"
_CARS = "no code that builds it was found: its cells in the skeleton of DARTS{size}"
_AMOEBANET = "the cell as the code of DARTS has it, in the skeleton of DARTS, {ours}M parameters; {published}"
_GOLDNAS_CIFAR = (
    "the one genotype (s1) of an unofficial implementation, 3.44M parameters; the published one of 3.67M was not found"
)
_GOLDNAS = (
    "stand-in: the CIFAR-10 genotype s1 of an unofficial implementation in the ImageNet skeleton of DARTS with 46 "
    "channels, 6.29M parameters; the published one of 6.4M was not found"
)

_SMALL_FASTER_RCNN: dict[str, Any] = {
    "stages": ((16,), (32,), (48, 48), (64,)),
    "pyramid": 32,
    "hidden": 128,
    "scale": 3,
    "side": 5,
    "samples": 1,
    "finest": 14,
    "proposals": 60,
    "candidates": (200, 200),
    "trained": (256, 32),
}
_DETECTED = (
    "the Architecture that the paper publishes for classification, in the backbone; fused it is the plain network"
)


def _repvgg(depths: Sequence[int], a: float, b: float, groups: int = 1) -> Net:
    args = {"depths": depths, "widths": (a, b), "groups": groups}
    return Net(repvgg.RepVGG, _LARGE, 1000, args, branches="repvgg")


def _cifar(genotype: str, *, count: int = 20, note: str = "") -> Net:
    args = {"genotype": genotype, "channels": 36, "cells": count, "stem": "cifar"}
    return Net(cells.CellNetwork, _SMALL, 10, args, multiple=4, note=note)


def _imagenet(genotype: str, *, channels: int = 48, note: str = "") -> Net:
    args = {"genotype": genotype, "channels": channels, "cells": 14}
    return Net(cells.CellNetwork, _LARGE, 1000, args, multiple=32, note=note)


def _peers(preset: str, vgg16: str = "", resnets: Sequence[str] = ("", "", "")) -> dict[str, Net]:
    """Return the networks of the tables with the branches of a competing method, and their notes."""
    found = {f"{preset}_vgg16": Net(vgg.VGG, _SMALL, 10, _VGG16, preset, least=32, note=vgg16)}
    for layers, args, note in zip((18, 34, 50), (_RESNET18, _RESNET34, _RESNET50), resnets, strict=True):
        found[f"{preset}_resnet{layers}"] = Net(resnet.ResNet, _LARGE, 1000, args, preset, note=note)
    return found


def _irep(args: dict[str, Any], name: str, ours: str, paper: str) -> Net:
    return Net(resnet.ResNet, _LARGE, 1000, args, name, note=_COLUMNS.format(ours=ours, paper=paper))


def _detector(builder: Callable[..., nn.Module], *, branches: str | None = None, note: str = "", **args: Any) -> Net:
    pyramid = builder is detectors.faster_rcnn_resnet
    size, multiple = (800, 1) if pyramid else (512, 32)
    return Net(builder, (3, size, size), 80, args, branches, least=32, multiple=multiple, note=note, where="backbone")


NETS: dict[str, Net] = {
    "vgg6": Net(vgg.VGG, (1, 16, 16), 10, {"stages": ((16, 16), (32, 32), (64, 64))}, least=8),
    "compact6": Net(vgg.VGG, (1, 28, 28), 10, {"stages": ((8, 8), (16, 16), (32, 32)), "strided": True}),
    "small_vgg6": Net(vgg.VGG, (1, 28, 28), 10, {"stages": ((32, 32), (64, 64), (128, 128))}, least=8),
    "small_resnet18": Net(resnet.ResNet, (1, 28, 28), 10, {**_RESNET18, "stem": "cifar", "width": 16}),
    "vgg16": Net(vgg.VGG, _SMALL, 10, _VGG16, least=32),
    "vgg16_acnet": Net(vgg.VGG, _SMALL, 10, {"stages": vgg.VGG16_STAGES, "hidden": 512}, least=32),
    "resnet18_cifar": Net(resnet.ResNet, _SMALL, 10, {**_RESNET18, "stem": "cifar"}),
    "resnet18": Net(resnet.ResNet, _LARGE, 1000, _RESNET18),
    "resnet34": Net(resnet.ResNet, _LARGE, 1000, _RESNET34),
    "resnet50": Net(resnet.ResNet, _LARGE, 1000, _RESNET50),
    "irep_vgg16": Net(vgg.VGG, _SMALL, 10, _VGG16, "ireps", least=32, note=_NO_ARCHITECTURE),
    "irep_resnet18_cifar": Net(
        resnet.ResNet, _SMALL, 10, {**_RESNET18, "stem": "cifar"}, "ireps-resnet-cifar", note=_NO_ARCHITECTURE
    ),
    "irep_resnet18": _irep(_RESNET18, "irep-resnet18", "18.87", "18.23"),
    "irep_resnet34": _irep(_RESNET34, "irep-resnet34", "37.64", "36.12"),
    "irep_resnet50": _irep(_RESNET50, "irep-resnet50", "29.38", "29.04"),
    "repvgg_vgg16": Net(vgg.VGG, _SMALL, 10, _VGG16, "repvgg", least=32),
    "repnas_vgg16": Net(
        vgg.VGG,
        _SMALL,
        10,
        _VGG16,
        ("conv1x1", "conv1x1_3x3", "conv1x1_avg3x3", "conv1x3", "conv3x1", "identity"),
        least=32,
        note=_REPNAS,
    ),
    **_peers("acnet"),
    **_peers("dbb"),
    **_peers(
        "dyrep",
        _GROWN.format(count=""),
        [
            _GROWN.format(count=f", {ours}M parameters in training where {published}M are published")
            for ours, published in (("33.66", "16.9"), ("64.04", "33.1"), ("48.27", "31.5"))
        ],
    ),
    "repvgg_a0": _repvgg(repvgg.A_DEPTHS, 0.75, 2.5),
    "repvgg_a1": _repvgg(repvgg.A_DEPTHS, 1, 2.5),
    "repvgg_a2": _repvgg(repvgg.A_DEPTHS, 1.5, 2.75),
    "repvgg_b0": _repvgg(repvgg.B_DEPTHS, 1, 2.5),
    "repvgg_b1": _repvgg(repvgg.B_DEPTHS, 2, 4),
    "repvgg_b1g2": _repvgg(repvgg.B_DEPTHS, 2, 4, groups=2),
    "repvgg_b1g4": _repvgg(repvgg.B_DEPTHS, 2, 4, groups=4),
    "repvgg_b2": _repvgg(repvgg.B_DEPTHS, 2.5, 5),
    "repvgg_b2g4": _repvgg(repvgg.B_DEPTHS, 2.5, 5, groups=4),
    "repvgg_b3": _repvgg(repvgg.B_DEPTHS, 3, 5),
    "repvgg_b3g4": _repvgg(repvgg.B_DEPTHS, 3, 5, groups=4),
    "darts_cifar": _cifar("darts_v2"),
    "darts": _imagenet("darts_v2"),
    "pdarts_cifar": _cifar("pdarts", note=_PDARTS),
    "pdarts": _imagenet("pdarts", note=_PDARTS),
    **{
        name: net
        for letter in "abcdefghi"
        for name, net in (
            (f"cars_{letter}_cifar", _cifar(f"cars_{letter}", note=_CARS.format(size=", of its published size"))),
            (f"cars_{letter}", _imagenet(f"cars_{letter}", note=_CARS.format(size=", of its published size"))),
        )
    },
    **{
        f"cars_lat_{letter}": _imagenet(f"cars_lat_{letter}", note=_CARS.format(size="; its size is not published"))
        for letter in "abcdefg"
    },
    "amoebanet_a_cifar": _cifar(
        "amoebanet_a",
        note=_AMOEBANET.format(ours="3.15", published="the 3.2M that the paper quotes are of Google's own network"),
    ),
    "amoebanet_a": _imagenet(
        "amoebanet_a", note=_AMOEBANET.format(ours="4.63", published="the published 5.1M are of Google's own network")
    ),
    "goldnas_cifar": _cifar("goldnas_s1", count=14, note=_GOLDNAS_CIFAR),
    "goldnas": _imagenet("goldnas_s1", channels=46, note=_GOLDNAS),
    "centernet_vgg6": Net(
        detectors.centernet_vgg,
        (1, 64, 64),
        10,
        {"stages": ((16,), (32,), (48, 48)), "neck": (48,), "head": 32},
        least=8,
        multiple=8,
        where="backbone",
    ),
    "faster_rcnn_vgg6_fpn": Net(
        detectors.faster_rcnn_vgg, (1, 64, 64), 10, _SMALL_FASTER_RCNN, least=16, multiple=16, where="backbone"
    ),
    "centernet_resnet18": _detector(detectors.centernet_resnet),
    "centernet_dcn_resnet18": _detector(detectors.centernet_resnet, deformable=True),
    "irep_centernet_resnet18": _detector(detectors.centernet_resnet, branches="irep-resnet18", note=_DETECTED),
    "irep_centernet_dcn_resnet18": _detector(
        detectors.centernet_resnet, branches="irep-resnet18", deformable=True, note=_DETECTED
    ),
    "dyrep_centernet_resnet18": _detector(detectors.centernet_resnet, branches="dyrep", note=_GROWN.format(count="")),
    "faster_rcnn_resnet50_fpn": _detector(detectors.faster_rcnn_resnet),
    "irep_faster_rcnn_resnet50_fpn": _detector(detectors.faster_rcnn_resnet, branches="irep-resnet50", note=_DETECTED),
    "dyrep_faster_rcnn_resnet50_fpn": _detector(
        detectors.faster_rcnn_resnet, branches="dyrep", note=_GROWN.format(count="")
    ),
}
