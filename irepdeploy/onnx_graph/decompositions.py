"""Operators of newer opsets in terms of older ones, with one function each in the table `DECOMPOSITIONS`.

ONNX's own function bodies compute with shapes at run time, which the parsers of engines refuse; these functions use the
known shapes instead.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx

from irepdeploy.onnx_graph.proto import attribute_of
from irepdeploy.onnx_graph.site import Site

__all__ = ["DECOMPOSITIONS"]

_HALVES = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def _layer_normalization(at: Site) -> None:
    if any(at.node.output[1:]):
        at.refuse("whose mean and deviation are read")
    data, kind = _in_full(at, at.node.input[0])
    axes = _axes(at)
    mean = at.reduced("ReduceMean", data, axes, "mean")
    centred = at.emit("Sub", [data, mean], "centred")
    _scaled(at, centred, axes, kind)


def _rms_normalization(at: Site) -> None:
    data, kind = _in_full(at, at.node.input[0])
    _scaled(at, data, _axes(at), kind)


def _axes(at: Site) -> list[int]:
    rank = len(at.known_shape(0))
    return list(range(attribute_of(at.node, "axis", -1) % rank, rank))


def _in_full(at: Site, name: str) -> tuple[str, int]:
    """Return a tensor in the type in which a normalization is computed, and its original type."""
    kind = at.kind(name)
    if kind in _HALVES and attribute_of(at.node, "stash_type", 1) == onnx.TensorProto.FLOAT:
        return at.emit("Cast", [name], "full", to=onnx.TensorProto.FLOAT), kind
    return name, kind


def _scaled(at: Site, data: str, axes: list[int], kind: int) -> None:
    """Divide by the root of the mean square, then apply scale and bias."""
    own = onnx.TensorProto.FLOAT if kind in _HALVES else kind
    square = at.emit("Mul", [data, data], "square")
    variance = at.reduced("ReduceMean", square, axes, "variance")
    epsilon = at.constant(attribute_of(at.node, "epsilon", 1e-5), "epsilon", own)
    deviation = at.emit("Sqrt", [at.emit("Add", [variance, epsilon], "positive")], "deviation")
    result = at.emit("Div", [data, deviation], "normal")
    if own != kind:
        result = at.emit("Cast", [result], "half", to=kind)
    bias = at.given(2)
    result = at.emit("Mul", [result, at.node.input[1]], "scaled" if bias else "")
    if bias:
        at.emit("Add", [result, bias])


def _group_normalization(at: Site) -> None:
    data, scale, bias = at.node.input
    groups, kind = attribute_of(at.node, "num_groups", 1), at.kind(data)
    shape = at.known_shape(0)
    rows = at.emit("Reshape", [data, at.constant([0, groups, -1], "rows.shape")], "rows")
    # Up to opset 20, scale and bias are per group; since then they are per channel.
    of_groups = at.shape(scale) == (groups,) and (shape[1] != groups)
    unit = [scale, bias]
    if not of_groups:
        unit = [at.constant(np.full(groups, number), part, kind) for number, part in ((1, "one"), (0, "zero"))]
    epsilon = attribute_of(at.node, "epsilon", 1e-5)
    normal = at.emit("InstanceNormalization", [rows, *unit], "normal", epsilon=epsilon)
    if None in shape[1:]:
        back = at.emit("Shape", [data], "shape")
    else:
        back = at.constant([0, *shape[1:]], "shape")
    result = at.emit("Reshape", [normal, back], "" if of_groups else "maps")
    if not of_groups:
        sizes = at.constant([-1, *([1] * (len(shape) - 2))], "channels")
        factor, offset = (at.emit("Reshape", [name, sizes], part) for name, part in ((scale, "scale"), (bias, "bias")))
        at.emit("Add", [at.emit("Mul", [result, factor], "scaled"), offset])


def _gelu(at: Site) -> None:
    (data,) = at.node.input
    if attribute_of(at.node, "approximate", b"none") == b"tanh":
        cube = at.emit("Mul", [at.emit("Mul", [data, data], "square"), data], "cube")
        inner = at.emit("Add", [data, at.emit("Mul", [cube, _number(at, 0.044715, "c")], "small")], "sum")
        shape = at.emit("Tanh", [at.emit("Mul", [inner, _number(at, math.sqrt(2 / math.pi), "root")], "inner")], "tanh")
    else:
        shape = at.emit("Erf", [at.emit("Div", [data, _number(at, math.sqrt(2), "root")], "inner")], "erf")
    half = at.emit("Mul", [data, _number(at, 0.5, "half")], "halved")
    at.emit("Mul", [half, at.emit("Add", [shape, _number(at, 1, "one")], "raised")])


def _mish(at: Site) -> None:
    (data,) = at.node.input
    at.emit("Mul", [data, at.emit("Tanh", [at.emit("Softplus", [data], "softplus")], "tanh")])


def _swish(at: Site) -> None:
    (data,) = at.node.input
    alpha = attribute_of(at.node, "alpha", 1.0)
    inner = data if alpha == 1 else at.emit("Mul", [data, _number(at, alpha, "alpha")], "inner")
    at.emit("Mul", [data, at.emit("Sigmoid", [inner], "sigmoid")])


def _hard_swish(at: Site) -> None:
    (data,) = at.node.input
    at.emit("Mul", [data, at.emit("HardSigmoid", [data], "gate", alpha=1 / 6, beta=0.5)])


def _cast_like(at: Site) -> None:
    at.emit("Cast", [at.node.input[0]], to=at.kind(at.node.input[1]))


def _number(at: Site, value: float, part: str) -> str:
    return at.constant(value, part, at.kind(at.node.input[0]))


DECOMPOSITIONS: dict[str, Callable[[Site], None]] = {
    "CastLike": _cast_like,
    "Gelu": _gelu,
    "GroupNormalization": _group_normalization,
    "HardSwish": _hard_swish,
    "LayerNormalization": _layer_normalization,
    "Mish": _mish,
    "RMSNormalization": _rms_normalization,
    "Swish": _swish,
}
