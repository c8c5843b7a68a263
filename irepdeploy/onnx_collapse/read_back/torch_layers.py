"""ONNX operators with weights, and pooling, as modules and functions of torch.

Each function writes one operator into a `Reader`, and raises ModelError for a form that torch does not support.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irepdeploy.onnx_collapse.read_back.reader import Reader, refused

__all__ = [
    "batch_normalization", "conv", "conv_transpose", "gemm", "global_pool", "group_normalization",
    "instance_normalization", "layer_normalization", "pool", "prelu", "slope",
]  # fmt: skip

Attributes = dict[str, Any]
Sizes = tuple[int, ...]

# Keyed by the number of spatial dimensions.
_CONVS: dict[int, type[nn.Module]] = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, type[nn.Module]] = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORMS: dict[int, type[nn.Module]] = {0: nn.BatchNorm1d, 1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_INSTANCE: dict[int, type[nn.Module]] = {1: nn.InstanceNorm1d, 2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}
_CONV_FUNCTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_MAX_POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG_POOLS = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_GLOBAL: dict[str, dict[int, Callable[..., Any]]] = {
    "GlobalAveragePool": {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d},
    "GlobalMaxPool": {1: F.adaptive_max_pool1d, 2: F.adaptive_max_pool2d, 3: F.adaptive_max_pool3d},
}


def conv(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a convolution; one with computed weights becomes a function."""
    if node.input[1] not in reader.constants:
        spatial = reader.rank(node, 1) - 2
        strides, dilations, groups = _geometry(attributes, spatial)
        x, padding = _padded(reader, reader.value(node.input[0]), _pads(node, attributes, spatial))
        given = [reader.value(name) if name else None for name in (*node.input[1:], "")][:2]
        return reader.call(_of_rank(_CONV_FUNCTIONS, spatial, node), x, *given, strides, padding, dilations, groups)
    weight, bias = _weights(reader, node)
    outer, inner, *kernel = weight.shape
    spatial = len(kernel)
    strides, dilations, groups = _geometry(attributes, spatial)
    x, padding = _padded(reader, reader.value(node.input[0]), _pads(node, attributes, spatial))
    kind = _of_rank(_CONVS, spatial, node)
    module = kind(inner * groups, outer, tuple(kernel), strides, padding, dilations, groups, bias is not None)
    return reader.layer(node, _filled(module, weight=weight, bias=bias), x)


def conv_transpose(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a transposed convolution with constant weights."""
    weight, bias = _weights(reader, node)
    inner, outer, *kernel = weight.shape
    spatial = len(kernel)
    if "output_shape" in attributes:
        raise refused(node, "with output_shape")
    strides, dilations, groups = _geometry(attributes, spatial)
    pads = _pads(node, attributes, spatial)
    before, behind = tuple(pads[:spatial]), tuple(pads[spatial:])
    padding = before if before == behind else (0,) * spatial
    more = tuple(attributes.get("output_padding", [0] * spatial))
    kind = _of_rank(_TRANSPOSED, spatial, node)
    module = kind(
        inner, outer * groups, tuple(kernel), strides, padding, more, groups, bias is not None, dilation=dilations
    )
    y = reader.layer(node, _filled(module, weight=weight, bias=bias), reader.value(node.input[0]))
    if before == behind:
        return y
    return reader.call(F.pad, y, _around([-size for size in before], [-size for size in behind]))


def gemm(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a linear layer, or a product of computed matrices."""
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    constant = all(name in reader.constants for name in node.input[1:] if name)
    bias = reader.weight(node, 2) if constant else None
    if not constant or attributes.get("transA", 0) or (bias is not None and bias.ndim > 1 and len(bias) > 1):
        a, b = reader.value(node.input[0]), reader.value(node.input[1])
        a = reader.method("t", a) if attributes.get("transA", 0) else a
        b = reader.method("t", b) if attributes.get("transB", 0) else b
        product = reader.call(torch.matmul, a, b)
        product = product if alpha == 1 else reader.call(torch.mul, product, alpha)
        if len(node.input) < 3 or not node.input[2]:
            return product
        return reader.call(torch.add, product, reader.value(node.input[2]), alpha=beta)
    given = reader.weight(node, 1)
    assert given is not None
    weight = (given if attributes.get("transB", 0) else given.T) * alpha
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None)
    shift = None if bias is None else (bias * beta).reshape(-1).expand(len(weight))
    return reader.layer(node, _filled(linear, weight=weight, bias=shift), reader.value(node.input[0]))


