"""CenterNet (Zhou et al. 2019, "Objects as Points") as in MMDetection: objects are peaks of a heatmap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.detect.deformable import DeformableConv
from irepdeploy.detect.detector import Backbone, Detector, Found, selected
from irepdeploy.detect.heatmap import focal_loss, heatmap, radii
from irepdeploy.detect.highest import highest
from irepdeploy.detect.target import Target

__all__ = ["CenterNet"]

# The logit of 0.1 (Lin et al. 2017), because most cells are not a centre.
_RARE = -2.197
_SMALL = 0.001
# A value below every logit, whose sigmoid is 0.
_NO_PEAK = -1e4


class CenterNet(Detector):
    """A detector with a heatmap of centres for each class, and sizes and offsets at its peaks.

    Parameters have the same names as in MMDetection.

    Args:
        backbone: Network that returns a tuple of maps, of which the last is used.
        num_classes: Number of classes.
        neck: Channels after each upsampling by 2.
        head: Channels of the heads.
        deformable: Use deformable convolutions (DCNv2) in the neck, as in MMDetection's better published result.
        max_detections: Maximum number of detections per image.
    """

    head_names: ClassVar[tuple[str, ...]] = ("heatmap", "size", "offset")

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        neck: Sequence[int] = (256, 128, 64),
        head: int = 64,
        deformable: bool = False,
        max_detections: int = 100,
    ) -> None:
        super().__init__()
        self.classes, self.max_detections, self.score_threshold = num_classes, max_detections, 0.0
        self.backbone = backbone
        channels, self.stride = backbone.channels[-1], backbone.strides[-1]
        self.cell = self.stride // 2 ** len(neck)
        self.neck = _Neck(channels, neck, deformable)
        self.bbox_head = _Heads(neck[-1], head, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the logits of centres (N, classes, h, w), sizes (N, 2, h, w) in cells, and offsets (N, 2, h, w)."""
        return self.bbox_head(self.neck(self.backbone(images)[-1]))

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return the focal loss of the heatmap and the L1 losses of sizes (times 0.1) and offsets."""
        centres, sizes, offsets = (each.float() for each in self(images))
        wanted, places, wide, shift = [], [], [], []
        height, width = centres.shape[2:]
        for index, target in enumerate(targets):
            boxes, labels = target.trained
            boxes = boxes / self.cell
            middle = (boxes[:, :2] + boxes[:, 2:]) / 2
            cells = middle.long()
            for axis, side in enumerate((width, height)):
                cells[:, axis].clamp_(0, side - 1)
            extent = boxes[:, 2:] - boxes[:, :2]
            wanted.append(heatmap(cells, radii(extent), labels, self.classes, (height, width)))
            places.append(torch.cat([torch.full_like(cells[:, :1], index), cells], 1))
            wide.append(extent)
            shift.append(middle - cells)
        image, x, y = torch.cat(places).unbind(1)
        objects = max(1, len(image))
        parts = {"heatmap": focal_loss(centres, torch.stack(wanted)) / objects}
        for name, found, due, weight in (("size", sizes, wide, 0.1), ("offset", offsets, shift, 1.0)):
            parts[name] = weight * (found[image, :, y, x] - torch.cat(due)).abs().sum() / (2 * objects)
        return parts

    def decode(self, *heads: Tensor) -> Found:
        """Return the detections at the highest peaks of the heatmaps of all classes."""
        centres, sizes, offsets = heads
        count, classes, height, width = centres.shape
        # Logits have the same peaks as their sigmoids, but are not rounded to 1.
        peaks = torch.where(F.max_pool2d(centres, 3, 1, 1) == centres, centres, torch.full_like(centres, _NO_PEAK))
        area = height * width
        best, index = highest(peaks.reshape(count, classes * area), min(self.max_detections, classes * area))
        labels = index // area
        place = index - labels * area
        row = place // width
        column = place - row * width
        pairs = place[:, None, :].expand(-1, 2, -1)
        extent, shift = (each.reshape(count, 2, area).gather(2, pairs) for each in (sizes, offsets))
        middle = torch.stack([column, row], 1).to(shift.dtype) + shift
        corners = torch.cat([middle - extent / 2, middle + extent / 2], 1) * self.cell
        edges = corners[:, 0::2].clamp(0, width * self.cell), corners[:, 1::2].clamp(0, height * self.cell)
        boxes = torch.stack([edges[0][:, 0], edges[1][:, 0], edges[0][:, 1], edges[1][:, 1]], 2)
        return selected(boxes, best.sigmoid(), labels, self.score_threshold)


class _Unit(nn.Module):
    """A convolution, a batch normalization and a ReLU."""

    def __init__(self, conv: nn.Module, channels: int) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.BatchNorm2d(channels)
        self.activate = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activate(self.bn(self.conv(x)))


class _Neck(nn.Module):
    """A 3x3 convolution and a transposed convolution for each upsampling by 2."""

    def __init__(self, channels: int, widths: Sequence[int], deformable: bool) -> None:
        super().__init__()
        units: list[nn.Module] = []
        for width in widths:
            kind = DeformableConv if deformable else nn.Conv2d
            conv = kind(channels, width, 3, padding=1, bias=False)
            larger = nn.ConvTranspose2d(width, width, 4, 2, 1, bias=False)
            _start_bilinear(larger)
            units += [_Unit(conv, width), _Unit(larger, width)]
            channels = width
        self.deconv_layers = nn.Sequential(*units)

    def forward(self, x: Tensor) -> Tensor:
        return self.deconv_layers(x)


class _Heads(nn.Module):
    """Three heads, each of a 3x3 and a 1x1 convolution."""

    def __init__(self, channels: int, width: int, classes: int) -> None:
        super().__init__()
        self.heatmap_head = _head(channels, width, classes)
        self.wh_head = _head(channels, width, 2)
        self.offset_head = _head(channels, width, 2)
        for name, parameter in self.named_parameters():
            if name == "heatmap_head.2.bias":
                nn.init.constant_(parameter, _RARE)
            elif not name.startswith("heatmap_head."):
                nn.init.zeros_(parameter) if parameter.ndim == 1 else nn.init.normal_(parameter, std=_SMALL)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.heatmap_head(x), self.wh_head(x), self.offset_head(x)


def _head(channels: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, outputs, 1))


def _start_bilinear(conv: nn.ConvTranspose2d) -> None:
    """Initialize the first output channel to bilinear upsampling, as in MMDetection; the others stay as they are."""
    if conv.weight.is_meta:
        return
    side = torch.arange(4, dtype=torch.float32)
    hat = 1 - (side / 2 - 0.75).abs()
    with torch.no_grad():
        conv.weight[:, 0] = hat[:, None] * hat
