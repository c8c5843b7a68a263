"""The description of a deployed detector as a JSON object: normalization, resizing, classes and thresholds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from irepdeploy.detect.decoding import DETECTION_NAMES, DetectionRule
from irepdeploy.detect.detector import Detector
from irepdeploy.detect.resizing import Resizing
from irepdeploy.errors import InputError

__all__ = ["DETECTIONS_KEY", "DetectorFacts", "facts_path"]

# Key in the metadata of an ONNX file.
DETECTIONS_KEY = "irepdeploy.detections"
_FORMAT, _VERSION = "irepdeploy.detections", 1
_OUTPUTS = {
    "num_dets": "(N, 1) int32: number of valid rows; later rows are meaningless",
    "boxes": "(N, K, 4) float32: left, top, right, bottom in pixels of the input",
    "scores": "(N, K) float32 from 0 to 1, in decreasing order",
    "classes": "(N, K) int32: index into classes",
}


@dataclass(frozen=True)
class DetectorFacts:
    """The description of a deployed detector.

    Args:
        input_shape: Shape (C, H, W) of an image.
        mean: Mean of each channel, for pixels in [0, 1]. The input of the network is (pixel / 255 - mean) / std.
        std: Standard deviation of each channel, for pixels in [0, 1].
        classes: Names of the classes in order; () if unknown.
        rule: Rule by which detections are selected, with every value set.
        stride: Number of which the height and width of an image must be multiples.
        heads: Names of the raw heads.
        resizing: Rule by which images are resized to an input.
        baked: Preprocessing that is part of the file, which then takes uint8 inputs; None if there is none.
    """

    input_shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    rule: DetectionRule
    stride: int
    heads: tuple[str, ...]
    resizing: Resizing
    baked: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        detector: Detector,
        input_shape: Sequence[int],
        classes: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        rule: DetectionRule,
        baked: Mapping[str, Any] | None = None,
    ) -> DetectorFacts:
        """Return the description of a detector; the mean and std of a single channel apply to all channels."""
        channels, height, width = input_shape
        full = rule if rule.mode == "raw" else rule.of(detector)
        means, deviations = (tuple(values) * (channels if len(values) == 1 else 1) for values in (mean, std))
        return cls(
            (channels, height, width),
            means,
            deviations,
            tuple(classes),
            full,
            detector.stride,
            tuple(detector.head_names),
            Resizing("fit", height, width),
            dict(baked or {}),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the description as a self-explanatory JSON object."""
        channels, height, width = self.input_shape
        raw = self.rule.mode == "raw"
        return {
            "format": _FORMAT,
            "version": _VERSION,
            "input": {
                "shape": [channels, height, width],
                "layout": "NCHW float32",
                "channels": "grey" if channels == 1 else "RGB",
                "normalisation": "(pixel / 255 - mean) / std",
                "mean": list(self.mean),
                "std": list(self.std),
                "multiple_of": self.stride,
            },
            **({"baked": dict(self.baked)} if self.baked else {}),
            "resize": {
                "rule": self.resizing.rule,
                "interpolation": "bilinear",
                "padding": "0 after normalization, on the right and at the bottom",
            },
            "rule": self.rule.to_dict(),
            "outputs": dict.fromkeys(self.heads, "raw head") if raw else _OUTPUTS,
            "classes": list(self.classes),
        }

    @classmethod
    def from_dict(cls, value: Any, where: object = None) -> DetectorFacts:
        """Create a description from the result of `to_dict`.

        Raises:
            InputError: `value` is not a valid description.
        """
        try:
            if value["format"] != _FORMAT or value["version"] != _VERSION:
                raise ValueError("another format")
            given, shape = value["input"], tuple(map(int, value["input"]["shape"]))
            rule = DetectionRule.from_dict(value["rule"], where)
            names = tuple(value["outputs"])
            return cls(
                (shape[0], shape[1], shape[2]),
                tuple(map(float, given["mean"])),
                tuple(map(float, given["std"])),
                tuple(map(str, value["classes"])),
                rule,
                int(given["multiple_of"]),
                names if rule.mode == "raw" else DETECTION_NAMES,
                Resizing(value["resize"]["rule"], shape[1], shape[2]),
                dict(value.get("baked", {})),
            )
        except (KeyError, TypeError, ValueError, IndexError):
            raise InputError("not a description of a detector", where=where, hint="export the detector again") from None


def facts_path(model: str | os.PathLike[str]) -> Path:
    """Return the path of a model's description: ``model.detections.json`` for ``model.onnx`` or ``model.fp16.onnx``."""
    path = Path(model)
    return path.with_name(f"{path.name.partition('.')[0]}.detections.json")
