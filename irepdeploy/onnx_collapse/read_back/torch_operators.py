"""ONNX operators as calls of torch: one function for each operator, which writes it into a `Reader`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.onnx_collapse.read_back.reader import Reader, refused

__all__ = ["OPERATORS"]

Attributes = dict[str, Any]


def _pads(node: onnx.NodeProto, attributes: Attributes) -> list[int]:
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise refused(node, "with auto_pad")
    return list(attributes.get("pads", [0, 0, 0, 0]))


def _padded(reader: Reader, x: Any, pads: Sequence[int], value: float = 0.0) -> tuple[Any, tuple[int, int]]:
    """Return `x`, padded by a separate node if opposite sides differ, and the padding left to the layer."""
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return x, (top, left)
    return reader.call(F.pad, x, [left, right, top, bottom], "constant", value), (0, 0)


def _conv(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    weight, bias = reader.weight(node, 1), reader.weight(node, 2)
    assert weight is not None
    if weight.ndim != 4:
        raise refused(node, f"of {weight.ndim - 2} dimensions")
    outer, inner, height, width = weight.shape
    x, padding = _padded(reader, reader.value(node.input[0]), _pads(node, attributes))
    strides, dilations = tuple(attributes.get("strides", [1, 1])), tuple(attributes.get("dilations", [1, 1]))
    groups = attributes.get("group", 1)
    conv = nn.Conv2d(inner * groups, outer, (height, width), strides, padding, dilations, groups, bias is not None)
    conv.weight = nn.Parameter(weight.clone())
    if bias is not None:
        conv.bias = nn.Parameter(bias.clone())
    return reader.layer(node, conv, x)


def _gemm(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    weight, bias = reader.weight(node, 1), reader.weight(node, 2)
    assert weight is not None
    if attributes.get("transA", 0) or (bias is not None and bias.ndim > 1 and len(bias) > 1):
        raise refused(node, "of this form")
    weight = (weight if attributes.get("transB", 0) else weight.T) * attributes.get("alpha", 1.0)
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    linear.weight = nn.Parameter(weight.clone())
    if bias is not None:
        linear.bias = nn.Parameter((bias * attributes.get("beta", 1.0)).reshape(-1).expand(len(weight)).clone())
    return reader.layer(node, linear, reader.value(node.input[0]))


def _batch_normalization(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    parts = [reader.weight(node, place) for place in range(1, 5)]
    gamma, beta, mean, var = (part.clone() for part in parts if part is not None)
    norm = nn.BatchNorm2d(len(gamma), attributes.get("epsilon", 1e-5))
    norm.weight, norm.bias = nn.Parameter(gamma), nn.Parameter(beta)
    norm.running_mean, norm.running_var = mean, var
    return reader.layer(node, norm, reader.value(node.input[0]))


def _pool(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    kernel, ceil = tuple(attributes["kernel_shape"]), bool(attributes.get("ceil_mode", 0))
    strides, dilations = tuple(attributes.get("strides", [1, 1])), tuple(attributes.get("dilations", [1, 1]))
    if len(kernel) != 2 or len(node.output) > 1:
        raise refused(node, "of this form")
    maximum = node.op_type == "MaxPool"
    pads, counted = _pads(node, attributes), bool(attributes.get("count_include_pad", 0))
    if not maximum and (dilations != (1, 1) or (pads[:2] != pads[2:] and not counted)):
        raise refused(node, "of this form")
    x, padding = _padded(reader, reader.value(node.input[0]), pads, float("-inf") if maximum else 0.0)
    if maximum:
        return reader.layer(node, nn.MaxPool2d(kernel, strides, padding, dilations, ceil_mode=ceil), x)
    return reader.layer(node, nn.AvgPool2d(kernel, strides, padding, ceil, counted), x)


def _pad(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    sizes, value = reader.numbers(node, 1), reader.numbers(node, 2)
    mode = attributes.get("mode", b"constant").decode()
    axes = reader.numbers(node, 3)
    if sizes is None or axes is not None or len(sizes) != 8 or any(sizes[:2] + sizes[4:6]):
        raise refused(node, "of this form")
    around = [sizes[3], sizes[7], sizes[2], sizes[6]]
    x = reader.value(node.input[0])
    if mode == "constant":
        return reader.call(F.pad, x, around, "constant", float(value[0]) if value else 0.0)
    return reader.call(F.pad, x, around, {"edge": "replicate"}.get(mode, mode))


def _slice(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    starts, ends = reader.numbers(node, 1) or [], reader.numbers(node, 2) or []
    axes = reader.numbers(node, 3) or list(range(len(starts)))
    steps = reader.numbers(node, 4) or [1] * len(starts)
    if min(axes, default=0) < 0 or min(steps, default=1) < 1:
        raise refused(node, "of this form")
    index = [slice(None)] * (max(axes) + 1)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        index[axis] = slice(start, None if end >= 2**31 - 1 else end, step)
    return reader.item(reader.value(node.input[0]), tuple(index))


def _split(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    sizes = reader.numbers(node, 1) or attributes.get("split")
    if sizes is None:
        raise refused(node, "without sizes")
    return reader.call(torch.split, reader.value(node.input[0]), list(sizes), dim=attributes.get("axis", 0))


def _flatten(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    if attributes.get("axis", 1) != 1:
        # The first of its two dimensions would be more than the batch.
        raise refused(node, "at another axis")
    return reader.call(torch.flatten, reader.value(node.input[0]), 1)


def _reshape(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    shape = reader.numbers(node, 1)
    if shape is None or 0 in shape:
        raise refused(node, "to this shape")
    # The network was exported with batch 1.
    if shape[0] == 1:
        if -1 not in shape:
            shape = [-1, *shape[1:]]
        elif len(shape) == 2:
            return reader.call(torch.flatten, reader.value(node.input[0]), 1)
        else:
            raise refused(node, "to this shape")
    return reader.call(torch.reshape, reader.value(node.input[0]), shape)


def _mean(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    axes = reader.numbers(node, 1) or attributes.get("axes")
    if not axes:
        raise refused(node, "over everything")
    return reader.call(torch.mean, reader.value(node.input[0]), list(axes), bool(attributes.get("keepdims", 1)))


def _clip(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    low, high = reader.numbers(node, 1), reader.numbers(node, 2)
    bounds = [None if bound is None else bound[0] for bound in (low, high)]
    return reader.call(torch.clamp, reader.value(node.input[0]), *bounds)


def _sum(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    return functools.reduce(lambda a, b: reader.call(torch.add, a, b), map(reader.value, node.input))


def _plain(function: Callable[..., Any], **names: tuple[str, Any]) -> Callable[..., Any]:
    """Write an operator as one function of its inputs; `names`: (attribute, default) by argument."""

    def write(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
        chosen = {name: attributes.get(attribute, default) for name, (attribute, default) in names.items()}
        return reader.call(function, *(reader.value(name) for name in node.input), **chosen)

    return write


def _concat(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    return reader.call(torch.cat, [reader.value(name) for name in node.input], attributes["axis"])


def _identity(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    return reader.value(node.input[0])


def _global(module: Callable[[], nn.Module]) -> Callable[..., Any]:
    return lambda reader, node, attributes: reader.layer(node, module(), reader.value(node.input[0]))


def hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Return clip(alpha x + beta, 0, 1)."""
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


