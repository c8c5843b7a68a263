"""Networks of cells in the two skeletons of DARTS: for 32x32 images, and for ImageNet in the mobile setting.

The auxiliary head and drop-path, which are only used in training, are not included.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from irepdeploy.network.nets.genotype import CellGenotype, genotype_of
from irepdeploy.network.nets.operations import FactorizedReduction, OperationSet, operation, pointwise

__all__ = ["Cell", "CellNetwork"]


class Cell(nn.Module):
    """One cell, which reads the outputs of the last two cells.

    Args:
        genotype: Operations of the cell.
        sources: Channels of the outputs of the second-to-last and of the last cell.
        channels: Channels of each node.
        operations: How to build the operations.
        reduction: Whether operations on nodes 0 and 1 have stride 2.
        after_reduction: Whether the last cell was a reduction, so that the first input is twice as large.
    """

    def __init__(
        self,
        genotype: CellGenotype,
        sources: tuple[int, int],
        channels: int,
        *,
        operations: OperationSet,
        reduction: bool,
        after_reduction: bool,
    ) -> None:
        super().__init__()
        affine = operations.affine
        first = FactorizedReduction if after_reduction else pointwise
        self.preprocess0 = first(sources[0], channels, affine)
        self.preprocess1 = pointwise(sources[1], channels, affine)
        self.nodes = nn.ModuleList()
        for edges in genotype.nodes:
            strides = [2 if reduction and source < 2 else 1 for _, source in edges]
            self.nodes.append(
                nn.ModuleList(
                    operation(name, channels, stride, operations)
                    for (name, _), stride in zip(edges, strides, strict=True)
                )
            )
        self.sources = tuple(tuple(source for _, source in edges) for edges in genotype.nodes)
        self.concat = genotype.concat
        self.out_channels = len(genotype.concat) * channels

    def forward(self, s0: Tensor, s1: Tensor) -> Tensor:
        """Map the outputs of the second-to-last and of the last cell to (N, out_channels, H, W)."""
        states = [self.preprocess0(s0), self.preprocess1(s1)]
        for node, sources in zip(self.nodes, self.sources, strict=True):
            total = None
            for module, source in zip(node, sources, strict=True):  # type: ignore[call-overload]  # a ModuleList
                out = module(states[source])
                total = out if total is None else total + out
            states.append(total)
        return torch.cat([states[index] for index in self.concat], 1)


class CellNetwork(nn.Module):
    """A stem, a sequence of cells, global average pooling and a linear layer.

    The cells at one third and two thirds of the depth halve the map and double the channels.

    Args:
        genotype: A name in ``genotypes.json``, or an object of the same format.
        channels: Channels of each node in the first cells.
        cells: Number of cells.
        stem: "cifar" is one 3x3 convolution to three times `channels`, for H and W in multiples of 4. "imagenet" is
            three 3x3 convolutions of stride 2, for H and W in multiples of 32.
        num_classes: Number of outputs.
        in_channels: Number of input channels.

    Raises:
        ModelError: The genotype is not valid.
        ValueError: The number of channels is odd, or the genotype has another number of cells.
    """

    def __init__(
        self,
        *,
        genotype: str | Mapping[str, Any],
        channels: int,
        cells: int,
        stem: Literal["cifar", "imagenet"] = "imagenet",
        num_classes: int = 1000,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        found = genotype_of(genotype)
        if found.cells and len(found.cells) != cells:
            raise ValueError(f"expected a genotype of {cells} cells, got {len(found.cells)}")
        if stem not in ("cifar", "imagenet") or channels < 2 or channels % 2 or cells < 1:
            raise ValueError(f"stem {stem!r} with {channels} channels and {cells} cells")
        reductions = (cells // 3, 2 * cells // 3)
        small = stem == "cifar"
        self.stem0, self.stem1 = _stems(small, in_channels, channels)
        sources = (3 * channels, 3 * channels) if small else (channels, channels)
        after_reduction = not small
        self.cells = nn.ModuleList()
        for index in range(cells):
            reduction = index in reductions
            channels = 2 * channels if reduction else channels
            cell = Cell(
                found.cell(index, reduction),
                sources,
                channels,
                operations=found.operations,
                reduction=reduction,
                after_reduction=after_reduction,
            )
            self.cells.append(cell)
            sources, after_reduction = (sources[1], cell.out_channels), reduction
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.head = nn.Linear(sources[1], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, num_classes)."""
        s0 = self.stem0(x)
        s1 = s0 if self.stem1 is None else self.stem1(s0)
        for cell in self.cells:
            s0, s1 = s1, cell(s0, s1)
        return self.head(self.flatten(self.pool(s1)))


def _stems(small: bool, in_channels: int, channels: int) -> tuple[nn.Module, nn.Module | None]:
    if small:
        return nn.Sequential(_conv(in_channels, 3 * channels, 1), nn.BatchNorm2d(3 * channels)), None
    half = channels // 2
    first = nn.Sequential(
        _conv(in_channels, half, 2),
        nn.BatchNorm2d(half),
        nn.ReLU(),
        _conv(half, channels, 2),
        nn.BatchNorm2d(channels),
    )
    return first, nn.Sequential(nn.ReLU(), _conv(channels, channels, 2), nn.BatchNorm2d(channels))


def _conv(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
