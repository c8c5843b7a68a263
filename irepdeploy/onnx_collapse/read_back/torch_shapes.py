"""ONNX operators that move, select, pad and resize, as calls of torch.

Each function writes one operator into a `Reader`, and raises ModelError for a form that torch does not support. A graph
is exported for a batch of 1 but must run for any batch, so torch determines the first size of each new shape.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from irepdeploy.onnx_collapse.read_back.reader import Reader, refused

__all__ = [
    "beside", "broadcast", "concat", "depth_to_space", "expand", "flatten", "gather", "grid_sample", "pad", "reshape",
    "resize", "shuffled", "slice_", "space_to_depth", "split", "squeeze", "taken", "tile", "transpose", "unshuffled",
    "unsqueeze", "with_batch",
]  # fmt: skip

Attributes = dict[str, Any]


def flatten(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a Flatten."""
    axis, given = attributes.get("axis", 1), reader.shape(node.input[0])
    if axis == 1:
        return reader.call(torch.flatten, reader.value(node.input[0]), 1)
    rest = None if given is None else given[axis:]
    if axis == 0 or rest is None or None in rest:
        raise refused(node, f"at axis {axis}")
    return reader.call(torch.reshape, reader.value(node.input[0]), [-1, math.prod(size or 0 for size in rest)])


