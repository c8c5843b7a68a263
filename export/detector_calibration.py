"""Calibrate a detector for int8 on images and measure its loss as average precision."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irepdeploy.data.coco_annotations import check_size, read_coco
from irepdeploy.data.coco_files import ANNOTATIONS
from irepdeploy.data.shapes import SHAPES, shapes
from irepdeploy.detect.coco_metric import average_precision
from irepdeploy.detect.decoding import Decoding, DetectionRule
from irepdeploy.detect.detections import Detections
from irepdeploy.detect.detector import Detector
from irepdeploy.detect.facts import DetectorFacts
from irepdeploy.detect.target import Target
from irepdeploy.errors import InputError
from irepdeploy.inference.detect import fed, read_picture, restored
from irepdeploy.inference.folder import annotated_files, image_files, labels_by_name
from irepdeploy.reparam.origin import Origin
from irepdeploy.runtime.given_inputs import Given
from irepdeploy.verify.inputs import InputGroup

from .precision.calibration import CalibrationData

__all__ = ["detector_calibration"]

_CALIBRATION, _EVALUATION = 128, 200
# Maximum number of images: their heads, which are larger than the images, are all held in memory.
_BYTES, _FEW = 256 << 20, 16
# Score from which a detection of the float32 detector counts as an object if there are no annotations.
_SURE = 0.3
_BATCH = 8


@dataclass(frozen=True)
class _Image:
    """An image as the network takes it, its horizontal and vertical scales, and its size (height, width)."""

    array: np.ndarray[Any, Any]
    scale: tuple[float, float]
    size: tuple[int, int]


def detector_calibration(
    detector: Detector,
    facts: DetectorFacts,
    origin: Origin,
    given: Given | None = None,
    annotations: str | os.PathLike[str] | None = None,
) -> CalibrationData:
    """Return images for calibration, and images on which average precision is measured.

    The images of a folder alternate between the two. Without annotations, the detections of the float32 detector
    replace the objects.

    Args:
        detector: Detector in eval mode.
        facts: Description of its inputs.
        origin: Origin with its data set. Canvases of `shapes` need no files; precision is measured on their
            search-validation set.
        given: Folder of images; None for these canvases.
        annotations: Objects in COCO format. None: ``annotations.json`` in the folder, if it exists.

    Raises:
        InputError: There is no folder and no such data set, or the annotations do not fit.
    """
    if given is not None:
        return _of_folder(detector, facts, origin, given, annotations)
    shape = origin.input_shape
    if origin.dataset != SHAPES.name or shape[0] != 1 or shape[1] != shape[2]:
        raise InputError(
            "the loss of a detector is measured as average precision, and its data set is not available",
            where="--precision int8",
            hint="give images with --inputs DIR, and their objects with --annotations FILE",
        )
    data = shapes(size=shape[1], train=_CALIBRATION, val=_EVALUATION)
    parts = [np.stack([part[index][0].numpy() for index in range(len(part))]) for part in (data.train, data.val)]
    groups = [
        InputGroup(f"data set shapes, {name} images", array)
        for name, array in zip(("training", "search-validation"), parts, strict=True)
    ]
    targets = [data.val[index][1] for index in range(len(data.val))]
    images = [_Image(array, (1.0, 1.0), (shape[1], shape[2])) for array in parts[1]]
    return CalibrationData(groups[0], groups[1], _Score(detector, origin.output_names, images, targets))


class _Score:
    """Average precision in percent of a detector's outputs on images, in pixels of the images.

    Args:
        detector: The detector.
        names: Names of its outputs.
        images: The images.
        targets: Objects in the images, in pixels.
        labels: (classes,) annotation label of each class of the detector. None: the same labels.
    """

    def __init__(
        self,
        detector: Detector,
        names: Sequence[str],
        images: Sequence[_Image],
        targets: Sequence[Target],
        labels: Tensor | None = None,
    ) -> None:
        rule = DetectionRule("nms" if hasattr(detector, "iou") else "topk")
        self.decoding, self.names = Decoding(detector, rule).eval(), names
        self.images, self.targets, self.labels = images, targets, labels

    def __call__(self, outputs: Mapping[str, Any]) -> float:
        return 100 * average_precision(self.found(outputs), self.targets).ap

    def found(self, outputs: Mapping[str, Any]) -> list[Detections]:
        heads = [torch.from_numpy(np.ascontiguousarray(outputs[name])) for name in self.names]
        with torch.inference_mode():
            batch = Detections.of_batch(*self.decoding(*heads))
        if self.labels is not None:
            batch = [replace(each, labels=self.labels[each.labels]) for each in batch]
        return [restored(each, image.scale, image.size) for each, image in zip(batch, self.images, strict=True)]


def _of_folder(
    detector: Detector,
    facts: DetectorFacts,
    origin: Origin,
    given: Given,
    annotations: str | os.PathLike[str] | None,
) -> CalibrationData:
    if not isinstance(given, str | os.PathLike) or not Path(given).is_dir():
        got = given if isinstance(given, str | os.PathLike) else type(given).__name__
        raise InputError(f"int8 of a detector takes a folder of images, got {got}", where="--inputs")
    folder = Path(given)
    beside = folder / ANNOTATIONS
    path = beside if annotations is None and beside.is_file() else annotations
    known = None if path is None else read_coco(path)
    labels = None if known is None else labels_by_name(facts.classes, known, "the detector")
    files = image_files([folder]) if known is None else annotated_files(folder, known)
    files = files[: max(_FEW, min(2 * _EVALUATION, _BYTES // (4 * math.prod(facts.input_shape))))]
    images = [_read(file, facts, None if known is None else known.targets[place]) for place, file in enumerate(files)]
    # Too few images to be divided.
    every = len(images) < _FEW
    measured = images if every else images[1::2]
    score = _Score(detector, origin.output_names, measured, [], labels)
    heads = _heads(detector, score)
    if known is None:
        score.targets = _by_float32(score, heads, folder)
    else:
        score.targets = known.targets[: len(files)] if every else known.targets[1 : len(files) : 2]
        if not score(heads):
            # No loss could be measured.
            hint = "do they belong to these images, as left, top, width and height?"
            raise InputError("the float32 detector finds none of the annotated objects", where=path, hint=hint)
    name = f"{folder}, {'objects by the float32 detector' if known is None else 'annotated'}"
    seen = images if every else images[::2]
    groups = [InputGroup(name, np.stack([each.array for each in group])) for group in (seen, measured)]
    return CalibrationData(groups[0], groups[1], score)


def _read(path: Path, facts: DetectorFacts, target: Target | None) -> _Image:
    picture = read_picture(path)
    if target is not None:
        check_size(picture.width, picture.height, target, path)
    return _Image(*fed(facts, picture), (picture.height, picture.width))


def _heads(detector: Detector, score: _Score) -> dict[str, np.ndarray[Any, Any]]:
    """Return the outputs of the float32 detector."""
    arrays = np.stack([image.array for image in score.images])
    with torch.inference_mode():
        parts = [detector(batch) for batch in torch.from_numpy(arrays).split(_BATCH)]
    return {name: torch.cat(each).numpy() for name, each in zip(score.names, zip(*parts, strict=True), strict=True)}


def _by_float32(score: _Score, heads: Mapping[str, Any], folder: Path) -> list[Target]:
    """Return confident detections of the float32 detector as objects."""
    targets = []
    for place, found in enumerate(score.found(heads)):
        sure = found.above(_SURE)
        none = torch.zeros(len(sure), dtype=torch.bool)
        targets.append(Target(sure.boxes, sure.labels, none, place, score.images[place].size))
    if not any(map(len, targets)):
        hint = "give images with objects, or --annotations FILE"
        raise InputError(f"no detection in these images has a score of at least {_SURE:g}", where=folder, hint=hint)
    return targets
