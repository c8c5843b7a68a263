"""Quantize a float32 ONNX model to explicit QuantizeLinear and DequantizeLinear with onnxruntime's quantizer.

Weights are int8, symmetric, with one scale for each output channel. The rest depends on the runtime. TensorRT takes
symmetric activations at the inputs of convolutions and linear layers, fuses a convolution with the ReLU after it, and
its parser refuses int32 biases. ONNX Runtime computes in integers if all of a layer is quantized, bias and output
included; with a zero point, the ReLU becomes part of the rounding.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from irepdeploy.errors import InputError, ModelError
from irepdeploy.onnx_graph.order import sort_nodes
from irepdeploy.onnx_graph.proto import captured_by, distinct_name, opset_of
from irepdeploy.onnx_graph.shapes import tensor_types

from .fp16 import float32_parts
from .inference import Inputs, arrays_of
from .ranges import tensor_ranges

__all__ = ["ACTIVATIONS", "Ranges", "quantizable", "quantized"]

Ranges = Mapping[str, tuple[float, float]]

ACTIVATIONS = ("int8", "uint8")
_OPERATORS = ("Conv", "Gemm")
_BETWEEN = ("Add", "Concat", "GlobalAveragePool", "AveragePool", "MaxPool", "Relu")


def quantized(
    model: onnx.ModelProto,
    calibration: Inputs | None = None,
    *,
    keep_float: Collection[str] = (),
    per_channel: bool = True,
    activations: str = "int8",
    ranges: Ranges | None = None,
) -> onnx.ModelProto:
    """Return a copy with int8 weights and activations in explicit Q/DQ form.

    The range of an activation is its minimum and maximum over the calibration inputs, unless `ranges` gives it. The
    weights and inputs of the nodes in `keep_float` stay float32. Activations are int8 for TensorRT, uint8 for ONNX
    Runtime.
    """
    _check(model, keep_float, activations)
    if ranges is None:
        if calibration is None:
            raise InputError("int8 needs inputs to calibrate with", hint="give --inputs")
        ranges = tensor_ranges(model, calibration)
    _refuse_what_is_not_finite(model, ranges)
    result = _by_onnxruntime(model, keep_float, ranges, per_channel, activations == "int8")
    _read_floats(result, set(keep_float), {node.output[0] for node in model.graph.node if node.op_type == "Relu"})
    sort_nodes(result)
    _restore(result, model)
    return result


def quantizable(model: onnx.ModelProto) -> list[str]:
    """Return the names of the convolutions and linear layers with constant weights, which can be quantized."""
    weights = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    return [node.name for node in model.graph.node if node.op_type in _OPERATORS and node.input[1] in weights]


def _check(model: onnx.ModelProto, keep_float: Collection[str], activations: str) -> None:
    if activations not in ACTIVATIONS:
        raise InputError(f"unknown kind of activations {activations!r}", hint=f"one of {', '.join(ACTIVATIONS)}")
    layers = quantizable(model)
    if not layers:
        raise ModelError("nothing to quantize: it has no convolution or linear layer with constant weights")
    unknown = sorted(set(keep_float) - set(layers))
    if unknown:
        raise InputError(f"no layer {unknown[0]!r} that could be kept in float", hint=f"one of {', '.join(layers)}")
    opset = opset_of(model)
    if opset < 13:
        raise ModelError(f"a scale for each channel needs opset 13 or newer, got opset {opset}")


def _refuse_what_is_not_finite(model: onnx.ModelProto, ranges: Ranges) -> None:
    # An infinite scale turns everything into zero, and the quantizer does not complain.
    arrays = arrays_of(model)
    for node in model.graph.node:
        for name in node.input[1:] if node.op_type in _OPERATORS else ():
            if name in arrays and not np.isfinite(arrays[name]).all():
                raise ModelError(f"{name} is not finite", where=node.name, hint="train it again")
    for name, bounds in ranges.items():
        if not np.isfinite(bounds).all():
            raise ModelError(f"activation {name!r} is not finite on the calibration inputs", hint="check the inputs")


def _by_onnxruntime(
    model: onnx.ModelProto, keep_float: Collection[str], ranges: Ranges, per_channel: bool, symmetric: bool
) -> onnx.ModelProto:
    """Run the quantizer on a copy in memory."""
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

    prepared = _prepared(model)
    # The quantizer does not look into subgraphs: a ReLU that it removed would be missing there.
    captured = {name for node in model.graph.node for name in captured_by(node)}
    relus = (node for node in model.graph.node if node.op_type == "Relu")
    kept = [node.name for node in relus if captured.intersection((*node.input, *node.output))]
    # Coordinates of boxes, rounded to 256 steps, would be off by pixels.
    kept += [node.name for node in model.graph.node if node.name.startswith(float32_parts(model))]
    data = {name: tuple(np.float32(bound) for bound in ranges[name]) for name in ranges}
    options: dict[str, Any] = {"QuantizeBias": not symmetric, "WeightSymmetric": True, "ActivationSymmetric": symmetric}
    if symmetric:
        # Q/DQ between a convolution and its ReLU would keep TensorRT from fusing them.
        options["OpTypesToExcludeOutputQuantization"] = list(_OPERATORS)
    with _quiet():
        quantizer = QDQQuantizer(
            prepared,
            per_channel,
            False,
            QuantType.QInt8,
            QuantType.QInt8 if symmetric else QuantType.QUInt8,
            TensorsData(CalibrationMethod.MinMax, data),
            [],
            [*keep_float, *kept],
            list(_OPERATORS) if symmetric else [*_OPERATORS, *_BETWEEN],
            options,
        )
        quantizer.quantize_model()
    return quantizer.model.model


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy a model with the type of every tensor, and the mark without which the quantizer uses temporary files."""
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    del prepared.graph.value_info[:]
    outside = {value.name for value in [*model.graph.input, *model.graph.output]}
    prepared.graph.value_info.extend(value for name, value in tensor_types(model).items() if name not in outside)
    prepared.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")
    return prepared


