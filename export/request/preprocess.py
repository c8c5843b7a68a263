"""Bake preprocessing into an ONNX model, so that it takes the uint8 images of a camera."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from irepdeploy.errors import InputError
from irepdeploy.onnx_graph.proto import attribute_of, distinct_name, graphs_of, inputs_of

__all__ = ["METADATA", "Preprocessing", "with_preprocessing"]

METADATA = "irepdeploy.preprocessing"

Array = np.ndarray[Any, Any]

_LAYOUTS = ("nhwc", "nchw")
_ORDERS = ("rgb", "bgr")
# Byte value that corresponds to 1.
_PEAK = 255.0


@dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of uint8 images for a network trained on (x / 255 - mean) / std, channels first, RGB.

    Args:
        mean: Mean of each channel in the network's own order, or one value for all channels.
        std: Standard deviation in the same form.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    layout: str = "nhwc"
    order: str = "rgb"

    def __post_init__(self) -> None:
        if self.layout not in _LAYOUTS or self.order not in _ORDERS:
            raise InputError(
                f"expected a layout and a channel order, got {self.layout},{self.order}",
                where="preprocessing",
                hint=f"one of {', '.join(_LAYOUTS)}, and one of {', '.join(_ORDERS)}",
            )
        if not self.mean or len(self.mean) != len(self.std) or not np.isfinite([*self.mean, *self.std]).all():
            raise InputError(
                f"expected as many finite means as stds, got mean {self.mean} and std {self.std}", where="preprocessing"
            )
        if min(self.std) <= 0:
            raise InputError(f"expected std above 0, got {self.std}", where="preprocessing")

    @classmethod
    def parse(cls, text: str, mean: Sequence[float], std: Sequence[float]) -> Preprocessing:
        """Parse ``nhwc,bgr``, in any order; the defaults are nhwc and rgb."""
        given: dict[str, Any] = {}
        for word in filter(None, (part.strip().lower() for part in text.split(","))):
            key = "layout" if word in _LAYOUTS else "order" if word in _ORDERS else None
            if key is None or key in given:
                known = ", ".join((*_LAYOUTS, *_ORDERS))
                raise InputError(f"{text!r}: {word!r} is unknown or repeated", where="--bake-preprocess", hint=known)
            given[key] = word
        return cls(tuple(mean), tuple(std), **given)

    def __call__(self, images: Array) -> Array:
        """Normalize uint8 arrays (N, H, W, C) or (N, C, H, W) to (N, C, H, W) float32, rounding once."""
        planes = images.astype(np.float64)
        if self.layout == "nhwc":
            planes = planes.transpose(0, 3, 1, 2)
        if self.order == "bgr":
            planes = planes[:, ::-1]
        mean, std = (np.reshape(values, (-1, 1, 1)) for values in (self.mean, self.std))
        return np.ascontiguousarray((planes / _PEAK - mean) / std, dtype=np.float32)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {**asdict(self), "mean": list(self.mean), "std": list(self.std), "peak": _PEAK, "dtype": "uint8"}


def with_preprocessing(model: onnx.ModelProto, spec: Preprocessing, *, fold: bool = True) -> onnx.ModelProto:
    """Return a copy of a model that takes uint8 images instead of its float32 input, as recorded in its metadata.

    Scale and channel order are folded into the first convolution, and so is the mean unless the convolution is padded:
    zeros around (x - mean) are not zeros around x, so the mean then remains a separate node.
    """
    if any(entry.key == METADATA for entry in model.metadata_props):
        raise InputError("this model has preprocessing already", where="preprocessing")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    value = _image(graph)
    channels = value.type.tensor_type.shape.dim[1].dim_value
    if len(spec.mean) not in (1, channels) or (spec.order == "bgr" and channels != 3):
        raise InputError(
            f"{len(spec.mean)} means and order {spec.order} do not fit a network of {channels} channels",
            where=f"input {value.name!r}",
        )
    shift, scale = (np.broadcast_to(part, channels) for part in (np.asarray(spec.mean), 1 / np.asarray(spec.std)))
    shift, scale = shift * _PEAK, scale / _PEAK
    readers = _readers(graph, value.name)
    swap = spec.order == "bgr"
    if fold and _foldable(graph, readers, value.name):
        padded = any(any(attribute_of(node, "pads", ())) for node in readers)
        grouped = any(attribute_of(node, "group", 1) != 1 for node in readers)
        for node in readers:
            _fold(graph, node, scale, None if padded else shift, swap=swap and not grouped)
        if swap and not grouped:
            # The channels keep the order of the images, so the means are reordered to match.
            swap, shift = False, shift[::-1]
        steps = _steps(spec.layout, swap, shift if padded else None, None)
    else:
        steps = _steps(spec.layout, swap, shift, scale)
    _insert(graph, value, readers, list(steps))
    _redeclare(value, spec.layout)
    copy.metadata_props.add(key=METADATA, value=json.dumps(spec.to_dict(), sort_keys=True))
    return copy


_Step = tuple[str, str, dict[str, Any], Array | None]


def _steps(layout: str, swap: bool, shift: Array | None, scale: Array | None) -> Iterator[_Step]:
    """Yield (name, operator, attributes, constant) of the nodes in order; TensorRT reads uint8 only through a Cast."""
    yield "cast", "Cast", {"to": onnx.TensorProto.FLOAT}, None
    if layout == "nhwc":
        yield "transpose", "Transpose", {"perm": [0, 3, 1, 2]}, None
    if swap:
        yield "order", "Gather", {"axis": 1}, np.array([2, 1, 0], np.int64)
    if shift is not None:
        yield "mean", "Sub", {}, shift.reshape(1, -1, 1, 1).astype(np.float32)
    if scale is not None:
        yield "scale", "Mul", {}, scale.reshape(1, -1, 1, 1).astype(np.float32)


def _insert(
    graph: onnx.GraphProto, value: onnx.ValueInfoProto, readers: Sequence[onnx.NodeProto], steps: Sequence[_Step]
) -> None:
    taken = {name for node in graph.node for name in (node.name, *node.input, *node.output)}
    taken.update(tensor.name for tensor in graph.initializer)
    nodes, current = [], value.name
    for name, operator, attributes, constant in steps:
        name = distinct_name(f"preprocess.{name}", taken)
        inputs = [current]
        if constant is not None:
            inputs.append(distinct_name(f"{name}.values", taken))
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(constant), inputs[-1]))
        nodes.append(onnx.helper.make_node(operator, inputs, [name], name=name, **attributes))
        current = name
    for node in readers:
        node.input[:] = [current if name == value.name else name for name in node.input]
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def _redeclare(value: onnx.ValueInfoProto, layout: str) -> None:
    kind = value.type.tensor_type
    kind.elem_type = onnx.TensorProto.UINT8
    if layout == "nhwc":
        sizes = [onnx.TensorShapeProto.Dimension.FromString(dim.SerializeToString()) for dim in kind.shape.dim]
        del kind.shape.dim[:]
        kind.shape.dim.extend([sizes[0], sizes[2], sizes[3], sizes[1]])


def _image(graph: onnx.GraphProto) -> onnx.ValueInfoProto:
    found = [
        value
        for value in inputs_of(graph)
        if len(value.type.tensor_type.shape.dim) == 4
        and value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        and value.type.tensor_type.shape.dim[1].dim_value > 0
    ]
    if len(found) != 1:
        raise InputError(f"expected one float32 input of four dimensions, got {len(found)}", where="preprocessing")
    return found[0]


def _readers(graph: onnx.GraphProto, name: str) -> list[onnx.NodeProto]:
    return [node for inner in graphs_of(graph) for node in inner.node if name in node.input]


def _foldable(graph: onnx.GraphProto, readers: Sequence[onnx.NodeProto], name: str) -> bool:
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    return bool(readers) and all(
        node.op_type == "Conv"
        and list(node.input).count(name) == 1
        and all(item in floats for item in node.input[1:] if item)
        and attribute_of(node, "auto_pad", b"NOTSET") == b"NOTSET"
        for node in readers
    )


def _fold(graph: onnx.GraphProto, node: onnx.NodeProto, scale: Array, shift: Array | None, *, swap: bool) -> None:
    """Make W(scale (x - shift)) + b one convolution of x, computed in float64 and rounded once."""
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name in node.input}
    kernel = weights[node.input[1]].astype(np.float64)
    groups, wide = attribute_of(node, "group", 1), [1] * (kernel.ndim - 2)

    def each(values: Array) -> Array:
        """Return the values of the input channels as each output channel reads them, (C_out, C_in / groups, 1, ...)."""
        split = values.reshape(groups, -1)
        return np.repeat(split, len(kernel) // groups, axis=0).reshape(len(kernel), -1, *wide)

    kernel = kernel * each(scale)
    taken = {tensor.name for tensor in graph.initializer}
    if shift is not None:
        offset = -(kernel * each(shift)).sum(axis=tuple(range(1, kernel.ndim)))
        if len(node.input) > 2 and node.input[2]:
            offset = weights[node.input[2]].astype(np.float64) + offset
        _replace(graph, node, 2, offset, taken)
    _replace(graph, node, 1, kernel[:, ::-1] if swap else kernel, taken)


def _replace(graph: onnx.GraphProto, node: onnx.NodeProto, place: int, array: Array, taken: set[str]) -> None:
    """Give the node another weight; drop the old one if nothing else reads it."""
    old = node.input[place] if place < len(node.input) else ""
    name = distinct_name(old or f"{node.name}.bias", taken)
    if old and len(_readers(graph, old)) == 1:
        name = old
        kept = [tensor for tensor in graph.initializer if tensor.name != old]
        del graph.initializer[:]
        graph.initializer.extend(kept)
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(array, np.float32), name))
    if place < len(node.input):
        node.input[place] = name
    else:
        node.input.append(name)
