"""Options of an export."""

from __future__ import annotations

import difflib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from irepdeploy.board.runner import TensorSpec
from irepdeploy.detect.decoding import MODES, DetectionRule
from irepdeploy.errors import InputError
from irepdeploy.reparam.origin import Origin
from irepdeploy.verify.input_spec import input_specs
from irepdeploy.verify.onnx_process import TIMEOUT_S

from .parse import batch_range
from .preprocess import Preprocessing

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """Options of an export.

    Args:
        precision: One or more of fp32, fp16 and int8. None: fp32, plus fp16 if the target has an engine.
        max_drop: Largest loss of accuracy (without labels: of agreement) by int8, in percentage points.
        simplify: Run onnx-simplifier, and keep its result if the outputs are the same.
        dynamic_batch: Smallest, best and largest batch; None: a static batch of 1.
        input_shape: Name, shape and dtype of each input, in the order of ``forward`` unless named like its parameters.
            It fixes every size, including the batch unless `dynamic_batch` is given. Sizes such as (1, 3, 224, 224) or
            text such as "1x3x224x224" are accepted too. None: the inputs that the network declares.
        output_names: Names of the outputs in order. None: those that the network declares.
        bake_preprocess: Layout and channel order, such as ``nhwc,bgr``, of the uint8 images that the file takes. None:
            it takes normalized floats.
        mean: Mean of each channel, for baking. None: that of the data set on which the network was trained.
        std: Standard deviation of each channel, in the same form.
        tf32: Allow float32 layers of an engine to round to TF32.
        workspace_bytes: Memory limit of the engine's builder; None: its own default.
        timing_cache: File that the builder reads if it exists, and writes.
        dla: DLA core, if the target has one.
        collapse: Collapse parallel and chained linear operators of the ONNX into single convolutions.
        timeout_s: Seconds that ONNX Runtime may take to load and run a model.
        external_data: Write the weights to FILE.data next to each ONNX file, as is always done above 2 GiB.
        detections: Output of a detector: "raw" heads; "topk", its best detections; "nms", the best ones after
            non-maximum suppression within each class; "plugin", the same with TensorRT's EfficientNMS_TRT.
        score: Score threshold; detections at or below it are dropped. None: the detector's own.
        iou: Intersection over union above which the lower-scored box is suppressed. None: the detector's own, or 0.5.
        max_detections: Maximum number of detections per image. None: the detector's own.
        annotations: Objects in the images of `inputs`, in COCO format, by which the loss of a detector in int8 is
            measured. None: ``annotations.json`` among the images, else the detections of the float32 detector.
        border: For a region that is not a convolution at the border: "refuse" to merge it, or merge it and add a
            constant "map".
    """

    precision: str | Sequence[str] | None = None
    max_drop: float = 0.5
    simplify: bool = True
    dynamic_batch: tuple[int, int, int] | None = None
    input_shape: TensorSpec | str | Sequence[TensorSpec | str | Sequence[int] | int] | None = None
    output_names: Sequence[str] | None = None
    bake_preprocess: str | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    tf32: bool = False
    workspace_bytes: int | None = None
    timing_cache: str | None = None
    dla: int | None = None
    collapse: bool = True
    border: Literal["refuse", "map"] = "refuse"
    timeout_s: float = TIMEOUT_S
    external_data: bool = False
    detections: str = "raw"
    score: float | None = None
    iou: float | None = None
    max_detections: int | None = None
    annotations: str | os.PathLike[str] | None = None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """Return the settings with these names and values.

        Raises:
            InputError: A name is unknown, or a value has the wrong type.
        """
        known = [field.name for field in fields(cls)]
        for name, value in given.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"
                raise InputError(f"unknown setting {name!r}", where="export_model", hint=hint)
            if value is not None and name in _EXPECTED and not _EXPECTED[name][1](value):
                raise InputError(f"expected {_EXPECTED[name][0]}, got {value!r}", where=name)
        batch = given.get("dynamic_batch")
        if isinstance(batch, int | str):
            return cls(**{**given, "dynamic_batch": batch_range(str(batch))})
        return cls(**given)

    @property
    def inputs(self) -> Sequence[TensorSpec]:
        """The inputs of `input_shape` as a sequence."""
        return [] if self.input_shape is None else input_specs(self.input_shape)

    @property
    def detection_rule(self) -> DetectionRule:
        """Rule made up of `detections`, `score`, `iou` and `max_detections`."""
        return DetectionRule(self.detections, self.score, self.iou, self.max_detections)

    def preprocessing(self, origin: Origin) -> Preprocessing | None:
        """Return the preprocessing to bake in, or None."""
        if self.bake_preprocess is None:
            idle = [option for option, value in (("--mean", self.mean), ("--std", self.std)) if value is not None]
            if idle:
                raise InputError(
                    f"{' and '.join(idle)} without --bake-preprocess", hint="add --bake-preprocess nhwc,rgb"
                )
            return None
        inputs = origin.specs
        if len(inputs) != 1 or len(origin.input_shape) != 3:
            texts = ", ".join(map(str, inputs))
            raise InputError(f"expected a network of one float32 image, got {texts}", where="--bake-preprocess")
        mean, std = self.mean, self.std
        if (mean is None) != (std is None):
            raise InputError("--mean and --std go together", where="--bake-preprocess")
        if mean is None or std is None:
            from irepdeploy.data import dataset_facts

            data = dataset_facts(origin.dataset)
            if data is None:
                raise InputError(
                    "the normalization of the images is unknown",
                    where="--bake-preprocess",
                    hint="add --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225, the values used in training",
                )
            mean, std = data.mean, data.std
        return Preprocessing.parse(self.bake_preprocess, mean, std)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_texts(value: object) -> bool:
    return isinstance(value, Sequence) and all(isinstance(item, str) for item in value)