def batch_normalization(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a batch normalization of a tensor of 2 to 5 dimensions."""
    parts = [reader.weight(node, place) for place in range(1, 5)]
    gamma, beta, mean, var = (part.clone() for part in parts if part is not None)
    if attributes.get("training_mode", 0):
        raise refused(node, "in training mode")
    shape = reader.shape(node.input[0])
    kind = _of_rank(_NORMS, 2 if shape is None else len(shape) - 2, node)
    norm = _filled(kind(len(gamma), attributes.get("epsilon", 1e-5)), weight=gamma, bias=beta)
    norm.running_mean, norm.running_var = mean, var
    return reader.layer(node, norm, reader.value(node.input[0]))


def instance_normalization(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read an instance normalization."""
    gamma, beta = (reader.weight(node, place) for place in (1, 2))
    assert gamma is not None
    kind = _of_rank(_INSTANCE, reader.rank(node) - 2, node)
    norm = kind(len(gamma), attributes.get("epsilon", 1e-5), affine=True)
    return reader.layer(node, _filled(norm, weight=gamma, bias=beta), reader.value(node.input[0]))


def layer_normalization(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a layer normalization over the last dimensions."""
    gamma, beta = (reader.weight(node, place) for place in (1, 2))
    rank = reader.rank(node)
    assert gamma is not None
    if gamma.ndim != rank - attributes.get("axis", -1) % rank:
        raise refused(node, "whose scale is broadcast")
    norm = nn.LayerNorm(tuple(gamma.shape), attributes.get("epsilon", 1e-5), bias=beta is not None)
    return reader.layer(node, _filled(norm, weight=gamma, bias=beta), reader.value(node.input[0]))


def group_normalization(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a group normalization, whose scale is per group before opset 21."""
    gamma, beta = (reader.weight(node, place) for place in (1, 2))
    shape, groups = reader.shape(node.input[0]), attributes["num_groups"]
    assert gamma is not None and beta is not None
    if shape is None or shape[1] is None:
        raise refused(node, "of an unknown number of channels")
    norm = nn.GroupNorm(groups, shape[1], attributes.get("epsilon", 1e-5))
    each = shape[1] // len(gamma)
    filled = _filled(norm, weight=gamma.repeat_interleave(each), bias=beta.repeat_interleave(each))
    return reader.layer(node, filled, reader.value(node.input[0]))


def prelu(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a leaky ReLU with a slope for each channel."""
    shape, given = reader.shape(node.input[0]), reader.constants.get(node.input[1])
    channels = shape[1] if shape is not None and len(shape) > 1 else None
    per_channel = given is not None and shape is not None and given.ndim == len(shape) - 1 and len(given) == channels
    if given is not None and (given.numel() == 1 or (per_channel and given.numel() == channels)):
        module = _filled(nn.PReLU(given.numel()), weight=given.reshape(-1))
        return reader.layer(node, module, reader.value(node.input[0]))
    return reader.call(slope, *map(reader.value, node.input))


def slope(x: Tensor, slopes: Tensor) -> Tensor:
    """Return `x` where it is positive, and `x` times its slope elsewhere."""
    return torch.where(x < 0, x * slopes, x)


def pool(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a pool as a function, because a pool that a module calls directly has the name of that module."""
    kernel, ceil = tuple(attributes["kernel_shape"]), bool(attributes.get("ceil_mode", 0))
    spatial = len(kernel)
    strides, dilations, _ = _geometry(attributes, spatial)
    maximum = node.op_type == "MaxPool"
    pads, counted = _pads(node, attributes, spatial), bool(attributes.get("count_include_pad", 0))
    if not maximum and (any(d != 1 for d in dilations) or (pads[:spatial] != pads[spatial:] and not counted)):
        raise refused(node, "of this form")
    x, padding = _padded(reader, reader.value(node.input[0]), pads, float("-inf") if maximum else 0.0)
    if maximum:
        return reader.call(_of_rank(_MAX_POOLS, spatial, node), x, kernel, strides, padding, dilations, ceil_mode=ceil)
    return reader.call(_of_rank(_AVG_POOLS, spatial, node), x, kernel, strides, padding, ceil, counted)


def global_pool(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a global pool."""
    shape = reader.shape(node.input[0])
    function = _of_rank(_GLOBAL[node.op_type], 2 if shape is None else len(shape) - 2, node)
    return reader.call(function, reader.value(node.input[0]), 1)


def _weights(reader: Reader, node: onnx.NodeProto) -> tuple[Tensor, Tensor | None]:
    weight = reader.weight(node, 1)
    assert weight is not None
    return weight, reader.weight(node, 2)


def _geometry(attributes: Attributes, spatial: int) -> tuple[Sizes, Sizes, int]:
    strides, dilations = (tuple(attributes.get(name, [1] * spatial)) for name in ("strides", "dilations"))
    return strides, dilations, attributes.get("group", 1)


def _pads(node: onnx.NodeProto, attributes: Attributes, spatial: int) -> list[int]:
    if attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise refused(node, "with auto_pad")
    return list(attributes.get("pads", [0] * 2 * spatial))


def _padded(reader: Reader, x: Any, pads: Sequence[int], value: float = 0.0) -> tuple[Any, Sizes]:
    """Return `x`, padded by a separate node if opposite sides differ, and the padding left for the layer."""
    spatial = len(pads) // 2
    before, behind = pads[:spatial], pads[spatial:]
    if before == behind:
        return x, tuple(before)
    return reader.call(F.pad, x, _around(before, behind), "constant", value), (0,) * spatial


def _around(before: Sequence[int], behind: Sequence[int]) -> list[int]:
    """Return padding sizes in torch's order: pairs, starting with the last dimension."""
    pairs = zip(reversed(before), reversed(behind), strict=True)
    return functools.reduce(lambda sizes, pair: [*sizes, *pair], pairs, list[int]())


def _of_rank(table: dict[int, Any], spatial: int, node: onnx.NodeProto) -> Any:
    if spatial not in table:
        raise refused(node, f"of {spatial} dimensions")
    return table[spatial]


def _filled(module: Any, **tensors: Tensor | None) -> Any:
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(module, name, nn.Parameter(tensor.clone()))
    return module
