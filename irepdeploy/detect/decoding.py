"""The decoding of an exported detector: which detections it returns, and the module that computes them."""

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
# Outputs of an exported detector, with the names and order of EfficientNMS_TRT and most others.
DETECTION_NAMES = ("num_dets", "boxes", "scores", "classes")
# Rounds of suppression in a static graph, for proposals and for detections. Proposals needed at most two rounds; the
# detections of an untrained network, whose scores are all nearly equal, needed twelve on 72 images. The export checks
# that more rounds would not change the detections of its inputs.
PROPOSAL_ROUNDS, ROUNDS = 8, 16
_IOU = 0.5


@dataclass(frozen=True)
class DetectionRule:
    """The rule by which an exported detector selects its detections.

    Args:
        mode: "raw" for the raw heads; "topk" for the detections with the highest scores; "nms" to also suppress those
            that overlap a better detection of their class; "plugin" for the same by EfficientNMS_TRT, which only
            TensorRT runs.
        score: Score that detections must exceed; None for the detector's own threshold.
        iou: Intersection over union above which the lower-scoring of two detections is suppressed; None for the
            detector's own, or else 0.5.
        max_detections: Maximum number of detections per image; None for the detector's own number.

    Raises:
        InputError: A value is invalid, or has no effect in this mode.
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
            # The limit of TensorRT's TopK.
            raise InputError(f"expected an integer from 1 to 3839, got {count!r}", where="max_detections")
        if self.mode == "raw" and (self.score, self.iou, count) != (None, None, None):
            raise InputError(
                "score, iou and max_detections have no effect on raw heads",
                where="detections",
                hint="use topk, nms or plugin",
            )
        if self.mode == "topk" and self.iou is not None:
            raise InputError("iou has no effect with topk, which suppresses nothing", where="iou", hint="use nms")

    def of(self, detector: Detector) -> DetectionRule:
        """Return the rule with the missing values taken from the detector."""
        own = getattr(detector, "iou", _IOU)
        return dataclasses.replace(
            self,
            score=detector.score_threshold if self.score is None else self.score,
            iou=None if self.mode == "topk" else own if self.iou is None else self.iou,
            max_detections=self.max_detections or detector.max_detections,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the rule as a JSON object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, value: object, where: object = None) -> DetectionRule:
        """Create a rule from the result of `to_dict`, or raise InputError."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(value, dict) or not set(value) <= known:
            raise InputError("damaged: not a rule of detections", where=where)
        return cls(**value)


class Decoding(nn.Module):
    """A module that computes detections from the raw heads of a detector.

    Args:
        detector: Detector; it is not changed.
        rule: Rule with the mode "topk" or "nms"; "plugin" means the same as "nms".
        rounds: Rounds of suppression, for a static graph; None to continue until nothing changes.
    """

    detector: Any

    def __init__(self, detector: Detector, rule: DetectionRule, *, rounds: int | None = None) -> None:
        super().__init__()
        rule = rule.of(detector)
        own: Any = copy.copy(detector)
        # Bypass nn.Module's registration, so that this module has no weights.
        self.__dict__["detector"] = own
        assert rule.score is not None and rule.max_detections is not None
        own.score_threshold, own.max_detections = rule.score, rule.max_detections
        self.suppresses = hasattr(detector, "iou")
        self.iou, self.rounds = rule.iou, 0 if rule.mode == "topk" else rounds
        if self.suppresses:
            own.rounds = self.rounds
            own.iou = 1.0 if rule.iou is None else rule.iou

    # Every detector has three heads; *heads could not be traced.
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
    """A detector that returns detections instead of raw heads."""

    def __init__(self, detector: Detector, rule: DetectionRule) -> None:
        super().__init__()
        self.detector = detector
        self.decoding = Decoding(detector, rule)

    def forward(self, images: Tensor) -> Found:
        """Return the detections of images (N, C, H, W)."""
        return self.decoding(*self.detector(images))


class Candidates(nn.Module):
    """A module that computes boxes and scores before suppression, as inputs of EfficientNMS_TRT.

    Args:
        detector: Detector; it is not changed.
    """

    detector: Any

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.__dict__["detector"] = detector
        self.by_class = hasattr(detector, "iou")

    def forward(self, first: Tensor, second: Tensor, third: Tensor) -> tuple[Tensor, Tensor]:
        """Return boxes (N, B, 4), or (N, B, classes, 4) if they depend on the class, and scores (N, B, classes)."""
        if self.by_class:
            return second, third
        # CenterNet: every cell is a candidate, with a score of 0 where the heatmap has no peak.
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
