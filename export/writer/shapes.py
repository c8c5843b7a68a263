"""ONNX handlers for reshaping, slicing, joining and expanding tensors, correct for any size of a dynamic batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .graph import FREE, Emitter, Value

Size = int | Sequence[int] | None

END = 2**63 - 1


def unchanged(emit: Emitter, input: Value, *args: Any, **kwargs: Any) -> Value:
    """Write nothing and return the input."""
    return input


def cast(emit: Emitter, input: Value, *args: Any, **kwargs: Any) -> Value:
    """Write a conversion to another dtype; devices and layouts do not exist in ONNX."""
    return cast_to(emit, input, emit.dtype)


def cast_to(emit: Emitter, x: Value, dtype: str) -> Value:
    """Cast `x` to a dtype."""
    if x.dtype == dtype:
        return x
    import onnx

    return emit.node(
        "Cast",
        [x],
        x.shape,
        part="cast" if dtype != emit.dtype else "",
        type_of=dtype,
        to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)),
    )


def reshape(emit: Emitter, input: Value, *args: Any, **kwargs: Any) -> Value:
    """Write any operator that only changes the shape, which the trace knows."""
    return reshaped(emit, input, emit.shape)


def reshaped(emit: Emitter, x: Value, shape: tuple[int, ...], part: str = "") -> Value:
    """Reshape `x`; a dynamic size is copied if it is the batch, else inferred."""
    if x.shape == shape and shape.count(FREE) < 2:
        return x
    if shape.count(FREE) > 1:
        raise emit.refuse(f"a reshape to {_text(shape)} has more than one dynamic size")
    kept = bool(shape) and bool(x.shape) and math.prod(shape[1:]) == math.prod(x.shape[1:])
    if kept and len(shape) == 2 and FREE not in shape[1:]:
        return emit.node("Flatten", [x], shape, part=part, axis=1)
    sizes = list(shape)
    if kept and shape[0] == FREE:
        sizes[0] = 0
    return emit.node("Reshape", [x, emit.ints(f"{part}.shape" if part else "shape", sizes)], shape, part=part)


def permute(emit: Emitter, input: Value, *dims: Any, **kwargs: Any) -> Value:
    """Write a permutation of dimensions."""
    given = kwargs.get("dims", dims[0] if len(dims) == 1 and not isinstance(dims[0], int) else dims)
    return transposed(emit, input, [dim % len(input.shape) for dim in given])


def transpose(emit: Emitter, input: Value, dim0: int = 0, dim1: int = 1, **kwargs: int) -> Value:
    """Write a transposition of two dimensions."""
    rank = len(input.shape)
    if rank < 2:
        return input
    order = list(range(rank))
    a, b = (kwargs.get("axis0", dim0)) % rank, (kwargs.get("axis1", dim1)) % rank
    order[a], order[b] = b, a
    return transposed(emit, input, order)


def attribute_of(emit: Emitter, input: Value, name: str) -> Value:
    """Write ``x.T``, ``x.mT`` or ``x.data``."""
    if name == "data":
        return input
    if name in ("T", "mT"):
        order = list(range(len(input.shape)))
        return transposed(emit, input, order[::-1] if name == "T" else [*order[:-2], order[-1], order[-2]])
    raise emit.refuse(f"attribute {name} of a tensor is not supported")


def transposed(emit: Emitter, x: Value, order: Sequence[int], part: str = "") -> Value:
    """Transpose `x` to this order of dimensions."""
    if list(order) == list(range(len(x.shape))):
        return x
    return emit.node("Transpose", [x], tuple(x.shape[axis] for axis in order), part=part, perm=list(order))


def cat(emit: Emitter, tensors: Sequence[Value], dim: int = 0, **kwargs: int) -> Value:
    """Write a concatenation, ignoring empty tensors as torch does."""
    axis = kwargs.get("axis", dim) % len(emit.shape)
    parts = [cast_to(emit, tensor, emit.dtype) for tensor in tensors if tensor.shape != (0,)]
    return parts[0] if len(parts) == 1 else emit.node("Concat", parts, axis=axis)


def stack(emit: Emitter, tensors: Sequence[Value], dim: int = 0) -> Value:
    """Write a concatenation along a new dimension."""
    axis = dim % len(emit.shape)
    shape = (*emit.shape[:axis], 1, *emit.shape[axis + 1 :])
    parts = [reshaped(emit, cast_to(emit, tensor, emit.dtype), shape, f"part{i}") for i, tensor in enumerate(tensors)]
    return emit.node("Concat", parts, axis=axis)


def split(emit: Emitter, input: Value, *args: Any, **kwargs: Any) -> tuple[Value, ...]:
    """Write chunk, split or tensor_split as slices; unused slices are dropped later."""
    rank = len(input.shape)
    axes = [axis for axis in range(rank) if any(part.shape[axis] != input.shape[axis] for part in emit.parts)]
    if len(emit.parts) == 1:
        return (input,)
    if len(axes) != 1 or input.shape[axes[0]] == FREE:
        raise emit.refuse("splitting the batch is not supported")
    axis, start, found = axes[0], 0, []
    for part in emit.parts:
        stop = start + part.shape[axis]
        found.append(sliced(emit, input, [(axis, start, stop, 1)], part.shape))
        start = stop
    return tuple(found)


def unbind(emit: Emitter, input: Value, dim: int = 0) -> tuple[Value, ...]:
    """Write the slices along a dimension, without that dimension."""
    axis = dim % len(input.shape)
    if input.shape[axis] == FREE:
        raise emit.refuse("splitting the batch is not supported")
    shape = (*input.shape[:axis], 1, *input.shape[axis + 1 :])
    cut = [sliced(emit, input, [(axis, i, i + 1, 1)], shape, "cut") for i in range(len(emit.parts))]
    return tuple(reshaped(emit, part, emit.shape) for part in cut)


def sliced(
    emit: Emitter, x: Value, cuts: Sequence[tuple[int, int, int, int]], shape: tuple[int, ...], part: str = ""
) -> Value:
    """Slice `x` by (axis, start, stop, step)."""
    if not cuts:
        return x
    axes, starts, stops, steps = (list(column) for column in zip(*cuts, strict=True))
    inputs = [x, emit.ints("starts", starts), emit.ints("ends", stops), emit.ints("axes", axes)]
    if steps != [1] * len(steps):
        inputs.append(emit.ints("steps", steps))
    return emit.node("Slice", inputs, shape, part=part)


def expand(emit: Emitter, input: Value, *args: Any, **kwargs: Any) -> Value:
    """Write a broadcast of dimensions of size 1."""
    missing = len(emit.shape) - len(input.shape)
    before = (1,) * missing + input.shape
    if before == emit.shape and emit.shape.count(FREE) < 2:
        return reshaped(emit, input, before)
    if any(size == FREE and old != FREE for size, old in zip(emit.shape, before, strict=True)):
        raise emit.refuse("expanding a tensor to a dynamic batch is not supported")
    # A size of 1 keeps the size of the input.
    sizes = [1 if size == old else size for size, old in zip(emit.shape, before, strict=True)]
    return emit.node("Expand", [input, emit.ints("shape", sizes)])


def repeat(emit: Emitter, input: Value, *sizes: Any, **kwargs: Any) -> Value:
    """Write a repetition of a tensor."""
    given = kwargs.get("repeats", kwargs.get("dims", sizes[0] if len(sizes) == 1 else sizes))
    times = list(given) if isinstance(given, Sequence) else [given]
    missing = len(times) - len(input.shape)
    if missing < 0:
        times = [1] * -missing + times
    wide = reshaped(emit, input, (1,) * max(missing, 0) + input.shape, "wide")
    return emit.node("Tile", [wide, emit.ints("repeats", times)])


def flip(emit: Emitter, input: Value, *dims: Any, **kwargs: Any) -> Value:
    """Write a reversal of the elements along dimensions."""
    given = kwargs.get("dims", dims[0] if len(dims) == 1 else dims)
    axes = [axis % len(input.shape) for axis in ([given] if isinstance(given, int) else given)]
    return sliced(emit, input, [(axis, -1, -END, -1) for axis in axes], input.shape)


def movedim(emit: Emitter, input: Value, source: Any, destination: Any) -> Value:
    """Write a permutation that moves dimensions to other positions."""
    rank = len(input.shape)
    pairs = [[given] if isinstance(given, int) else list(given) for given in (source, destination)]
    places = {new % rank: old % rank for old, new in zip(*pairs, strict=True)}
    rest = iter(axis for axis in range(rank) if axis not in places.values())
    return transposed(emit, input, [places[axis] if axis in places else next(rest) for axis in range(rank)])


def roll(emit: Emitter, input: Value, shifts: Any = None, dims: Any = None) -> Value:
    """Write a cyclic shift as slices and a concatenation."""
    pairs = [([one] if isinstance(one, int) else list(one or ())) for one in (shifts, dims)]
    if not pairs[1] or any(input.shape[axis] == FREE for axis in pairs[1]):
        raise emit.refuse("a roll without dimensions or along the batch is not supported")
    x = input
    for shift, axis in zip(*pairs, strict=True):
        axis %= len(x.shape)
        size = x.shape[axis]
        if at := -shift % size:
            shapes = [(*x.shape[:axis], part, *x.shape[axis + 1 :]) for part in (size - at, at)]
            parts = [sliced(emit, x, [(axis, at, size, 1)], shapes[0], "end")]
            parts.append(sliced(emit, x, [(axis, 0, at, 1)], shapes[1], "begin"))
            x = emit.node("Concat", parts, x.shape, axis=axis)
    return x


def pixel_shuffle(emit: Emitter, input: Value, upscale_factor: int) -> Value:
    """Write (N, C r r, H, W) to (N, C, H r, W r)."""
    return emit.node("DepthToSpace", [input], blocksize=upscale_factor, mode="CRD")


def pixel_unshuffle(emit: Emitter, input: Value, downscale_factor: int) -> Value:
    """Write the inverse of pixel_shuffle; SpaceToDepth orders channels differently."""
    n, c, h, w = input.shape
    r = downscale_factor
    apart = reshaped(emit, input, (n, c, h // r, r, w // r, r), "apart")
    return reshaped(emit, transposed(emit, apart, (0, 1, 3, 5, 2, 4), "turned"), emit.shape)


def channel_shuffle(emit: Emitter, input: Value, groups: int) -> Value:
    """Write a channel shuffle."""
    n, c, *rest = input.shape
    apart = reshaped(emit, input, (n, groups, c // groups, *rest), "apart")
    order = [0, 2, 1, *range(3, 3 + len(rest))]
    return reshaped(emit, transposed(emit, apart, order, "turned"), emit.shape)


def _text(shape: Sequence[int]) -> str:
    return f"({', '.join('N' if size == FREE else str(size) for size in shape)})"
