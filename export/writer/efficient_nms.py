"""Append TensorRT's plugin EfficientNMS_TRT to a model that outputs candidates."""

from __future__ import annotations

from typing import Any

import onnx
from onnx import TensorProto

from irepdeploy.detect.decoding import DETECTION_NAMES, DetectionRule

__all__ = ["with_efficient_nms"]

_DOMAIN = "TRT"


def with_efficient_nms(model: onnx.ModelProto, rule: DetectionRule) -> onnx.ModelProto:
    """Append the plugin to a model of boxes (N, B, 4) or (N, B, classes, 4) and scores (N, B, classes).

    Only TensorRT can run the result. The plugin considers the 4,096 highest scores; the contents of result rows from
    num_dets on are undefined.
    """
    found = onnx.ModelProto()
    found.CopyFrom(model)
    graph = found.graph
    boxes, scores = (value.name for value in graph.output)
    batch = graph.output[0].type.tensor_type.shape.dim[0]
    plugin: dict[str, Any] = {
        "plugin_version": "1",
        "score_threshold": float(rule.score or 0.0),
        "iou_threshold": float(rule.iou or 0.0),
        "max_output_boxes": rule.max_detections,
        "background_class": -1,
        "score_activation": 0,
        "class_agnostic": 0,
        "box_coding": 0,
    }
    graph.node.append(
        onnx.helper.make_node(
            "EfficientNMS_TRT", [boxes, scores], list(DETECTION_NAMES), "detections.plugin", domain=_DOMAIN, **plugin
        )
    )
    found.opset_import.add(domain=_DOMAIN, version=1)
    rows = rule.max_detections
    kinds = (TensorProto.INT32, TensorProto.FLOAT, TensorProto.FLOAT, TensorProto.INT32)
    size = batch.dim_param or batch.dim_value
    shapes = ([size, 1], [size, rows, 4], [size, rows], [size, rows])
    del graph.output[:]
    for name, kind, shape in zip(DETECTION_NAMES, kinds, shapes, strict=True):
        graph.output.append(onnx.helper.make_tensor_value_info(name, kind, shape))
    return found