def _read_floats(model: onnx.ModelProto, layers: Collection[str], rectified: Collection[str]) -> None:
    """Let layers that stay float read the tensor itself instead of its rounded form.

    The quantizer removes a ReLU where rounding to uint8 cuts off negative values. Layers that read one of the
    `rectified` tensors without that rounding get the ReLU back.
    """
    producers = {output: node for node in model.graph.node for output in node.output}
    taken = {*producers, *(node.name for node in model.graph.node)}
    relus: dict[str, onnx.NodeProto] = {}
    for node in model.graph.node:
        if node.name not in layers:
            continue
        for index, name in enumerate(node.input):
            quantize = _quantizer_of(producers, name)
            if quantize is not None:
                source = quantize.input[0]
                # The quantizer moves the name of an output of the graph behind the rounding.
                was_rectified = source in rectified or name in rectified
                if was_rectified and source in producers and producers[source].op_type != "Relu":
                    if source not in relus:
                        output = distinct_name(f"{source}_Relu", taken)
                        relus[source] = onnx.helper.make_node("Relu", [source], [output], name=output)
                    source = relus[source].output[0]
                node.input[index] = source
    model.graph.node.extend(relus.values())
    read = {name for node in model.graph.node for name in node.input} | {value.name for value in model.graph.output}
    for index in reversed(range(len(model.graph.node))):
        node = model.graph.node[index]
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and not read.intersection(node.output):
            del model.graph.node[index]


def _quantizer_of(producers: Mapping[str, onnx.NodeProto], name: str) -> onnx.NodeProto | None:
    dequantize = producers.get(name)
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    quantize = producers.get(dequantize.input[0])
    return quantize if quantize is not None and quantize.op_type == "QuantizeLinear" else None


def _restore(result: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Restore header, metadata and declared shapes."""
    result.ir_version = model.ir_version
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    for field in ("opset_import", "metadata_props"):
        result.ClearField(field)
        getattr(result, field).extend(getattr(model, field))
    result.graph.ClearField("value_info")
    produced = {output for node in result.graph.node for output in node.output}
    result.graph.value_info.extend(value for value in model.graph.value_info if value.name in produced)
    result.graph.name = model.graph.name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantizer, which writes advice for its caller to the root logger."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
