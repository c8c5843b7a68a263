"""ONNX handlers for layers with weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from irepdeploy.reparam import algebra

from .graph import Emitter, Normalization, Value
from .pools import times
from .resize import padded
from .shapes import Size


def conv(emit: Emitter, module: Any, x: Value) -> Value:
    """Write a convolution of any rank, after a Pad if its padding mode is not zeros."""
    padding = module.padding
    if module.padding_mode != "zeros":
        mode = {"replicate": "edge"}.get(module.padding_mode, module.padding_mode)
        x, padding = padded(emit, x, module._reversed_padding_repeated_twice, mode), 0
    key = (id(module), *(bn.key for bn in emit.folded))
    weight, bias = _fold(module.weight, module.bias, emit.folded)
    inputs = [x, emit.weight("weight", weight, (*key, "weight"))]
    if bias is not None:
        inputs.append(emit.weight("bias", bias, (*key, "bias")))
    return _conv(emit, inputs, module.stride, padding, module.dilation, module.groups)


def conv_function(
    emit: Emitter,
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Value:
    """Write a functional convolution."""
    if emit.folded:
        kernels, biases = weight.tensor, None if bias is None else bias.tensor
        if kernels is None or (bias is not None and biases is None):
            raise emit.refuse("batch normalization after a convolution with a computed kernel is not supported")
        folded, shift = _fold(kernels, biases, emit.folded)
        assert shift is not None
        weight, bias = emit.weight("weight", folded, object()), emit.weight("bias", shift, object())
    inputs = [input, weight] if bias is None else [input, weight, bias]
    return _conv(emit, inputs, stride, padding, dilation, groups)


def conv_transpose(emit: Emitter, module: Any, x: Value, output_size: Any = None) -> Value:
    """Write a transposed convolution."""
    if output_size is not None:
        raise emit.refuse("a transposed convolution with output_size is not supported")
    weight = emit.weight("weight", module.weight, (id(module), "weight"))
    bias = None if module.bias is None else emit.weight("bias", module.bias, (id(module), "bias"))
    attributes = (module.stride, module.padding, module.output_padding, module.groups, module.dilation)
    return conv_transpose_function(emit, x, weight, bias, *attributes)


def conv_transpose_function(
    emit: Emitter,
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Value:
    """Write a functional transposed convolution."""
    kernel = list(weight.shape[2:])
    return emit.node(
        "ConvTranspose",
        [input, weight] if bias is None else [input, weight, bias],
        kernel_shape=kernel,
        strides=times(stride, len(kernel)),
        pads=times(padding, len(kernel)) * 2,
        output_padding=times(output_padding, len(kernel)),
        dilations=times(dilation, len(kernel)),
        group=groups,
    )


def batch_norm(emit: Emitter, module: Any, x: Value) -> Value:
    """Write batch normalization with running statistics."""
    if module.running_mean is None or module.running_var is None:
        raise emit.refuse("batch normalization without running statistics depends on the batch")
    return _batch_norm(emit, x, Normalization.of(module))


def batch_norm_function(
    emit: Emitter,
    input: Value,
    running_mean: Value | None,
    running_var: Value | None,
    weight: Value | None = None,
    bias: Value | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Value:
    """Write functional batch normalization with running statistics."""
    given = (None if value is None else value.tensor for value in (running_mean, running_var, weight, bias))
    mean, var, gamma, beta = given
    if training or mean is None or var is None:
        raise emit.refuse("batch normalization without running statistics depends on the batch")
    return _batch_norm(emit, input, Normalization(mean, var, gamma, beta, eps, object()))


def linear(emit: Emitter, module: nn.Linear, x: Value) -> Value:
    """Write a linear layer on the last dimension."""
    key = (id(module), *(bn.key for bn in emit.folded))
    weight, shift = _fold(module.weight, module.bias, emit.folded)
    return _linear(emit, x, weight, (*key, "weight"), None if shift is None else (shift, (*key, "bias")))


def linear_function(emit: Emitter, input: Value, weight: Value, bias: Value | None = None) -> Value:
    """Write a functional linear layer."""
    if weight.tensor is None or (bias is not None and bias.tensor is None):
        raise emit.refuse("a linear layer with computed weights is not supported (use torch.matmul)")
    kernel, shift = _fold(weight.tensor, None if bias is None else bias.tensor, emit.folded)
    keys = [("constant", id(tensor)) if not emit.folded else (object(),) for tensor in (weight.tensor, shift)]
    return _linear(emit, input, kernel, keys[0], None if shift is None else (shift, keys[1]))


def embedding(emit: Emitter, module: nn.Embedding, x: Value) -> Value:
    """Write an embedding lookup."""
    return emit.node("Gather", [emit.weight("weight", module.weight, (id(module), "weight")), x], axis=0)


def _conv(emit: Emitter, inputs: list[Value], stride: Size, padding: Size | str, dilation: Size, groups: int) -> Value:
    kernel = list(inputs[1].shape[2:])
    dilations = times(dilation, len(kernel))
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        pads = [*(total // 2 for total in totals), *(total - total // 2 for total in totals)]
    else:
        pads = times(0 if isinstance(padding, str) else padding, len(kernel)) * 2
    strides = times(stride, len(kernel))
    return emit.node("Conv", inputs, kernel_shape=kernel, strides=strides, pads=pads, dilations=dilations, group=groups)


def _fold(
    weight: torch.Tensor, bias: torch.Tensor | None, bns: Sequence[Normalization]
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Fold batch normalizations into a kernel and bias, in float64 and rounded once."""
    if not bns:
        return weight, bias
    kernel, shift = weight.detach().double(), _wide(bias)
    for bn in bns:
        scale, offset = _scale_shift(bn)
        kernel = kernel * scale.reshape(-1, *[1] * (kernel.dim() - 1))
        shift = offset if shift is None else shift * scale + offset
    assert shift is not None
    return kernel.to(weight.dtype), shift.to(weight.dtype)


