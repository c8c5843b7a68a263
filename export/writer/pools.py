"""ONNX handlers for pooling and means."""

from __future__ import annotations

from typing import Any

import torch

from .graph import FREE, Emitter, Value
from .shapes import Size, reshaped

__all__ = ["adaptive_avg_pool", "adaptive_max_pool", "avg_pool", "max_pool", "mean", "pair_or_more", "times"]


def mean(emit: Emitter, input: Value, dim: Size = None, keepdim: bool = False, *, dtype: Any = None) -> Value:
    """Write a mean; over height and width it is global average pooling."""
    rank = len(input.shape)
    dims = sorted(d % rank for d in pair_or_more(dim)) or list(range(rank))
    if dtype is not None or (0 in dims and input.shape[0] == FREE):
        raise emit.refuse("a mean over a dynamic batch or with a dtype is not supported")
    if rank == 4 and dims == [2, 3]:
        # Every parser supports pooling.
        pooled = emit.node("GlobalAveragePool", [input], (*input.shape[:2], 1, 1))
        return pooled if keepdim else reshaped(emit, pooled, emit.shape)
    # The axes are an attribute before opset 18, then an input that TensorRT 8 does not support.
    return emit.node("ReduceMean", [input], axes=dims, keepdims=int(keepdim))


def max_pool(
    emit: Emitter,
    input: Value,
    kernel_size: Size,
    stride: Size = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Value:
    """Write max pooling; windows added by ceil_mode extend into padding, which is never the maximum."""
    if return_indices:
        raise emit.refuse("max pooling with indices is not supported")
    rank = len(input.shape) - 2
    window = _Window(emit, input, kernel_size, stride, padding, times(dilation, rank))
    # AveragePool has no dilations.
    return emit.node("MaxPool", [input], **window.attributes(), dilations=window.dilation)


def avg_pool(
    emit: Emitter,
    input: Value,
    kernel_size: Size,
    stride: Size = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Value:
    """Write average pooling."""
    if divisor_override is not None:
        raise emit.refuse("average pooling with divisor_override is not supported")
    window = _Window(emit, input, kernel_size, stride, padding, [1] * (len(input.shape) - 2))
    if not any(window.padding):
        # Without padding, torch counts pixels of the map only; this matters if ceil_mode adds a window.
        count_include_pad = not any(window.added)
    elif count_include_pad and any(window.added):
        raise emit.refuse(f"padded average pooling with ceil_mode=True is not supported for a map of {input.shape[2:]}")
    return emit.node("AveragePool", [input], **window.attributes(), count_include_pad=int(count_include_pad))


def adaptive_avg_pool(emit: Emitter, input: Value, output_size: Size) -> Value:
    """Write adaptive average pooling: global, regular, or as products with two matrices."""
    sizes, extents = emit.shape[2:], input.shape[2:]
    if set(sizes) == {1}:
        return emit.node("GlobalAveragePool", [input])
    if not any(extent % size for extent, size in zip(extents, sizes, strict=True)):
        window = [extent // size for extent, size in zip(extents, sizes, strict=True)]
        return emit.node("AveragePool", [input], kernel_shape=window, strides=window)
    if len(sizes) > 2:
        raise emit.refuse(f"irregular adaptive average pooling from {extents} to {sizes} is not supported")
    *down, across = (_averages(extent, size) for extent, size in zip(extents, sizes, strict=True))
    shape = (*input.shape[:-1], sizes[-1])
    inputs = [input, emit.constant(across.T.contiguous(), "columns")]
    narrow = emit.node("MatMul", inputs, shape, part="columns" if down else "")
    return emit.node("MatMul", [emit.constant(down[0], "rows"), narrow]) if down else narrow


def adaptive_max_pool(emit: Emitter, input: Value, output_size: Size, return_indices: bool = False) -> Value:
    """Write global or regular adaptive max pooling."""
    sizes, extents = emit.shape[2:], input.shape[2:]
    if return_indices or any(extent % size for extent, size in zip(extents, sizes, strict=True)):
        raise emit.refuse(f"irregular adaptive max pooling from {extents} to {sizes} is not supported")
    if set(sizes) == {1}:
        return emit.node("GlobalMaxPool", [input])
    window = [extent // size for extent, size in zip(extents, sizes, strict=True)]
    return emit.node("MaxPool", [input], kernel_shape=window, strides=window)


def times(value: Any, rank: int) -> list[int]:
    """Return `value` for every spatial dimension."""
    items = [int(value)] if isinstance(value, int) else [int(item) for item in value]
    return items * rank if len(items) == 1 else items


def pair_or_more(value: Size) -> list[int]:
    """Return `value` as a list."""
    return [value] if isinstance(value, int) else list(value or ())


class _Window:
    """A pooling window, with the end padding that torch's ceil_mode adds."""

    def __init__(
        self, emit: Emitter, x: Value, kernel_size: Size, stride: Size, padding: Size, dilation: list[int]
    ) -> None:
        rank = len(dilation)
        if len(x.shape) != rank + 2 or FREE in x.shape[1:]:
            raise emit.refuse(f"pooling of a tensor of shape {x.shape} is not supported")
        self.kernel, self.padding, self.dilation = times(kernel_size, rank), times(padding, rank), dilation
        self.stride = self.kernel if stride in (None, []) else times(stride, rank)
        self.added = []
        for axis in range(rank):
            reach = self.dilation[axis] * (self.kernel[axis] - 1) + 1
            used = (emit.shape[2 + axis] - 1) * self.stride[axis] + reach
            self.added.append(max(used - x.shape[2 + axis] - 2 * self.padding[axis], 0))

    def attributes(self) -> dict[str, Any]:
        behind = [pad + more for pad, more in zip(self.padding, self.added, strict=True)]
        return {"kernel_shape": self.kernel, "strides": self.stride, "pads": [*self.padding, *behind]}


def _averages(extent: int, size: int) -> torch.Tensor:
    """Return (size, extent): row i has 1/n at the n positions of window i."""
    matrix = torch.zeros(size, extent)
    for index in range(size):
        start, stop = index * extent // size, -(-(index + 1) * extent // size)
        matrix[index, start:stop] = 1 / (stop - start)
    return matrix
