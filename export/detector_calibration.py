"""Calibrate a detector for int8 on its own data; what may not be lost is its average precision."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from irepdeploy.data.shapes import SHAPES, shapes
from irepdeploy.detect.coco_metric import average_precision
from irepdeploy.detect.decoding import Decoding, DetectionRule
from irepdeploy.detect.detections import Detections
from irepdeploy.detect.detector import Detector
from irepdeploy.errors import InputError
from irepdeploy.reparam.origin import Origin
from irepdeploy.verify.inputs import InputGroup

from .precision.calibration import CalibrationData

__all__ = ["detector_calibration"]

_CALIBRATION, _EVALUATION = 128, 200


def detector_calibration(detector: Detector, origin: Origin) -> CalibrationData:
    """Return training canvases for calibration, and search-validation canvases for the average precision.

    Raises:
        InputError: The detector was not trained on `shapes`, the one data set that needs no files.
    """
    shape = origin.input_shape
    if origin.dataset != SHAPES.name or shape[0] != 1 or shape[1] != shape[2]:
        raise InputError(
            "the loss of a detector is that of its average precision, and its data set is not at hand",
            where="--precision int8",
            hint="fp32 and fp16 need none; int8 takes detectors that were trained on the data set shapes",
        )
    data = shapes(size=shape[1], train=_CALIBRATION, val=_EVALUATION)
    parts = [np.stack([part[index][0].numpy() for index in range(len(part))]) for part in (data.train, data.val)]
    targets = [data.val[index][1] for index in range(len(data.val))]
    rule = DetectionRule("nms" if hasattr(detector, "iou") else "topk")
    decoding = Decoding(detector, rule).eval()

    def score(outputs: Mapping[str, Any]) -> float:
        heads = [torch.from_numpy(np.ascontiguousarray(outputs[name])) for name in origin.output_names]
        with torch.inference_mode():
            found = Detections.of_batch(*decoding(*heads))
        return 100 * average_precision(found, targets).ap

    groups = [
        InputGroup(f"data set shapes, {name} images", array)
        for name, array in zip(("training", "search-validation"), parts, strict=True)
    ]
    return CalibrationData(groups[0], groups[1], score)
