"""How an exported detector gives its detections: which of them, and in which graph."""

from __future__ import annotations

import copy
import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.detect.boxes import clipped
from irepdeploy.detect.detector import Detector, Found, selected
from irepdeploy.detect.highest import highest
from irepdeploy.detect.suppression import kept
from irepdeploy.errors import InputError

__all__ = [
    "DETECTION_NAMES",
    "MODES",
    "PROPOSAL_ROUNDS",
    "ROUNDS",
    "Candidates",
    "Decoded",
    "Decoding",
    "DetectionRule",
]

MODES = ("raw", "topk", "nms", "plugin")
# Outputs of an exported detector, as EfficientNMS_TRT and most others name or order them.
DETECTION_NAMES = ("num_dets", "boxes", "scores", "classes")
# Rounds of suppression in a static graph: of proposals, which took two at most, and of detections, where an untrained
# network, all of whose scores are nearly equal, took twelve on 72 images. The export compares the detections of its
# inputs with those of as many rounds as it takes.
PROPOSAL_ROUNDS, ROUNDS = 8, 16
_IOU = 0.5


@dataclass(frozen=True)
class DetectionRule:
    """Which detections an exported detector gives.

    Args:
        mode: "raw": the heads; "topk": the best by score; "nms": the best without those that overlap a better one of
            their class; "plugin": the same by TensorRT's EfficientNMS_TRT, which nothing but TensorRT runs.
        score: Detections at or below it do not count; None: the detector's own threshold.
        iou: Intersection over union above which the lower of two goes; None: the detector's own, or 0.5.
        max_detections: Detections of an image, at most; None: the detector's own number.
    """

    mode: str = "raw"
    score: float | None = None
    iou: float | None = None
    max_detections: int | None = None

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"expected one of {', '.join(MODES)}, got {self.mode!r}", where="detections")
        for name, most in (("score", 1.0), ("iou", 1.0)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int | float) and 0 <= value <= most):
                raise InputError(f"expected a number from 0 to 1, got {value!r}", where=name)
        count = self.max_detections
        if count is not None and (type(count) is not int or not 1 <= count < 3840):
            # TensorRT's TopK takes no more.
            raise InputError(f"expected a whole number from 1 to 3839, got {count!r}", where="max_detections")
        if self.mode == "raw" and (self.score, self.iou, count) != (None, None, None):
            raise InputError(
                "score, iou and max_detections say nothing about raw heads",
                where="detections",
                hint="topk, nms, plugin",
            )
        if self.mode == "topk" and self.iou is not None:
            raise InputError("topk suppresses nothing", where="iou", hint="detections nms")

    def of(self, detector: Detector) -> DetectionRule:
        """Return the rule with the detector's own values where none are given."""
        own = getattr(detector, "iou", _IOU)
        return dataclasses.replace(
            self,
            score=detector.score_threshold if self.score is None else self.score,
            iou=None if self.mode == "topk" else own if self.iou is None else self.iou,
            max_detections=self.max_detections or detector.max_detections,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: object, where: object = None) -> DetectionRule:
        """Read the result of `to_dict`."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(value, dict) or not set(value) <= known:
            raise InputError("damaged: not a rule of detections", where=where)
        return cls(**value)


class Decoding(nn.Module):
    """Detections of a detector's raw heads, by a rule.

    Args:
        detector: A detector; it stays as it is.
        rule: "topk" or "nms"; "plugin" means the same as "nms".
        rounds: Rounds of suppression, for a static graph; None: until nothing changes.
    """

    detector: Any

    def __init__(self, detector: Detector, rule: DetectionRule, *, rounds: int | None = None) -> None:
        super().__init__()
        rule = rule.of(detector)
        own: Any = copy.copy(detector)
        # A plain attribute: this module has no weights of its own.
        self.__dict__["detector"] = own
        assert rule.score is not None and rule.max_detections is not None
        own.score_threshold, own.max_detections = rule.score, rule.max_detections
        self.suppresses = hasattr(detector, "iou")
        self.iou, self.rounds = rule.iou, 0 if rule.mode == "topk" else rounds
        if self.suppresses:
            own.rounds = self.rounds
            own.iou = 1.0 if rule.iou is None else rule.iou

    # Three arguments instead of *heads, which cannot be traced: every detector has three heads.
    def forward(self, first: Tensor, second: Tensor, third: Tensor) -> Found:
        """Return num_dets (N, 1) int32, boxes (N, K, 4), scores (N, K) and classes (N, K) int32."""
        found: Found = self.detector.decode(first, second, third)
        if self.suppresses or self.iou is None:
            return found
        _, boxes, scores, classes = found
        threshold = self.detector.score_threshold
        valid = (scores > threshold).to(scores.dtype)
        keep = kept(boxes, self.iou, valid, classes, self.rounds)
        best, index = highest(scores * keep, scores.shape[1])
        chosen = boxes.gather(1, index[..., None].expand(-1, -1, 4))
        return selected(chosen, best, classes.gather(1, index), threshold)


class Decoded(nn.Module):
    """A detector that returns detections instead of its heads."""

    def __init__(self, detector: Detector, rule: DetectionRule) -> None:
        super().__init__()
        self.detector = detector
        self.decoding = Decoding(detector, rule)

    def forward(self, images: Tensor) -> Found:
        """Return the detections of images (N, C, H, W)."""
        return self.decoding(*self.detector(images))


class Candidates(nn.Module):
    """Boxes and scores of a detector's raw heads before suppression, as EfficientNMS_TRT takes them.

    Args:
        detector: A detector; it stays as it is.
    """

    detector: Any

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.__dict__["detector"] = detector
        self.by_class = hasattr(detector, "iou")

    def forward(self, first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (N, B, 4), or (N, B, classes, 4) if they differ by class, and scores (N, B, classes)."""
        if self.by_class:
            return second, third
        # Of CenterNet: every cell is a candidate, and where the heatmap has no peak its score is 0.
        centres, sizes, offsets = first, second, third
        count, classes, height, width = centres.shape
        peaks = (F.max_pool2d(centres, 3, 1, 1) == centres).to(centres.dtype)
        scores = (centres.sigmoid() * peaks).reshape(count, classes, height * width).permute(0, 2, 1)
        rows, columns = torch.meshgrid(
            torch.arange(height, dtype=offsets.dtype), torch.arange(width, dtype=offsets.dtype), indexing="ij"
        )
        middle = torch.stack([columns, rows])[None] + offsets
        corners = torch.cat([middle - sizes / 2, middle + sizes / 2], 1) * self.detector.cell
        boxes = corners.reshape(count, 4, height * width).permute(0, 2, 1)
        return clipped(boxes, (height * self.detector.cell, width * self.detector.cell)), scores
