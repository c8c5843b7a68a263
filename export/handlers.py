"""From an operator of torch to nodes of ONNX, one function each.

A handler takes an `Emitter` and the operator's own arguments, under the names that torch gives them; tensors arrive as
`Value`. It returns the `Value` that the operator gives.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from irepdeploy.reparam import algebra

from .graph import Emitter, Value

__all__ = ["FUNCTIONS", "MODULES", "PASSED_THROUGH", "supported"]

Handler = Callable[..., Value]
Size = int | Sequence[int] | None


def conv2d(emit: Emitter, module: nn.Conv2d, x: Value) -> Value:
    if module.padding_mode != "zeros":
        raise emit.refuse(f"a convolution with padding mode {module.padding_mode!r} cannot be written")
    weight, bias = _fold(module, emit.folded) if emit.folded else (module.weight, module.bias)
    key = (id(module), *map(id, emit.folded))
    inputs: list[Value | str] = [x, emit.weight("weight", weight, (*key, "weight"))]
    if bias is not None:
        inputs.append(emit.weight("bias", bias, (*key, "bias")))
    return emit.node(
        "Conv",
        inputs,
        kernel_shape=list(module.kernel_size),
        strides=list(module.stride),
        pads=_conv_pads(module),
        dilations=list(module.dilation),
        group=module.groups,
    )


def batch_norm(emit: Emitter, module: nn.BatchNorm2d, x: Value) -> Value:
    mean, var = module.running_mean, module.running_var
    if mean is None or var is None:
        raise emit.refuse("batch normalisation without running statistics depends on the batch")
    gamma = torch.ones_like(var) if module.weight is None else module.weight
    beta = torch.zeros_like(var) if module.bias is None else module.bias
    tensors = {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": var}
    weights = [emit.weight(name, tensor, (id(module), name)) for name, tensor in tensors.items()]
    return emit.node("BatchNormalization", [x, *weights], epsilon=module.eps)


def linear(emit: Emitter, module: nn.Linear, x: Value) -> Value:
    if len(x.shape) != 2:
        raise emit.refuse(f"a linear layer on a tensor of {len(x.shape)} dimensions cannot be written, only on (N, C)")
    inputs: list[Value | str] = [x, emit.weight("weight", module.weight)]
    if module.bias is not None:
        inputs.append(emit.weight("bias", module.bias))
    return emit.node("Gemm", inputs, transB=1)


def relu(emit: Emitter, input: Value, inplace: bool = False) -> Value:
    return emit.node("Relu", [input])


def unchanged(emit: Emitter, input: Value, *args: Any, **kwargs: Any) -> Value:
    return input


def dropout(emit: Emitter, input: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    if training and p > 0:
        raise emit.refuse("dropout that is always on cannot be written (pass training=self.training)")
    return input


def add(emit: Emitter, input: Value | float, other: Value | float, *, alpha: float = 1) -> Value:
    if alpha != 1:
        raise emit.refuse(f"add with alpha={alpha} cannot be written")
    # sum() begins with 0 + x.
    for number, tensor in ((input, other), (other, input)):
        if isinstance(tensor, Value) and not isinstance(number, Value) and number == 0:
            return tensor
    return emit.node("Add", [x if isinstance(x, Value) else emit.constant(x) for x in (input, other)])


def cat(emit: Emitter, tensors: Sequence[Value], dim: int = 0) -> Value:
    return emit.node("Concat", tensors, axis=dim % len(emit.shape))


def flatten(emit: Emitter, input: Value, *args: Any, **kwargs: Any) -> Value:
    return _flat(emit, input)


def mean(emit: Emitter, input: Value, dim: Size = None, keepdim: bool = False, *, dtype: Any = None) -> Value:
    dims = sorted(d % len(input.shape) for d in _pair_or_more(dim))
    if len(input.shape) != 4 or dims != [2, 3] or dtype is not None:
        raise emit.refuse("only a mean over height and width, mean(dim=(2, 3)), can be written")
    # ReduceMean moves its axes from an attribute to an input at opset 18, which TensorRT 8 does not read.
    pooled = emit.node("GlobalAveragePool", [input], (*input.shape[:2], 1, 1))
    return pooled if keepdim else _flat(emit, pooled)


def max_pool2d(
    emit: Emitter,
    input: Value,
    kernel_size: Size,
    stride: Size = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    if return_indices:
        raise emit.refuse("max pooling that returns indices cannot be written")
    return _pool(emit, "MaxPool", input, kernel_size, stride, padding, _pair(dilation), ceil_mode)


def avg_pool2d(
    emit: Emitter,
    input: Value,
    kernel_size: Size,
    stride: Size = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    if divisor_override is not None:
        raise emit.refuse("average pooling with divisor_override cannot be written")
    counted = {"count_include_pad": int(count_include_pad)}
    return _pool(emit, "AveragePool", input, kernel_size, stride, padding, [1, 1], ceil_mode, **counted)


def adaptive_avg_pool2d(emit: Emitter, input: Value, output_size: Size) -> Value:
    sizes = emit.shape[2:]
    if sizes == (1, 1):
        return emit.node("GlobalAveragePool", [input])
    if any(extent % size for extent, size in zip(input.shape[2:], sizes, strict=True)):
        raise emit.refuse(f"adaptive average pooling from {input.shape[2:]} to {sizes} is not a regular pooling")
    window = [extent // size for extent, size in zip(input.shape[2:], sizes, strict=True)]
    return emit.node("AveragePool", [input], kernel_shape=window, strides=window)


FUNCTIONS: dict[object, Handler] = {
    **dict.fromkeys((F.relu, torch.relu, torch.relu_, "relu", "relu_"), relu),
    **dict.fromkeys((operator.add, operator.iadd, torch.add, "add", "add_"), add),
    **dict.fromkeys((torch.cat, torch.concat, torch.concatenate), cat),
    **dict.fromkeys((torch.flatten, "flatten", "view", "reshape", torch.reshape), flatten),
    **dict.fromkeys((torch.mean, "mean"), mean),
    **dict.fromkeys((F.max_pool2d, torch.max_pool2d), max_pool2d),
    F.avg_pool2d: avg_pool2d,
    F.adaptive_avg_pool2d: adaptive_avg_pool2d,
    F.dropout: dropout,
    "contiguous": unchanged,
}

MODULES: dict[type[nn.Module], Handler] = {
    nn.Conv2d: conv2d,
    nn.BatchNorm2d: batch_norm,
    nn.Linear: linear,
    nn.ReLU: lambda emit, module, x: relu(emit, x),
    nn.Identity: lambda emit, module, x: x,
    nn.Dropout: lambda emit, module, x: x,
    nn.Dropout2d: lambda emit, module, x: x,
    nn.Flatten: lambda emit, module, x: _flat(emit, x),
    nn.MaxPool2d: lambda emit, module, x: max_pool2d(
        emit,
        x,
        module.kernel_size,
        module.stride,
        module.padding,
        module.dilation,
        module.ceil_mode,
        module.return_indices,
    ),
    nn.AvgPool2d: lambda emit, module, x: avg_pool2d(
        emit,
        x,
        module.kernel_size,
        module.stride,
        module.padding,
        module.ceil_mode,
        module.count_include_pad,
        module.divisor_override,
    ),
    nn.AdaptiveAvgPool2d: lambda emit, module, x: adaptive_avg_pool2d(emit, x, module.output_size),
}

# What gives its input back in eval mode, so that a batch normalisation behind it can still be folded.
PASSED_THROUGH: set[object] = {nn.Identity, nn.Dropout, nn.Dropout2d, F.dropout, "contiguous"}


def supported() -> str:
    """The operators that can be written, for messages."""
    functions = {key if isinstance(key, str) else getattr(key, "__name__", "") for key in FUNCTIONS}
    # The functional max pooling is a dispatcher called fn.
    names = {name for name in functions if name != "fn" and not name.endswith("_")} | {"max_pool2d"}
    return ", ".join([*sorted(kind.__name__ for kind in MODULES), *sorted(names)])


def _fold(conv: nn.Conv2d, bns: Sequence[nn.BatchNorm2d]) -> tuple[torch.Tensor, torch.Tensor]:
    """Kernel and bias with the batch normalisations in them: in float64, rounded once."""

    def wide(tensor: torch.Tensor | None) -> torch.Tensor | None:
        return None if tensor is None else tensor.detach().double()

    kernel, bias = conv.weight.detach().double(), wide(conv.bias)
    for bn in bns:
        mean, var = wide(bn.running_mean), wide(bn.running_var)
        assert mean is not None and var is not None
        scale, shift = algebra.bn_scale_shift(wide(bn.weight), wide(bn.bias), mean, var, bn.eps)
        kernel, bias = algebra.fold_scale_shift(kernel, bias, scale, shift)
    assert bias is not None
    return kernel.to(conv.weight.dtype), bias.to(conv.weight.dtype)


def _flat(emit: Emitter, x: Value) -> Value:
    rows = x.shape[0] if x.shape else 0
    columns = 1
    for size in x.shape[1:]:
        columns *= size
    if emit.shape != (rows, columns):
        raise emit.refuse(
            f"a reshape from {x.shape} to {emit.shape} cannot be written, only one that flattens to (N, C)"
        )
    return x if x.shape == emit.shape else emit.node("Flatten", [x], axis=1)


def _pool(
    emit: Emitter,
    kind: str,
    x: Value,
    kernel_size: Size,
    stride: Size,
    padding: Size,
    dilation: list[int],
    ceil_mode: bool,
    **attributes: Any,
) -> Value:
    kernel, pads = _pair(kernel_size), _pair(padding)
    strides = kernel if stride in (None, []) else _pair(stride)
    if ceil_mode:
        # Rounding up matters only where it adds a window; there torch and ONNX count its padding differently.
        spans = [n + 2 * p - d * (k - 1) - 1 for n, p, d, k in zip(x.shape[2:], pads, dilation, kernel, strict=True)]
        if any(span % step for span, step in zip(spans, strides, strict=True)):
            raise emit.refuse(f"pooling with ceil_mode=True cannot be written for a map of {x.shape[2:]}")
    if kind == "MaxPool":
        # AveragePool has none.
        attributes["dilations"] = dilation
    return emit.node(kind, [x], kernel_shape=kernel, strides=strides, pads=[*pads, *pads], **attributes)


def _conv_pads(module: nn.Conv2d) -> list[int]:
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return [*(total // 2 for total in totals), *(total - total // 2 for total in totals)]
    pads = [0, 0] if isinstance(module.padding, str) else list(module.padding)
    return [*pads, *pads]


def _pair(value: Size) -> list[int]:
    return [int(value), int(value)] if isinstance(value, int) else [int(item) for item in value or ()]


def _pair_or_more(value: Size) -> list[int]:
    return [value] if isinstance(value, int) else list(value or ())