def permuted(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Return `x` with its axes in another order."""
    return x.permute(*axes)


def gelu(x: Tensor, approximate: bytes) -> Tensor:
    """Return x Phi(x)."""
    return F.gelu(x, approximate=approximate.decode())


OPERATORS: dict[str, Callable[..., Any]] = {
    "Add": _plain(torch.add),
    "AveragePool": _pool,
    "BatchNormalization": _batch_normalization,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _plain(torch.div),
    "Dropout": _identity,
    "Elu": _plain(F.elu, alpha=("alpha", 1.0)),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Flatten": _flatten,
    "Gelu": _plain(gelu, approximate=("approximate", b"none")),
    "Gemm": _gemm,
    "GlobalAveragePool": _global(lambda: nn.AdaptiveAvgPool2d(1)),
    "GlobalMaxPool": _global(lambda: nn.AdaptiveMaxPool2d(1)),
    "HardSigmoid": _plain(hard_sigmoid, alpha=("alpha", 0.2), beta=("beta", 0.5)),
    "HardSwish": _plain(F.hardswish),
    "Identity": _identity,
    "LeakyRelu": _plain(F.leaky_relu, negative_slope=("alpha", 0.01)),
    "MatMul": _plain(torch.matmul),
    "MaxPool": _pool,
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Pad": _pad,
    "Pow": _plain(torch.pow),
    "ReduceMean": _mean,
    "Relu": _plain(F.relu),
    "Reshape": _reshape,
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": _slice,
    "Softmax": _plain(F.softmax, dim=("axis", -1)),
    "Softplus": _plain(F.softplus),
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Sub": _plain(torch.sub),
    "Sum": _sum,
    "Tanh": _plain(torch.tanh),
    "Transpose": _plain(permuted, axes=("perm", None)),
}