def _is_range(value: object) -> bool:
    if isinstance(value, str | int):
        return not isinstance(value, bool)
    sizes = list(value) if isinstance(value, Sequence) else []
    return len(sizes) == 3 and all(type(size) is int for size in sizes) and 1 <= sizes[0] <= sizes[1] <= sizes[2]


def _are_numbers(value: Any) -> bool:
    try:
        return not isinstance(value, str) and all(math.isfinite(float(item)) for item in value)
    except (TypeError, ValueError):
        return False


# Expected value and its check, by setting.
_EXPECTED: dict[str, tuple[str, Callable[[object], bool]]] = {
    "precision": ("precisions such as 'fp32,fp16'", _are_texts),
    "max_drop": ("percentage points", _is_number),
    "dynamic_batch": ("(smallest, best, largest) batch, such as (1, 8, 32)", _is_range),
    "output_names": ("names", lambda value: _are_texts(value) and not isinstance(value, str)),
    "bake_preprocess": ("text such as 'nhwc,bgr'", lambda value: isinstance(value, str)),
    "mean": ("a number for each channel", _are_numbers),
    "std": ("a number for each channel", _are_numbers),
    "detections": ("'raw', 'topk', 'nms' or 'plugin'", lambda value: value in MODES),
    "border": ("'refuse' or 'map'", lambda value: value in ("refuse", "map")),
    "timeout_s": ("seconds", lambda value: _is_number(value) and float(value) > 0),  # type: ignore[arg-type]
    "workspace_bytes": ("bytes", lambda value: type(value) is int and value > 0),
    **{name: ("True or False", lambda value: isinstance(value, bool)) for name in ("simplify", "collapse", "tf32")},
    "annotations": ("a file", lambda value: isinstance(value, str | os.PathLike)),
    "timing_cache": ("a file", lambda value: isinstance(value, str | os.PathLike)),
    "dla": ("the number of a DLA core", lambda value: type(value) is int),
}
