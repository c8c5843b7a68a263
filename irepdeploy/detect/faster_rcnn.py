"""Faster R-CNN with a feature pyramid (Ren et al. 2015, Lin et al. 2017), as in MMDetection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from irepdeploy.detect.anchors import Anchors
from irepdeploy.detect.assignment import assigned, sampled
from irepdeploy.detect.boxes import clipped, decoded, encoded, ious
from irepdeploy.detect.detector import Backbone, Detector, Found, selected
from irepdeploy.detect.fpn import FPN
from irepdeploy.detect.highest import highest
from irepdeploy.detect.roi import RoIAlign
from irepdeploy.detect.rpn import Proposals, RPNHead, rpn_loss
from irepdeploy.detect.suppression import kept
from irepdeploy.detect.target import Target

__all__ = ["FasterRCNN"]

_DEVIATIONS = (0.1, 0.1, 0.2, 0.2)
_POSITIVE, _SHARE = 0.5, 0.25
# Maximum number of (class, box) pairs in the final suppression.
_CANDIDATES = 1000


class FasterRCNN(Detector):
    """A two-stage detector: proposals from the maps of a pyramid, then classes and boxes from their contents.

    Parameters have the same names as in MMDetection.

    Args:
        backbone: Network that returns several maps, of which those with a stride of at least `finest_stride` are used.
        num_classes: Number of classes.
        pyramid: Channels of the pyramid.
        hidden: Width of the two linear layers.
        finest_stride: Stride of the finest map.
        scale: Side of the square anchor, in cells.
        side: Number of bins of RoIAlign in each direction.
        samples: Number of points of RoIAlign in each direction of a bin; 0 for adaptive, as in MMDetection's training.
        finest: Side in pixels of the boxes that are pooled from the finest map; see `RoIAlign`.
        proposals: Number of boxes per image that are classified.
        candidates: Number of boxes per map before suppression, in train mode and in eval mode.
        trained: Number of anchors and of boxes per image in a training step.
        score_threshold: Score that detections must exceed.
        iou: Intersection over union above which the lower-scoring of two detections of a class is suppressed.
        max_detections: Maximum number of detections per image.
        rounded: Round the corners of anchors, as in torchvision.
        aligned: Shift RoIAlign by half a pixel; torchvision's detectors do not.
    """

    head_names: ClassVar[tuple[str, ...]] = ("rois", "boxes", "scores")
    float32: ClassVar[tuple[str, ...]] = ("proposals", "pool", "refine")

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        pyramid: int = 256,
        hidden: int = 1024,
        finest_stride: int = 4,
        scale: float = 8,
        side: int = 7,
        samples: int = 2,
        finest: float = 56,
        proposals: int = 1000,
        candidates: tuple[int, int] = (2000, 1000),
        trained: tuple[int, int] = (256, 512),
        score_threshold: float = 0.05,
        iou: float = 0.5,
        max_detections: int = 100,
        rounded: bool = False,
        aligned: bool = True,
    ) -> None:
        super().__init__()
        self.classes, self.max_detections = num_classes, max_detections
        self.score_threshold, self.iou, self.trained = score_threshold, iou, trained
        self.backbone = backbone
        read = [index for index, stride in enumerate(backbone.strides) if stride >= finest_stride]
        self.first_map, self.stride = read[0], backbone.strides[-1]
        strides = [backbone.strides[index] for index in read]
        self.neck = FPN([backbone.channels[index] for index in read], pyramid)
        self.anchors = Anchors([*strides, 2 * strides[-1]], scale=scale, rounded=rounded)
        self.rpn_head = RPNHead(pyramid, self.anchors.count)
        self.proposals = Proposals(self.anchors, (candidates[0], candidates[1]), proposals)
        self.roi_head = _RoIHead(pyramid * side**2, hidden, num_classes)
        self.pool = RoIAlign(strides, side=side, samples=samples, finest=finest, aligned=aligned)
        self.refine = _Refine()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the proposals (N, R, 4), boxes of each class (N, R, classes, 4) and scores (N, R, classes).

        Boxes are clipped to the image. Proposals removed by suppression have scores of 0.
        """
        maps = self.neck(self.backbone(images)[self.first_map :])
        size = images.shape[2:]
        logits, deltas = self.rpn_head(maps)
        rois, valid = self.proposals(logits, deltas, size, self.rounds)
        logits, deltas = self.roi_head(self.pool(maps, rois))
        boxes, scores = self.refine(rois, valid, logits, deltas, size)
        return rois, boxes, scores

    def loss(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Return the losses of the proposals and of the boxes: cross-entropy and L1 for each."""
        maps = self.neck(self.backbone(images)[self.first_map :])
        logits, deltas = self.rpn_head(maps)
        parts = rpn_loss(self.anchors, logits, deltas, targets, self.trained[0])
        size = (images.shape[2], images.shape[3])
        with torch.no_grad():
            found, valid = self.proposals([each.float() for each in logits], [each.float() for each in deltas], size)
            chosen = [self._sampled(*each) for each in zip(found, valid, targets, strict=True)]
        rois = pad_sequence([boxes for boxes, _, _ in chosen], batch_first=True)
        labels = pad_sequence([labels for _, labels, _ in chosen], batch_first=True, padding_value=-1)
        due = pad_sequence([deltas for _, _, deltas in chosen], batch_first=True)
        logit, delta = (each.float() for each in self.roi_head(self.pool(maps, rois)))
        number = max(1, int((labels >= 0).sum()))
        classes = F.cross_entropy(logit.flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="sum")
        objects = (labels >= 0) & (labels < self.classes)
        mine = delta.unflatten(2, (self.classes, 4))[objects, labels[objects]]
        parts["classes"] = classes / number
        parts["boxes"] = (mine - due[objects]).abs().sum() / number
        return parts

    def _sampled(self, proposals: Tensor, valid: Tensor, target: Target) -> tuple[Tensor, Tensor, Tensor]:
        """Return the boxes of a training step, their labels (the number of classes for background) and their deltas."""
        truth, labels = target.trained
        boxes = torch.cat([truth.to(proposals.dtype), proposals[valid > 0]])
        objects = assigned(ious(boxes, truth.to(boxes.dtype)), positive=_POSITIVE, negative=_POSITIVE)
        positive, negative = sampled(objects, self.trained[1], _SHARE)
        chosen = torch.cat([positive, negative])
        wanted = labels.new_full((len(chosen),), self.classes)
        wanted[: len(positive)] = labels[objects[positive]]
        due = boxes.new_zeros(len(chosen), 4)
        due[: len(positive)] = encoded(boxes[positive], truth[objects[positive]].to(boxes.dtype), _DEVIATIONS)
        return boxes[chosen], wanted, due

    def decode(self, *heads: Tensor) -> Found:
        """Return the best detections after suppressing those that overlap a better one of their class."""
        _, boxes, scores = heads
        count, number, classes = scores.shape
        counts = (scores > self.score_threshold).to(scores.dtype)
        best, index = highest((scores * counts).reshape(count, -1), min(_CANDIDATES, number * classes))
        labels = index - index // classes * classes
        chosen = boxes.reshape(count, -1, 4).gather(1, index[..., None].expand(-1, -1, 4))
        keep = kept(chosen, self.iou, (best > 0).to(scores.dtype), labels, self.rounds)
        best, index = highest(best * keep, min(self.max_detections, best.shape[1]))
        chosen = chosen.gather(1, index[..., None].expand(-1, -1, 4))
        return selected(chosen, best, labels.gather(1, index), self.score_threshold)


class _RoIHead(nn.Module):
    """The head with two shared linear layers, and one linear layer each for classes and boxes."""

    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.bbox_head = _BoxHead(inputs, hidden, classes)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        return self.bbox_head(pooled)


class _BoxHead(nn.Module):
    def __init__(self, inputs: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.shared_fcs = nn.ModuleList([nn.Linear(inputs, hidden), nn.Linear(hidden, hidden)])
        self.fc_cls = nn.Linear(hidden, classes + 1)
        self.fc_reg = nn.Linear(hidden, 4 * classes)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.startswith("shared"):
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.normal_(parameter, std=0.01 if name.startswith("fc_cls") else 0.001)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, R, C, side, side) to logits (N, R, classes + 1), background last, and deltas (N, R, 4 * classes)."""
        x = pooled.flatten(2)
        for layer in self.shared_fcs:
            x = F.relu(layer(x))
        return self.fc_cls(x), self.fc_reg(x)


class _Refine(nn.Module):
    """A module that computes the boxes and scores of each class from logits and deltas."""

    traced_whole = True

    def forward(
        self, rois: Tensor, valid: Tensor, logits: Tensor, deltas: Tensor, size: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        scores = logits.softmax(-1)[..., :-1] * valid[..., None]
        moves = deltas.unflatten(2, (scores.shape[2], 4))
        return clipped(decoded(rois[:, :, None], moves, _DEVIATIONS), size), scores
