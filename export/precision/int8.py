"""From a float32 ONNX model to one with explicit QuantizeLinear and DequantizeLinear, by onnxruntime's quantiser.

Weights are int8, symmetric, with one step for each output channel. The rest is as the runtime wants it. TensorRT takes
symmetric activations at the inputs of convolutions and linear layers, makes one kernel of a convolution and the ReLU
behind it, and its parser refuses int32 biases. ONNX Runtime computes in integers where all of a layer is quantised,
bias and output included, and with a zero point the ReLU disappears in the rounding.
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
from irepdeploy.onnx_graph.proto import opset_of
from irepdeploy.onnx_graph.shapes import tensor_types

from .inference import Inputs, arrays_of
from .ranges import tensor_ranges

__all__ = ["ACTIVATIONS", "Ranges", "quantisable", "quantized"]

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
    """`model` with int8 weights and activations in explicit Q/DQ form; the same bytes for the same input.

    An activation's range is what it spans over the calibration inputs. `model` is left as it is.

    Args:
        model: in float32, of opset 13 or newer.
        calibration: real inputs, (N, C, H, W) float32, or one array a name.
        keep_float: nodes that stay float32, weights and input.
        per_channel: one step for each output channel of a weight, or else one for the whole of it.
        activations: "int8" for TensorRT, "uint8" for ONNX Runtime.
        ranges: `tensor_ranges(model, calibration)`, where they are known already.

    Raises:
        InputError: neither calibration nor ranges, a name in `keep_float` that is no such layer, or no such
            `activations`.
        ModelError: nothing to quantise, an opset before 13, or activations that are not finite.
    """
    _check(model, keep_float, activations)
    if ranges is None:
        if calibration is None:
            raise InputError("int8 needs inputs to calibrate with", hint="give --inputs")
        ranges = tensor_ranges(model, calibration)
    _refuse_what_is_not_finite(model, ranges)
    result = _by_onnxruntime(model, keep_float, ranges, per_channel, activations == "int8")
    _read_floats(result, set(keep_float))
    _restore(result, model)
    return result


def quantisable(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that can be quantised: convolutions and linear layers whose weights are constants."""
    weights = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    return [node.name for node in model.graph.node if node.op_type in _OPERATORS and node.input[1] in weights]


def _check(model: onnx.ModelProto, keep_float: Collection[str], activations: str) -> None:
    if activations not in ACTIVATIONS:
        raise InputError(f"no activations {activations!r}", hint=f"one of {', '.join(ACTIVATIONS)}")
    layers = quantisable(model)
    if not layers:
        raise ModelError("nothing to quantise: no convolution and no linear layer with constant weights")
    unknown = sorted(set(keep_float) - set(layers))
    if unknown:
        raise InputError(f"no layer {unknown[0]!r} that could be kept in float", hint=f"one of {', '.join(layers)}")
    opset = opset_of(model)
    if opset < 13:
        raise ModelError(f"opset {opset}: a step for each channel needs opset 13 or newer")


def _refuse_what_is_not_finite(model: onnx.ModelProto, ranges: Ranges) -> None:
    # Infinity gives a step that makes zero of everything, and the quantiser says nothing.
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
    """The quantiser's own work, on a copy, in memory."""
    from onnxruntime.quantization import CalibrationMethod, QDQQuantizer, QuantType, TensorsData

    prepared = _prepared(model)
    data = {name: tuple(np.float32(bound) for bound in ranges[name]) for name in ranges}
    options: dict[str, Any] = {"QuantizeBias": not symmetric, "WeightSymmetric": True, "ActivationSymmetric": symmetric}
    if symmetric:
        # Between a convolution and its ReLU, Q/DQ would keep TensorRT from making one kernel of them.
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
            list(keep_float),
            list(_OPERATORS) if symmetric else [*_OPERATORS, *_BETWEEN],
            options,
        )
        quantizer.quantize_model()
        quantizer.model.topological_sort()
    return quantizer.model.model


def _prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with the type of every tensor and the mark that this was done, without which the quantiser uses files."""
    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    del prepared.graph.value_info[:]
    outside = {value.name for value in [*model.graph.input, *model.graph.output]}
    prepared.graph.value_info.extend(value for name, value in tensor_types(model).items() if name not in outside)
    prepared.metadata_props.add(key="onnx.infer", value="onnxruntime.quant")
    return prepared


def _read_floats(model: onnx.ModelProto, layers: Collection[str]) -> None:
    """Let layers that stay float read a tensor itself where the quantiser gave them its rounded form."""
    producers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.name not in layers:
            continue
        for index, name in enumerate(node.input):
            quantize = _quantizer_of(producers, name)
            if quantize is not None:
                node.input[index] = quantize.input[0]
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
    """Header, metadata and declared shapes as they were."""
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
    """What the quantiser says goes to the root logger, in words that help nobody who did not call it."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(disabled)
