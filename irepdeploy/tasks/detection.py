"""Object detection: boxes and classes of the objects in an image."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from irepdeploy.detect.boxes import ious
from irepdeploy.detect.coco_metric import average_precision
from irepdeploy.detect.detections import Detections
from irepdeploy.detect.detector import Detector, Found
from irepdeploy.detect.target import Target
from irepdeploy.errors import InputError
from irepdeploy.tasks.batches import wide
from irepdeploy.tasks.jackknife import Rows, Vector
from irepdeploy.tasks.metric import Interval, Metric
from irepdeploy.tasks.task import Task

__all__ = ["Detection"]

# Maximum number of objects per image in a row of statistics; COCO has at most 93.
_MOST_OBJECTS = 200
# Numbers per detection (left, top, right, bottom, score, class) and per object (corners, class, crowd, area).
_DETECTION, _OBJECT = 6, 7
# Average precision is not a sum over images, so it is recomputed without each of this many groups of images. The
# quantile is that of Student's t.
_GROUPS, _QUANTILE = 10, 2.262


@dataclass(frozen=True)
class Detection(Task):
    """Object detection by a `Detector`, scored by COCO's average precision, the mean over classes and overlaps.

    The network itself computes the loss from images and targets. The statistics of an image are its detections and
    objects, from which the whole set is scored at once.

    Args:
        detector: Network that decodes the outputs; see `bound`.
    """

    detector: Detector | None = None
    name: ClassVar[str] = "detection"
    metric: ClassVar[Metric] = Metric("AP", "%")

    def bound(self, net: nn.Module) -> Detection:
        """Return the task for the outputs of a network.

        Raises:
            InputError: The network is not a `Detector`.
        """
        if not isinstance(net, Detector):
            raise InputError(
                f"expected a network that detects, got {type(net).__name__}",
                where="net",
                hint="centernet_resnet18, faster_rcnn_resnet50_fpn, or an irepdeploy.detect.detector.Detector",
            )
        return replace(self, detector=net)

    def objective(self, net: nn.Module) -> nn.Module:
        """Return a module that computes the loss from images and targets."""
        return _Objective(net)

    def outputs(self, raw: Any) -> Found:
        """Return the detections decoded from the raw heads, in float32."""
        return self._detector.decode(*wide(raw))

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        """Raise InputError, because decoded detections have no gradient; see `objective`."""
        raise InputError("a detector computes its loss from images and targets", where="task detection")

    def statistics(self, outputs: Found, targets: Any) -> Tensor:
        """Return the detections and objects of each image, padded with zeros, and a measure of its missed objects."""
        number, boxes, scores, classes = (each.float() for each in outputs)
        # COCO scores in pixels of the original images, which define small and large objects.
        pairs = [target.original(each) for each, target in zip(boxes, targets, strict=True)]
        boxes, targets = torch.stack([each for each, _ in pairs]), [target for _, target in pairs]
        found = torch.cat([number, torch.cat([boxes, scores[..., None], classes[..., None]], 2).flatten(1)], 1)
        rows = [self._row(target, found) for target in targets]
        missed = [self._missed(*each) for each in zip(boxes, scores, classes, targets, strict=True)]
        return torch.cat([found, torch.stack(rows), torch.stack(missed)[:, None]], 1)

    def score(self, totals: Vector, count: int) -> float:
        """Raise InputError, because average precision is not a function of sums; see `score_rows`."""
        raise InputError("average precision is not a sum over images", where="task detection")

    def score_rows(self, statistics: Rows) -> float:
        """Return the average precision; NaN if no image has objects."""
        return self.figures_rows(statistics)["AP"]

    def figures_rows(self, statistics: Rows) -> dict[str, float]:
        """Return AP, AP50, AP75, and the AP of small, medium and large objects if there are any."""
        found, targets = self._unpacked(statistics)
        if not any(bool((~target.crowd).any()) for target in targets):
            return {"AP": float("nan")}
        result = average_precision(found, targets)
        sizes = {"AP small": result.small, "AP medium": result.medium, "AP large": result.large}
        sized = {name: value for name, value in sizes.items() if value is not None}
        return {"AP": result.ap, "AP50": result.ap50, "AP75": result.ap75, **sized}

    def contributions(self, statistics: Rows) -> Vector:
        """Return a value per image, equal within each group of images, with the average precision as their mean."""
        count = statistics.shape[1]
        groups, score = min(_GROUPS, count), self.score_rows(statistics)
        index = np.arange(count) % groups
        if groups < 2:
            return np.full(count, score)
        without = [self.score_rows(statistics[:, index != group]) for group in range(groups)]
        # NaN occurs if only one group has objects.
        parts = np.nan_to_num(np.array(without), nan=0.0)
        values = (-(groups - 1) * parts)[index]
        return values - values.mean() + score

    def interval(self, statistics: Rows) -> Interval | None:
        """Return the interval by the delete-a-group jackknife; None for fewer than ten images."""
        count = statistics.shape[1]
        groups = min(_GROUPS, count)
        if groups < _GROUPS:
            return None
        values = self.contributions(statistics)
        score = float(values.mean())
        half = _QUANTILE * float(values[:groups].std(ddof=1)) / groups**0.5
        return Interval(max(0.0, score - half), min(1.0, score + half), f"jackknife, {groups} groups of images")

    def check(self, outputs: Any, targets: Any, where: str) -> None:
        """Raise InputError if a target is not a `Target`, a label is outside the classes, or a box is not finite."""
        for target in targets if isinstance(targets, list | tuple) else [targets]:
            if not isinstance(target, Target):
                hint = "a sample is (image, irepdeploy.detect.target.Target)"
                raise InputError(f"expected the objects of images, got {type(target).__name__}", where=where, hint=hint)
            labels, classes = target.labels, self._detector.classes
            bad = labels[(labels < 0) | (labels >= classes)]
            if len(bad):
                raise InputError(
                    f"expected labels from 0 to {classes - 1}, got {int(bad[0])}", where=f"{where}, {target.image_id}"
                )
            if not bool(torch.isfinite(target.boxes).all()):
                raise InputError("expected finite boxes, got NaN or infinity", where=f"{where}, {target.image_id}")

    @property
    def _detector(self) -> Detector:
        if self.detector is None:
            raise InputError("the task is not bound to a detector: call bound(net) first", where="task detection")
        return self.detector

    def _row(self, target: Target, like: Tensor) -> Tensor:
        """Return the number of objects followed by the objects, padded with zeros."""
        count = len(target)
        if count > _MOST_OBJECTS:
            text = f"expected at most {_MOST_OBJECTS} objects in an image, got {count}"
            raise InputError(text, where=f"image {target.image_id}")
        sides = target.boxes[:, 2:] - target.boxes[:, :2]
        areas = sides.prod(1) if target.areas is None else target.areas
        columns = [target.boxes, target.labels[:, None], target.crowd[:, None], areas[:, None]]
        row = like.new_zeros(1 + _OBJECT * _MOST_OBJECTS)
        row[0] = count
        row[1 : 1 + _OBJECT * count] = torch.cat([each.to(row) for each in columns], 1).flatten()
        return row

    def _missed(self, boxes: Tensor, scores: Tensor, classes: Tensor, target: Target) -> Tensor:
        """Return the mean of 1 - score * overlap over the best detection of each object, which breaks ties."""
        truth, labels = target.trained
        if not len(labels):
            return scores.max() if len(scores) else scores.new_zeros(())
        fits = (classes[:, None] == labels) * scores[:, None] * ious(boxes, truth.to(boxes))
        return 1 - fits.max(0).values.mean()

    def _unpacked(self, statistics: Rows) -> tuple[list[Detections], list[Target]]:
        rows = torch.from_numpy(np.ascontiguousarray(statistics.T[:, :-1]))
        split = rows.shape[1] - 1 - _OBJECT * _MOST_OBJECTS
        found, targets = [], []
        for index, (mine, objects) in enumerate(zip(rows[:, :split], rows[:, split:], strict=True)):
            table = mine[1:].reshape(-1, _DETECTION)[: int(mine[0])]
            found.append(Detections(table[:, :4], table[:, 4], table[:, 5].long()))
            each = objects[1:].reshape(-1, _OBJECT)[: int(objects[0])]
            boxes, labels, crowd, areas = each[:, :4], each[:, 4].long(), each[:, 5] > 0, each[:, 6]
            targets.append(Target(boxes, labels, crowd, index, (0, 0), areas))
        return found, targets


class _Objective(nn.Module):
    """A module that calls a detector with images and targets."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor, targets: Any) -> Tensor:
        assert isinstance(self.net, Detector)
        parts = list(self.net.loss(images, targets).values())
        return torch.stack(parts).sum()