def reshape(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a Reshape; the batch must be the outermost part of the first dimension, before and after."""
    shape = reader.numbers(node, 1)
    given, known = reader.shape(node.input[0]), reader.shape(node.output[0])
    if shape is None:
        raise refused(node, "to this shape")
    sizes = [
        given[place] if size == 0 and given is not None and place < len(given) else size
        for place, size in enumerate(shape)
    ]
    rest: list[int | None] = [
        known[place] if size == -1 and known is not None and len(known) == len(sizes) else size
        for place, size in enumerate(sizes)
    ][1:]
    if None in rest or -1 in rest:
        rest = _rest(rest, given, shape)
    x = reader.value(node.input[0])
    twice = reader.twice.get(node.output[0])
    if twice is not None and known is not None and len(twice) == len(known) and None not in (*twice, *known):
        moved = [-1 if one != two else one for one, two in zip(known, twice, strict=True)]
        if moved.count(-1) <= 1:
            return reader.call(torch.reshape, x, moved)
    if shape[:1] in ([0], [1]) and len(shape) == 2 and shape[1] == -1:
        return reader.call(torch.flatten, x, 1)
    if not sizes:
        return reader.call(torch.reshape, x, [])
    if None in rest or -1 in rest:
        raise refused(node, "to this shape")
    return reader.call(torch.reshape, x, [-1, *rest])


def _rest(rest: list[int | None], given: Sequence[int | None] | None, shape: Sequence[int]) -> list[int | None]:
    """Return the sizes after the batch, and infer a single open size from those of the input."""
    known = math.prod(size for size in rest if size is not None and size > 0)
    if given is None or None in given[1:] or shape[0] not in (0, 1) or sum(size in (None, -1) for size in rest) != 1:
        return rest
    whole = math.prod(size for size in given[1:] if size is not None)
    return [whole // known if size in (None, -1) else size for size in rest]


def transpose(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a Transpose."""
    order = attributes.get("perm") or list(reversed(range(reader.rank(node))))
    return reader.call(torch.permute, reader.value(node.input[0]), list(order))


def squeeze(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a Squeeze of listed dimensions."""
    axes = reader.integers(node, 1, attributes, "axes")
    if not axes:
        # Without a list it would remove the batch.
        raise refused(node, "of all dimensions")
    return reader.call(torch.squeeze, reader.value(node.input[0]), tuple(axes))


def unsqueeze(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read an Unsqueeze."""
    x, axes = reader.value(node.input[0]), reader.integers(node, 1, attributes, "axes") or []
    rank = reader.rank(node) + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = reader.call(torch.unsqueeze, x, axis)
    return x


def concat(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a Concat; constants that were exported for a batch of 1 are expanded to the batch of the other inputs."""
    rank = reader.rank(node)
    axis = attributes["axis"] % rank
    computed = [reader.value(name) for name in node.input if name not in reader.constants]
    if not axis or not computed:
        return reader.call(torch.cat, list(map(reader.value, node.input)), axis)
    return reader.call(torch.cat, [beside(reader, name, computed[0]) for name in node.input], axis)


def beside(reader: Reader, name: str, x: Any) -> Any:
    """Return a value; a constant that was exported for a batch of 1 is expanded to the batch of `x`."""
    fixed = reader.constants.get(name)
    value = reader.value(name)
    return reader.call(with_batch, value, x) if fixed is not None and fixed.ndim and len(fixed) == 1 else value


def with_batch(x: Tensor, like: Tensor) -> Tensor:
    """Return `x`, (1, ...), expanded to the batch of another tensor."""
    return x.expand(like.shape[0], *x.shape[1:])


def expand(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read an Expand."""
    sizes = reader.numbers(node, 1)
    assert sizes is not None
    return reader.call(broadcast, reader.value(node.input[0]), sizes)


def broadcast(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return `x` broadcast to these sizes, where 1 keeps the size of `x`."""
    missing = x.dim() - len(sizes)
    kept = [-1] * missing + [-1 if size == 1 and place >= -missing else size for place, size in enumerate(sizes)]
    return x.expand(*kept)


def tile(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a Tile."""
    return reader.call(torch.tile, reader.value(node.input[0]), reader.numbers(node, 1))


def slice_(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a Slice; a negative step is supported only for a whole reversed dimension."""
    starts = reader.integers(node, 1, attributes, "starts") or []
    ends = reader.integers(node, 2, attributes, "ends") or []
    axes = reader.integers(node, 3, attributes, "axes") or list(range(len(starts)))
    steps = reader.numbers(node, 4) or [1] * len(starts)
    if min(axes, default=0) < 0:
        axes = [axis % reader.rank(node) for axis in axes]
    x = reader.value(node.input[0])
    flipped = [axis for axis, start, end, step in zip(axes, starts, ends, steps, strict=True) if step == -1]
    for start, end, step in zip(starts, ends, steps, strict=True):
        if step < 1 and not (step == -1 and (start == -1 or start >= 2**31 - 1) and end < -(2**31) + 2):
            raise refused(node, "of this form")
    if flipped:
        x = reader.call(torch.flip, x, flipped)
    index = [slice(None)] * (max(axes, default=-1) + 1)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if axis not in flipped:
            index[axis] = slice(start, None if end >= 2**31 - 1 else end, step)
    return x if all(item == slice(None) for item in index) else reader.item(x, tuple(index))


def split(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a Split."""
    axis = attributes.get("axis", 0)
    sizes = reader.integers(node, 1, attributes, "split")
    if sizes is None:
        shape = reader.shape(node.input[0])
        whole = None if shape is None else shape[axis]
        if whole is None:
            raise refused(node, "without sizes")
        sizes = [-(-whole // len(node.output))] * len(node.output)
        sizes[-1] = whole - sum(sizes[:-1])
    return reader.call(torch.split, reader.value(node.input[0]), list(sizes), dim=axis)


def gather(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a Gather."""
    x, fixed, axis = reader.value(node.input[0]), reader.constants.get(node.input[1]), attributes.get("axis", 0)
    if fixed is not None and not fixed.ndim:
        return reader.call(torch.select, x, axis, int(fixed))
    return reader.call(taken, x, reader.value(node.input[1]), axis)


def taken(x: Tensor, index: Tensor, axis: int) -> Tensor:
    """Return the slices of `x` along an axis at the positions `index`, which may have any shape."""
    axis %= x.dim()
    index = torch.where(index < 0, index + x.shape[axis], index)
    found = torch.index_select(x, axis, index.reshape(-1))
    return found.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


def pad(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a Pad of dimensions after the batch."""
    sizes, value = reader.integers(node, 1, attributes, "pads"), reader.numbers(node, 2)
    mode = attributes.get("mode", b"constant").decode()
    axes = reader.numbers(node, 3)
    if sizes is None:
        raise refused(node, "of this form")
    if axes is not None:
        rank, given = reader.rank(node), sizes
        sizes = [0] * 2 * rank
        for place, axis in enumerate(axes):
            sizes[axis % rank], sizes[axis % rank + rank] = given[place], given[place + len(axes)]
    rank = len(sizes) // 2
    pairs = list(zip(sizes[:rank], sizes[rank:], strict=True))
    first = next((axis for axis, pair in enumerate(pairs) if any(pair)), rank)
    x = reader.value(node.input[0])
    if first == rank:
        return x
    if mode != "constant" and first >= 2:
        # torch needs the sizes of these modes for every dimension of the map.
        first = 2
    if first == 0 or (mode != "constant" and first < 2) or mode == "wrap":
        raise refused(node, "of this form")
    around = [size for pair in reversed(pairs[first:]) for size in pair]
    if mode == "constant":
        return reader.call(F.pad, x, around, "constant", float(value[0]) if value else 0.0)
    return reader.call(F.pad, x, around, {"edge": "replicate"}.get(mode, mode))


def resize(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a Resize in one of the forms that torch supports."""
    # Before opset 11, Resize had no region of interest.
    legacy = reader.opset < 11
    scales, sizes = reader.numbers(node, 1 if legacy else 2), None if legacy else reader.numbers(node, 3)
    given, known, rank = reader.shape(node.input[0]), reader.shape(node.output[0]), reader.rank(node)
    mode = _resize_mode(node, attributes, rank, scales, legacy=legacy)
    options: dict[str, Any] = {"mode": mode}
    if mode not in ("nearest", "nearest-exact"):
        options["align_corners"] = attributes.get("coordinate_transformation_mode") == b"align_corners"
    if scales:
        if list(scales[:2]) != [1, 1] or "axes" in attributes:
            raise refused(node, "of this form")
        if not _other_size(given or (), known or (), scales):
            # torch divides by the number as written, and 1.7 rounded to float32 may select another neighbour.
            factors = [float(str(np.float32(scale))) for scale in scales[2:]]
            return reader.call(F.interpolate, reader.value(node.input[0]), scale_factor=factors, **options)
    found = list(sizes[2:]) if sizes else list(known[2:]) if known else []
    if len(found) != rank - 2 or None in found or "axes" in attributes:
        raise refused(node, "of this form")
    return reader.call(F.interpolate, reader.value(node.input[0]), size=found, **options)


def _other_size(old: Sequence[int | None], new: Sequence[int | None], scales: Sequence[float]) -> bool:
    """Return whether torch would compute another size for one of these scales."""
    known = (triple for triple in zip(old, new, scales, strict=False) if None not in triple)
    return any(math.floor(a * scale) != b for a, b, scale in known if a is not None)


def _resize_mode(
    node: onnx.NodeProto, attributes: Attributes, rank: int, scales: Sequence[float] | None, *, legacy: bool
) -> str:
    mode = attributes.get("mode", b"nearest")
    place = attributes.get("coordinate_transformation_mode", b"asymmetric" if legacy else b"half_pixel")
    rounding = attributes.get("nearest_mode", b"floor" if legacy else b"round_prefer_floor")
    if attributes.get("antialias", 0) or attributes.get("exclude_outside", 0) or rank not in (3, 4, 5):
        raise refused(node, "of this form")
    if mode == b"nearest":
        if (place, rounding) == (b"asymmetric", b"floor"):
            return "nearest"
        if (place, rounding) == (b"half_pixel", b"round_prefer_ceil"):
            return "nearest-exact"
        if place == b"half_pixel" and scales and all(float(scale).is_integer() for scale in scales):
            return "nearest"
    if place in (b"half_pixel", b"pytorch_half_pixel", b"align_corners"):
        if mode == b"linear":
            return {3: "linear", 4: "bilinear", 5: "trilinear"}[rank]
        if mode == b"cubic" and rank == 4 and attributes.get("cubic_coeff_a", -0.75) == -0.75:
            return "bicubic"
    raise refused(node, f"of {mode.decode()} mode at {place.decode()} positions")


def grid_sample(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a GridSample."""
    mode = attributes.get("mode", b"bilinear").decode()
    x = reader.value(node.input[0])
    return reader.call(
        F.grid_sample,
        x,
        beside(reader, node.input[1], x),
        mode={"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode),
        padding_mode=attributes.get("padding_mode", b"zeros").decode(),
        align_corners=bool(attributes.get("align_corners", 0)),
    )


def depth_to_space(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a DepthToSpace."""
    x, size = reader.value(node.input[0]), attributes["blocksize"]
    if attributes.get("mode", b"DCR") == b"CRD":
        return reader.call(F.pixel_shuffle, x, size)
    return reader.call(shuffled, x, size)


def shuffled(x: Tensor, size: int) -> Tensor:
    """Rearrange (N, r r C, H, W) to (N, C, H r, W r)."""
    n, c, h, w = x.shape
    apart = x.reshape(n, size, size, c // size**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return apart.reshape(n, c // size**2, h * size, w * size)


def space_to_depth(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    """Read a SpaceToDepth."""
    return reader.call(unshuffled, reader.value(node.input[0]), attributes["blocksize"])


def unshuffled(x: Tensor, size: int) -> Tensor:
    """Rearrange (N, C, H r, W r) to (N, r r C, H, W)."""
    n, c, h, w = x.shape
    apart = x.reshape(n, c, h // size, size, w // size, size).permute(0, 3, 5, 1, 2, 4)
    return apart.reshape(n, c * size**2, h // size, w // size)
