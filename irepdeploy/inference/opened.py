"""Open a detector for images: a checkpoint, a network, an ONNX file or an engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from irepdeploy.board.detections import are_detections
from irepdeploy.board.runner import Runner
from irepdeploy.board.trt_runner import TrtRunner
from irepdeploy.data import dataset_facts
from irepdeploy.detect.decoding import DETECTION_NAMES, Decoded, DetectionRule
from irepdeploy.detect.detector import Detector
from irepdeploy.detect.facts import DETECTIONS_KEY, DetectorFacts, facts_path
from irepdeploy.errors import InputError
from irepdeploy.files import read_bytes
from irepdeploy.limits import DESCRIPTION
from irepdeploy.network.source import open_source
from irepdeploy.parsing.json_text import JsonError, parse_json
from irepdeploy.reparam.origin import origin_of
from irepdeploy.verify.input_files import normalization
from irepdeploy.verify.runners import infer_all, network_runner, onnx_runner

__all__ = ["OpenedDetector", "open_detector"]

_EXPORT = "export the checkpoint with --detections topk or nms"


@dataclass(frozen=True)
class OpenedDetector:
    """A detector with its runner, which is active within a ``with`` block, and the facts about its inputs."""

    label: str
    runner: Runner
    facts: DetectorFacts

    def __enter__(self) -> OpenedDetector:
        self.runner.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.runner.__exit__(*error)

    def infer(self, image: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
        """Return num_dets, boxes, scores and classes for one image (C, H, W) float32."""
        outputs = infer_all(self.runner, image[None])
        if not are_detections(outputs):
            shapes = ", ".join(f"{name} {array.shape}" for name, array in outputs.items())
            raise InputError(f"expected {', '.join(DETECTION_NAMES)}, got {shapes}", where=self.label, hint=_EXPORT)
        return outputs


def open_detector(
    model: str | os.PathLike[str] | nn.Module, factory: Callable[[], nn.Module] | None = None
) -> OpenedDetector:
    """Open a detector.

    Args:
        model: A checkpoint, a detector in memory, the name of a network (random weights), or an ``.onnx`` or
            ``.engine`` file exported with ``--detections topk`` or ``nms``.
        factory: Function that builds the network, for a checkpoint of the user's own class.

    Raises:
        InputError: The model is not a detector, returns raw heads, or takes uint8 inputs.
        MissingError: The model is an engine, and TensorRT or a GPU is missing.
    """
    suffix = "" if isinstance(model, nn.Module) else Path(model).suffix.lower()
    if isinstance(model, str | os.PathLike) and suffix in (".onnx", ".engine"):
        label = os.fspath(model)
        facts = _facts_in(label) if suffix == ".onnx" else _facts_beside(label)
        if facts.rule.mode == "raw":
            raise InputError("it returns raw heads, not detections", where=label, hint=_EXPORT)
        if facts.baked:
            raise InputError(
                "its inputs are uint8 (--bake-preprocess), which detect does not support",
                where=label,
                hint=_EXPORT,
            )
        if suffix == ".onnx" and label.endswith(".plugin.onnx"):
            hint = "use its engine, or the ONNX file next to it"
            raise InputError("only TensorRT runs EfficientNMS_TRT", where=label, hint=hint)
        return OpenedDetector(label, onnx_runner(label) if suffix == ".onnx" else TrtRunner(label), facts)
    source = open_source(model, factory)
    network = source.model
    if not isinstance(network, Detector):
        raise InputError(f"expected a detector, got a {type(network).__name__}", where=source.label)
    # Use the detector's own decoding, at its own threshold.
    rule = DetectionRule("nms" if hasattr(network, "iou") else "topk")
    origin = origin_of(network)
    data = dataset_facts(origin.dataset)
    classes = origin.classes or (() if data is None else data.classes)
    facts = DetectorFacts.of(network, origin.input_shape, classes, *normalization(origin.dataset), rule)
    runner = network_runner(Decoded(network, rule).eval(), origin.specs, DETECTION_NAMES)
    return OpenedDetector(source.label, runner, facts)


def _facts_in(path: str) -> DetectorFacts:
    from irepdeploy.onnx_graph.model_file import open_model

    metadata: Mapping[str, str] = {
        entry.key: entry.value for entry in open_model(path, weights=False, ordered=False).metadata_props
    }
    if DETECTIONS_KEY not in metadata:
        if facts_path(path).is_file():
            return _facts_beside(path)
        raise InputError("its metadata do not describe a detector", where=path, hint=_EXPORT)
    return _read(metadata[DETECTIONS_KEY].encode(), path)


def _facts_beside(path: str) -> DetectorFacts:
    beside = facts_path(path)
    if not beside.is_file():
        raise InputError(f"no {beside.name} next to it", where=path, hint="copy it from the folder of the export")
    return _read(read_bytes(beside, "description", DESCRIPTION), beside)


def _read(content: bytes, where: object) -> DetectorFacts:
    try:
        return DetectorFacts.from_dict(parse_json(content), where)
    except JsonError as error:
        raise InputError(str(error), where=where) from None
