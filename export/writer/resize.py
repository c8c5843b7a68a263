"""ONNX handlers for padding, cropping and resizing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from .graph import FREE, Emitter, Value
from .shapes import END, sliced

__all__ = ["interpolate", "pad", "padded"]


def pad(emit: Emitter, input: Value, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Value:
    """Write padding; negative sizes crop."""
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "circular"}
    return padded(emit, input, list(pad), modes[mode], value or 0.0, final=True)


def padded(
    emit: Emitter, x: Value, pads: Sequence[int], mode: str, value: float = 0.0, *, final: bool = False
) -> Value:
    """Pad `x` by (before, after) pairs, last dimension first, as in torch."""
    rank, name = len(x.shape), "" if final else "pad"
    around = [(pads[2 * i], pads[2 * i + 1]) for i in range(len(pads) // 2)]
    before, behind, cuts = [0] * rank, [0] * rank, []
    for i, (low, high) in enumerate(around):
        axis = rank - 1 - i
        before[axis], behind[axis] = max(low, 0), max(high, 0)
        if (low < 0 or high < 0) and mode != "circular":
            cuts.append((axis, max(-low, 0), min(high, 0) or END, 1))
        if x.shape[axis] == FREE and (low or high):
            raise emit.refuse("padding of the batch is not supported")
    shape = list(x.shape)
    for axis, start, stop, _ in cuts:
        shape[axis] -= start + (0 if stop == END else -stop)
    x = sliced(emit, x, cuts, tuple(shape), "cut")
    if not any(before) and not any(behind):
        return x
    if mode == "circular":
        return _wrapped(emit, x, before, behind, name)
    shape = [FREE if size == FREE else a + size + b for a, size, b in zip(before, x.shape, behind, strict=True)]
    inputs = [x, emit.ints("pads", [*before, *behind])]
    if mode == "constant" and value:
        inputs.append(emit.constant(float(value), "padding"))
    return emit.node("Pad", inputs, tuple(shape), part=name, mode=mode)


def interpolate(
    emit: Emitter,
    input: Value,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Value:
    """Write nearest or bilinear resizing in a form that TensorRT 8.5 supports."""
    if mode not in ("nearest", "bilinear") or antialias or len(input.shape) != 4 or FREE in input.shape[1:]:
        raise emit.refuse(f"{mode} resizing{' with antialias' if antialias else ''} is not supported")
    old, new = input.shape[2:], emit.shape[2:]
    factors = [b / a for a, b in zip(old, new, strict=True)]
    if scale_factor is not None and not recompute_scale_factor:
        given = list(scale_factor) if isinstance(scale_factor, Sequence) else [scale_factor] * 2
        factors = [float(factor) for factor in given]
    if mode == "nearest":
        return _nearest(emit, input, factors)
    place = "align_corners" if align_corners else "half_pixel"
    return _resize(emit, input, factors, mode="linear", coordinate_transformation_mode=place)


def _nearest(emit: Emitter, x: Value, factors: Sequence[float]) -> Value:
    old, new = x.shape[2:], emit.shape[2:]
    if all(float(factor).is_integer() for factor in factors):
        return _resize(
            emit, x, factors, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        )
    # Runtimes round positions differently for a fractional factor, so gather the rows by index.
    for axis, (a, b, factor) in enumerate(zip(old, new, factors, strict=True), 2):
        places = torch.arange(a, dtype=torch.float32).reshape(1, 1, a)
        if math.isclose(factor, b / a, rel_tol=1e-12):
            chosen = F.interpolate(places, size=b)
        else:
            chosen = F.interpolate(places, scale_factor=factor)
        rows = [int(place) for place in chosen.flatten()]
        if rows != list(range(a)):
            shape = (*x.shape[:axis], b, *x.shape[axis + 1 :])
            x = emit.node("Gather", [x, emit.ints("rows", rows)], shape, axis=axis)
    return x


def _resize(emit: Emitter, x: Value, factors: Sequence[float], **attributes: Any) -> Value:
    exact = all(float(np.float32(factor)) == factor for factor in factors)
    by_size = all(factor == b / a for factor, a, b in zip(factors, x.shape[2:], emit.shape[2:], strict=True))
    if not exact and by_size and FREE not in x.shape:
        # Sizes are exact, float32 scales may not be.
        return emit.node("Resize", [x, None, None, emit.ints("sizes", emit.shape)], **attributes)
    scales = [_scale(factor, old, new) for factor, old, new in zip(factors, x.shape[2:], emit.shape[2:], strict=True)]
    return emit.node("Resize", [x, None, emit.constant([1.0, 1.0, *scales], "scales")], **attributes)


def _scale(factor: float, old: int, new: int) -> float:
    """Return a float32 scale that maps `old` to `new` whether runtimes round down in float32 or in float64."""
    scale = np.float32(factor)
    while math.floor(old * float(scale)) < new or math.floor(np.float32(old) * scale) < new:
        scale = np.nextafter(scale, np.float32(np.inf))
    return float(scale)


def _wrapped(emit: Emitter, x: Value, before: list[int], behind: list[int], name: str) -> Value:
    axes = [axis for axis in range(len(x.shape)) if before[axis] or behind[axis]]
    for axis in axes:
        size = x.shape[axis]
        parts = [x]
        if before[axis]:
            shape = (*x.shape[:axis], before[axis], *x.shape[axis + 1 :])
            parts.insert(0, sliced(emit, x, [(axis, size - before[axis], size, 1)], shape, "end"))
        if behind[axis]:
            shape = (*x.shape[:axis], behind[axis], *x.shape[axis + 1 :])
            parts.append(sliced(emit, x, [(axis, 0, behind[axis], 1)], shape, "begin"))
        total = size + before[axis] + behind[axis]
        shape = (*x.shape[:axis], total, *x.shape[axis + 1 :])
        x = emit.node("Concat", parts, shape, part="" if axis == axes[-1] and not name else name or "pad", axis=axis)
    return x
