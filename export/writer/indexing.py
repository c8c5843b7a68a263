"""ONNX handlers for indexing, sorting, running sums and sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from .graph import FREE, Emitter, NeedsOpset, Value
from .shapes import END, cast_to, reshaped, sliced, transposed

__all__ = [
    "argsort", "cumsum", "gather", "getitem", "grid_sample", "index_select", "sort", "take_along_dim", "topk",
]  # fmt: skip

# Samples at computed positions exist from this opset on.
_GRID_SAMPLE = 16


def getitem(emit: Emitter, input: Value, index: Any) -> Value:
    """Write ``x[...]`` with integers, slices, None, an ellipsis, and lists or tensors of integers."""
    items = list(index) if isinstance(index, tuple) else [index]
    tensors = [item for item in items if isinstance(item, Value | list)]
    if not tensors:
        return _basic(emit, input, items, emit.shape)
    chosen = [_positions(emit, item) for item in tensors]
    # torch applies all other items first, treating each tensor as a whole dimension.
    plain = [slice(None) if isinstance(item, Value | list) else item for item in items]
    if ... not in plain:
        plain.append(...)
    taken = sum(item is not None and item is not ... for item in plain)
    at = plain.index(...)
    plain[at : at + 1] = [slice(None)] * (len(input.shape) - taken)
    items[at : at + 1] = [slice(None)] * (len(input.shape) - taken)
    kept = [item for item in items if not isinstance(item, int)]
    axes = [place for place, item in enumerate(kept) if isinstance(item, Value | list)]
    shape = _sliced_shape(emit, input, plain)
    base = _basic(emit, input, plain, shape, "base")
    if len(axes) == 1:
        return emit.node("Gather", [base, chosen[0]], axis=axes[0])
    return _gathered(emit, base, axes, chosen)


def gather(emit: Emitter, input: Value, dim: int, index: Value, sparse_grad: bool = False) -> Value:
    """Write the elements along a dimension at these positions."""
    axis = dim % len(input.shape)
    return emit.node("GatherElements", [input, cast_to(emit, index, "int64")], axis=axis)


def take_along_dim(emit: Emitter, input: Value, indices: Value, dim: int | None = None) -> Value:
    """Write `gather` of tensors of the same size in all other dimensions."""
    if dim is None:
        raise emit.refuse("take_along_dim without a dimension is not supported (pass dim)")
    axis = dim % len(input.shape)
    if any(a != b for place, (a, b) in enumerate(zip(input.shape, indices.shape, strict=True)) if place != axis):
        raise emit.refuse("take_along_dim of sizes that are broadcast is not supported (expand the indices)")
    return gather(emit, input, dim, indices)


def index_select(emit: Emitter, input: Value, dim: int, index: Value) -> Value:
    """Write the rows along a dimension at these positions."""
    return emit.node("Gather", [input, cast_to(emit, index, "int64")], axis=dim % len(input.shape))


def topk(
    emit: Emitter, input: Value, k: int, dim: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Value, ...]:
    """Write the largest elements along a dimension, in order, and their positions."""
    return _top(emit, input, int(k), dim, largest)


def sort(
    emit: Emitter, input: Value, dim: int = -1, descending: bool = False, *, stable: bool | None = None
) -> tuple[Value, ...]:
    """Write all elements along a dimension in order, and their positions."""
    return _top(emit, input, _whole(emit, input, dim), dim, descending)


def argsort(emit: Emitter, input: Value, dim: int = -1, descending: bool = False, stable: bool = False) -> Value:
    """Write the positions of all elements along a dimension in order."""
    return _top(emit, input, _whole(emit, input, dim), dim, descending)[-1]


def cumsum(emit: Emitter, input: Value, dim: int, *, dtype: Any = None) -> Value:
    """Write a running sum."""
    axis = emit.weight("axis", torch.tensor(dim % len(input.shape)), object())
    return emit.node("CumSum", [cast_to(emit, input, emit.dtype), axis])


def grid_sample(
    emit: Emitter,
    input: Value,
    grid: Value,
    mode: str = "bilinear",
    padding_mode: str = "zeros",
    align_corners: bool | None = None,
) -> Value:
    """Write samples of a map at computed positions."""
    if len(input.shape) != 4:
        raise emit.refuse("grid_sample of volumes is not supported")
    if emit.opset < _GRID_SAMPLE:
        raise NeedsOpset(_GRID_SAMPLE, f"grid_sample needs opset {_GRID_SAMPLE}, got {emit.opset}", where=emit.name)
    corners = int(bool(align_corners))
    return emit.node("GridSample", [input, grid], mode=mode, padding_mode=padding_mode, align_corners=corners)


def _whole(emit: Emitter, x: Value, dim: int) -> int:
    size = x.shape[dim]
    if size == FREE:
        raise emit.refuse("sorting along a dynamic batch is not supported")
    return size


def _top(emit: Emitter, x: Value, count: int, dim: int, largest: bool) -> tuple[Value, ...]:
    shape = list(x.shape)
    shape[dim] = count
    found = [(tuple(shape), x.dtype), (tuple(shape), "int64")]
    return emit.several("TopK", [x, emit.ints("k", [count])], found, axis=dim % len(shape), largest=int(largest))


def _positions(emit: Emitter, item: Any) -> Value:
    if isinstance(item, list):
        if not all(isinstance(place, int) and not isinstance(place, bool) for place in item):
            raise emit.refuse("indexing by a list of other things than integers is not supported")
        return emit.ints("index", item)
    if item.dtype not in ("int64", "int32"):
        raise emit.refuse("indexing by a mask is not supported: the size of its result depends on values")
    return cast_to(emit, item, "int64")


def _sliced_shape(emit: Emitter, x: Value, items: Sequence[Any]) -> tuple[int, ...]:
    """Return the shape after integers, slices and None."""
    shape, sizes = [], iter(x.shape)
    for item in items:
        if item is None:
            shape.append(1)
            continue
        size = next(sizes)
        if isinstance(item, slice):
            if size == FREE and item != slice(None):
                raise emit.refuse("a slice of a dynamic batch together with an index tensor is not supported")
            shape.append(size if item == slice(None) else len(range(*item.indices(size))))
    return tuple(shape)


def _gathered(emit: Emitter, x: Value, axes: list[int], index: list[Value]) -> Value:
    """Write an index by several tensors; their dimensions replace the first one, or come first if not adjacent."""
    together = axes == list(range(axes[0], axes[-1] + 1))
    others = [axis for axis in range(len(x.shape)) if axis not in axes]
    front = transposed(emit, x, [*axes, *others], "front")
    place = axes[0] if together else 0
    common = emit.shape[place : place + len(emit.shape) - len(others)]
    total = index[0]
    for other in index[1:]:
        total = emit.node("Add", [total, other], common, part="all", type_of="int64")
    zero = emit.node("Mul", [total, emit.ints("nothing", [0])], common, part="zero", type_of="int64")
    columns = []
    for one in index:
        wide = one if one.shape == common else emit.node("Add", [one, zero], common, part="wide", type_of="int64")
        columns.append(reshaped(emit, wide, (*common, 1), "column"))
    joined = emit.node("Concat", columns, (*common, len(axes)), part="index", type_of="int64", axis=len(common))
    rest = [x.shape[axis] for axis in others]
    found = emit.node("GatherND", [front, joined], (*common, *rest), part="" if not place else "found")
    if not place:
        return found
    count = len(common)
    return transposed(
        emit, found, [*range(count, count + place), *range(count), *range(count + place, count + len(rest))]
    )


def _basic(emit: Emitter, input: Value, items: Sequence[Any], result: tuple[int, ...], part: str = "") -> Value:
    items = list(items)
    if not all(item is None or item is ... or isinstance(item, int | slice) for item in items) or any(
        isinstance(item, bool) for item in items
    ):
        raise emit.refuse("indexing by other things than integers, slices and tensors is not supported")
    real = sum(item is not None and item is not ... for item in items)
    if ... not in items:
        items.append(...)
    at = items.index(...)
    items[at : at + 1] = [slice(None)] * (len(input.shape) - real)
    cuts, shape, place = [], [], 0
    sizes = iter(enumerate(input.shape))
    for item in items:
        if item is None:
            place += 1
            continue
        axis, size = next(sizes)
        if isinstance(item, slice):
            shape.append(size if item == slice(None) else result[place])
            place += 1
            if item != slice(None):
                cuts.append((axis, item.start or 0, END if item.stop is None else item.stop, item.step or 1))
        else:
            shape.append(1)
            cuts.append((axis, item, END if item == -1 else item + 1, 1))
    cut = sliced(emit, input, cuts, tuple(shape), f"{part}cut" if part or tuple(shape) != result else "")
    return reshaped(emit, cut, result, part)