def _scale_shift(bn: Normalization) -> tuple[torch.Tensor, torch.Tensor]:
    mean, var = bn.mean.detach().double(), bn.var.detach().double()
    return algebra.bn_scale_shift(_wide(bn.weight), _wide(bn.bias), mean, var, bn.eps)


def _wide(tensor: torch.Tensor | None) -> torch.Tensor | None:
    return None if tensor is None else tensor.detach().double()


def _batch_norm(emit: Emitter, x: Value, bn: Normalization) -> Value:
    rank = len(x.shape)
    if rank != 4:
        # Parsers disagree on BatchNormalization of inputs other than 4-D.
        scale, shift = (part.reshape(-1, *[1] * (rank - 2)).to(bn.var.dtype) for part in _scale_shift(bn))
        scaled = emit.node("Mul", [x, emit.weight("scale", scale, (bn.key, "scale", rank))], part="scaled")
        return emit.node("Add", [scaled, emit.weight("shift", shift, (bn.key, "shift", rank))])
    tensors = {
        "weight": torch.ones_like(bn.var) if bn.weight is None else bn.weight,
        "bias": torch.zeros_like(bn.var) if bn.bias is None else bn.bias,
        "running_mean": bn.mean,
        "running_var": bn.var,
    }
    weights = [emit.weight(name, tensor, (bn.key, name)) for name, tensor in tensors.items()]
    return emit.node("BatchNormalization", [x, *weights], epsilon=bn.eps)


def _linear(
    emit: Emitter,
    x: Value,
    weight: torch.Tensor,
    key: tuple[object, ...],
    bias: tuple[torch.Tensor, tuple[object, ...]] | None,
) -> Value:
    shift = None if bias is None else emit.weight("bias", *bias)
    if len(x.shape) == 2:
        inputs = [x, emit.weight("weight", weight, key)]
        return emit.node("Gemm", inputs if shift is None else [*inputs, shift], transB=1)
    inputs = [x, emit.weight("weight", weight.detach().T.contiguous(), (*key, "transposed"))]
    if shift is None:
        return emit.node("MatMul", inputs)
    return emit.node("Add", [emit.node("MatMul", inputs, part="product"), shift])
