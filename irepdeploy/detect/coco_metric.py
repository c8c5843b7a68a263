"""COCO's average precision, computed by pycocotools or by faster-coco-eval, with bit-identical results."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor

from irepdeploy.detect.detections import Detections
from irepdeploy.detect.target import Target
from irepdeploy.errors import InputError, MissingError, RunError

__all__ = ["AveragePrecision", "average_precision"]

Evaluator = Literal["auto", "faster-coco-eval", "pycocotools"]

# Limits in square pixels of the areas of small, medium and large objects.
_SMALL, _LARGE, _END = 32.0**2, 96.0**2, 1e5**2
_GRID = 2.0**30
_SIZES = ((0.0, _SMALL), (_SMALL, _LARGE), (_LARGE, _END))


@dataclass(frozen=True)
class AveragePrecision:
    """Average precision from 0 to 1, averaged over the classes.

    Args:
        ap: Mean over ten thresholds of the intersection over union, from 0.50 to 0.95.
        ap50: Average precision at the threshold 0.50.
        ap75: Average precision at the threshold 0.75.
        small: `ap` of objects below 32 x 32 pixels; None if there are none.
        medium: `ap` of objects from 32 x 32 to 96 x 96 pixels; None if there are none.
        large: `ap` of objects above 96 x 96 pixels; None if there are none.
    """

    ap: float
    ap50: float
    ap75: float
    small: float | None
    medium: float | None
    large: float | None


def average_precision(
    detections: Sequence[Detections], targets: Sequence[Target], *, evaluator: Evaluator = "auto"
) -> AveragePrecision:
    """Return the average precision of detections.

    Only the 100 detections with the highest scores count for each image and class. All boxes must be in pixels of the
    original image, because areas define small and large objects.

    Args:
        detections: Detections of each image. Do not remove any by a threshold, which would lower the precision.
        targets: Targets of each image, in the same order.
        evaluator: Package that computes the result. "auto" uses faster-coco-eval if it is installed, else pycocotools.

    Raises:
        InputError: There are no objects, the numbers of images differ, or an image occurs twice.
        MissingError: Neither package is installed.
        RunError: A score or box is not a number.
    """
    if len(detections) != len(targets):
        raise InputError(f"detections of {len(detections)} images for targets of {len(targets)}", where="detections")
    ids = [target.image_id for target in targets]
    if len(set(ids)) < len(ids):
        raise InputError("an image id occurs twice", where="targets")
    found = [
        {**entry, "id": number, "iscrowd": 0, "area": entry["bbox"][2] * entry["bbox"][3]}
        for number, entry in enumerate(_results(detections, targets), start=1)
    ]
    # Number objects from 1, because both packages use 0 for "not matched".
    objects = [
        {"id": number, "image_id": image_id, "category_id": label + 1, "bbox": box, "area": area, "iscrowd": int(crowd)}
        for number, (image_id, label, box, area, crowd) in enumerate(_objects(targets), start=1)
    ]
    counted: list[Any] = [entry["area"] for entry in objects if not entry["iscrowd"]]
    if not counted:
        raise InputError("no annotated object: average precision is undefined", where="targets")
    if not found:
        # Both packages fail on an empty list of detections.
        sizes = [0.0 if any(low <= area <= high for area in counted) else None for low, high in _SIZES]
        return AveragePrecision(0.0, 0.0, 0.0, *sizes)
    labels = {entry["category_id"] for entry in (*objects, *found)}
    data = {
        "images": [{"id": image_id} for image_id in ids],
        "categories": [{"id": label} for label in sorted(labels)],
        "annotations": objects,
    }
    # The last limit is 100 detections; the areas are in the order all, small, medium, large.
    precision = _precision(data, found, _chosen(evaluator))[..., -1]
    whole = [_mean(part) or 0.0 for part in (precision[..., 0], precision[0, ..., 0], precision[5, ..., 0])]
    return AveragePrecision(*whole, *(_mean(precision[..., size]) for size in (1, 2, 3)))


def _results(detections: Sequence[Detections], targets: Sequence[Target]) -> list[dict[str, Any]]:
    entries = []
    for each, target in zip(detections, targets, strict=True):
        if not (torch.isfinite(each.scores).all() and torch.isfinite(each.boxes).all()):
            raise RunError("a score or box is not a finite number", where=f"detections of image {target.image_id}")
        # Number the labels of both from 1, regardless of the category ids.
        plain = Detections(each.boxes, each.scores, each.labels)
        entries += plain.to_coco(target.image_id)
    return entries


def _objects(targets: Sequence[Target]) -> list[tuple[int, int, list[float], float, bool]]:
    rows = []
    for target in targets:
        corners = target.boxes.double()
        sides = corners[:, 2:] - corners[:, :2]
        areas: Tensor = sides.prod(1) if target.areas is None else target.areas
        boxes = torch.cat([corners[:, :2], sides], 1)
        columns = (target.labels, boxes, areas, target.crowd)
        rows += [(target.image_id, *row) for row in zip(*(column.tolist() for column in columns), strict=True)]
    return rows


def _chosen(evaluator: Evaluator) -> str:
    modules = {"faster-coco-eval": "faster_coco_eval", "pycocotools": "pycocotools"}
    wanted = list(modules) if evaluator == "auto" else [evaluator]
    found = next((name for name in wanted if find_spec(modules[name]) is not None), None)
    if found is None:
        raise MissingError(
            f"average precision needs {' or '.join(wanted)}", where="COCO", hint="pip install irepdeploy[detect]"
        )
    return found


def _precision(data: dict[str, Any], found: list[dict[str, Any]], evaluator: str) -> Any:
    """Return the precision (thresholds, recalls, classes, areas, limits) float64; -1 if a class has no such objects."""
    # Both packages print to stdout, which is reserved for results.
    with contextlib.redirect_stdout(io.StringIO()):
        if evaluator == "pycocotools":
            from pycocotools.coco import COCO
            from pycocotools.cocoeval import COCOeval as Evaluation
        else:
            from faster_coco_eval import COCO
            from faster_coco_eval import COCOeval_faster as Evaluation
        truth = COCO()
        truth.dataset = data
        truth.createIndex()
        evaluation = Evaluation(truth, truth.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"]


def _mean(precision: Any) -> float | None:
    # The packages' quotients differ in the last bit, so round to multiples of 2^-30. No quotient of two counts below a
    # million is close enough to the middle between two multiples to be rounded differently.
    known = precision[precision > -1]
    return float((known * _GRID).round().mean() / _GRID) if known.size else None
