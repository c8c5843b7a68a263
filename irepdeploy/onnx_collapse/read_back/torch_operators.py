"""ONNX operators as calls of torch.

For each operator one function writes it into a `Reader`, and raises ModelError for a form that torch does not support.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from irepdeploy.onnx_collapse.read_back import torch_layers as layers
from irepdeploy.onnx_collapse.read_back import torch_shapes as shapes
from irepdeploy.onnx_collapse.read_back.reader import Reader, refused

__all__ = ["OPERATORS", "RETURN_SEVERAL"]

Attributes = dict[str, Any]
Write = Callable[[Reader, onnx.NodeProto, Attributes], Any]


def _plain(function: Callable[..., Any], **names: tuple[str, Any]) -> Write:
    """Write an operator as one function of its inputs; `names` maps arguments to (attribute, default)."""

    def write(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
        chosen = {name: attributes.get(attribute, default) for name, (attribute, default) in names.items()}
        return reader.call(function, *(reader.value(name) for name in node.input), **chosen)

    return write


def _each_two(function: Callable[..., Any]) -> Write:
    """Write an operator with any number of inputs as repeated calls of a function of two."""

    def write(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
        return functools.reduce(lambda a, b: reader.call(function, a, b), map(reader.value, node.input))

    return write


def _reduced(function: Callable[..., Any], *arguments: Any) -> Write:
    """Write a reduction over listed dimensions."""

    def write(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
        axes = reader.integers(node, 1, attributes, "axes")
        if not axes:
            raise refused(node, "over everything")
        return reader.call(
            function, reader.value(node.input[0]), *arguments, list(axes), bool(attributes.get("keepdims", 1))
        )

    return write


def _mean(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    total = _each_two(torch.add)(reader, node, attributes)
    return reader.call(torch.div, total, len(node.input))


def _clip(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    x = reader.value(node.input[0])
    for place, (name, bound) in enumerate((("min", torch.maximum), ("max", torch.minimum)), start=1):
        if len(node.input) > place and node.input[place] and node.input[place] not in reader.constants:
            x = reader.call(bound, x, reader.value(node.input[place]))
            continue
        fixed = [attributes[name]] if name in attributes else reader.numbers(node, place)
        if fixed is not None:
            x = reader.call(torch.clamp, x, **{name: fixed[0]})
    return x


def _div(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    rounding = None if any(map(reader.is_float, node.input)) else "trunc"
    options = {} if rounding is None else {"rounding_mode": rounding}
    return reader.call(torch.div, *map(reader.value, node.input), **options)


def _mod(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    function = torch.fmod if attributes.get("fmod", 0) else torch.remainder
    return reader.call(function, *map(reader.value, node.input))


def _softmax(function: Callable[..., Any]) -> Write:
    def write(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
        axis = attributes.get("axis", -1 if reader.opset >= 13 else 1)
        if reader.opset < 13 and axis % reader.rank(node) != reader.rank(node) - 1:
            # Before opset 13, Softmax flattens all dimensions from the axis on.
            raise refused(node, "at another axis than the last")
        return reader.call(function, reader.value(node.input[0]), dim=axis)

    return write


def _arg(function: Callable[..., Any]) -> Write:
    def write(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
        if attributes.get("select_last_index", 0):
            raise refused(node, "of the last index")
        return reader.call(
            function, reader.value(node.input[0]), attributes.get("axis", 0), bool(attributes.get("keepdims", 1))
        )

    return write


def _top_k(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    count = reader.numbers(node, 1)
    assert count is not None
    largest, ordered = bool(attributes.get("largest", 1)), bool(attributes.get("sorted", 1))
    return reader.call(
        torch.topk, reader.value(node.input[0]), int(count[0]), attributes.get("axis", -1), largest, ordered
    )


def _cumsum(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    axis = reader.numbers(node, 1)
    assert axis is not None
    if attributes.get("exclusive", 0) or attributes.get("reverse", 0):
        raise refused(node, "of this form")
    return reader.call(torch.cumsum, reader.value(node.input[0]), int(axis[0]))


def _cast(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    kind = onnx.helper.tensor_dtype_to_np_dtype(attributes["to"])
    dtype = getattr(torch, kind.name, None)
    if not isinstance(dtype, torch.dtype):
        raise refused(node, f"to {kind.name}")
    return reader.method("to", reader.value(node.input[0]), dtype)


def _einsum(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    return reader.call(torch.einsum, attributes["equation"].decode(), *map(reader.value, node.input))


def _trilu(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    diagonal = reader.numbers(node, 1) or [0]
    function = torch.triu if attributes.get("upper", 1) else torch.tril
    return reader.call(function, reader.value(node.input[0]), int(diagonal[0]))


def _identity(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    return reader.value(node.input[0])


def _gather_elements(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    x, axis = reader.value(node.input[0]), attributes.get("axis", 0)
    index = shapes.beside(reader, node.input[1], x) if axis % reader.rank(node) else reader.value(node.input[1])
    return reader.call(along, x, index, axis)


def along(x: Tensor, index: Tensor, axis: int) -> Tensor:
    """Return the elements of `x` along an axis at these positions; negative ones count from the end."""
    return torch.gather(x, axis, torch.where(index < 0, index + x.shape[axis], index))


def _scatter_elements(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    axis = attributes.get("axis", 0)
    if attributes.get("reduction", b"none") != b"none":
        raise refused(node, "with a reduction")
    x, index, updates = map(reader.value, node.input)
    return reader.call(torch.scatter, x, axis, index, updates)


def product(x: Tensor, dim: list[int], keepdim: bool) -> Tensor:
    """Return the product over dimensions."""
    for axis in sorted((axis % x.dim() for axis in dim), reverse=True):
        x = torch.prod(x, axis, keepdim)
    return x


def hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Return ``clip(alpha * x + beta, 0, 1)``."""
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


def gelu(x: Tensor, approximate: bytes) -> Tensor:
    """Return the GELU, ``x * Phi(x)``."""
    return F.gelu(x, approximate=approximate.decode())


def above(x: Tensor, alpha: float) -> Tensor:
    """Return `x` where it is above `alpha`, and 0 elsewhere."""
    return torch.where(x > alpha, x, 0.0)


def sum_of_squares(x: Tensor, dim: list[int], keepdim: bool) -> Tensor:
    """Return the sum of squares over dimensions."""
    return torch.sum(x * x, dim, keepdim)


def norm(x: Tensor, order: int, dim: list[int], keepdim: bool) -> Tensor:
    """Return the norm over dimensions."""
    return torch.linalg.vector_norm(x, order, dim, keepdim)


def unit(x: Tensor, axis: int, p: int) -> Tensor:
    """Return `x` divided by its norm along an axis."""
    return x / torch.linalg.vector_norm(x, p, axis, True)


def _is_inf(reader: Reader, node: onnx.NodeProto, attributes: Attributes) -> Any:
    if not attributes.get("detect_positive", 1) or not attributes.get("detect_negative", 1):
        raise refused(node, "of one sign")
    return reader.call(torch.isinf, reader.value(node.input[0]))


RETURN_SEVERAL = {"Split", "TopK"}

_UNARY: dict[str, Callable[..., Any]] = {
    "Abs": torch.abs, "Acos": torch.acos, "Acosh": torch.acosh, "Asin": torch.asin, "Asinh": torch.asinh,
    "Atan": torch.atan, "Atanh": torch.atanh, "Ceil": torch.ceil, "Cos": torch.cos, "Cosh": torch.cosh,
    "Erf": torch.erf, "Exp": torch.exp, "Floor": torch.floor, "HardSwish": F.hardswish, "IsNaN": torch.isnan,
    "Log": torch.log, "Mish": F.mish, "Neg": torch.neg, "Not": torch.logical_not, "Reciprocal": torch.reciprocal,
    "Relu": F.relu, "Round": torch.round, "Sigmoid": torch.sigmoid, "Sign": torch.sign, "Sin": torch.sin,
    "Sinh": torch.sinh, "Softplus": F.softplus, "Softsign": F.softsign, "Sqrt": torch.sqrt, "Tan": torch.tan,
    "Tanh": torch.tanh,
}  # fmt: skip
_BINARY: dict[str, Callable[..., Any]] = {
    "Add": torch.add, "And": torch.logical_and, "Equal": torch.eq, "Greater": torch.gt, "GreaterOrEqual": torch.ge,
    "Less": torch.lt, "LessOrEqual": torch.le, "MatMul": torch.matmul, "Mul": torch.mul, "Or": torch.logical_or,
    "Pow": torch.pow, "Sub": torch.sub, "Where": torch.where, "Xor": torch.logical_xor,
}  # fmt: skip

OPERATORS: dict[str, Write] = {
    **{kind: _plain(function) for kind, function in (_UNARY | _BINARY).items()},
    "ArgMax": _arg(torch.argmax),
    "ArgMin": _arg(torch.argmin),
    "AveragePool": layers.pool,
    "BatchNormalization": layers.batch_normalization,
    "Cast": _cast,
    "Celu": _plain(F.celu, alpha=("alpha", 1.0)),
    "Clip": _clip,
    "Concat": shapes.concat,
    "Conv": layers.conv,
    "ConvTranspose": layers.conv_transpose,
    "CumSum": _cumsum,
    "DepthToSpace": shapes.depth_to_space,
    "Div": _div,
    "Dropout": _identity,
    "Einsum": _einsum,
    "Elu": _plain(F.elu, alpha=("alpha", 1.0)),
    "Expand": shapes.expand,
    "Flatten": shapes.flatten,
    "Gather": shapes.gather,
    "GatherElements": _gather_elements,
    "Gelu": _plain(gelu, approximate=("approximate", b"none")),
    "Gemm": layers.gemm,
    "GlobalAveragePool": layers.global_pool,
    "GlobalMaxPool": layers.global_pool,
    "GridSample": shapes.grid_sample,
    "GroupNormalization": layers.group_normalization,
    "HardSigmoid": _plain(hard_sigmoid, alpha=("alpha", 0.2), beta=("beta", 0.5)),
    "Identity": _identity,
    "InstanceNormalization": layers.instance_normalization,
    "IsInf": _is_inf,
    "LayerNormalization": layers.layer_normalization,
    "LeakyRelu": _plain(F.leaky_relu, negative_slope=("alpha", 0.01)),
    "LogSoftmax": _softmax(F.log_softmax),
    "LpNormalization": _plain(unit, axis=("axis", -1), p=("p", 2)),
    "Max": _each_two(torch.maximum),
    "MaxPool": layers.pool,
    "Mean": _mean,
    "Min": _each_two(torch.minimum),
    "Mod": _mod,
    "PRelu": layers.prelu,
    "Pad": shapes.pad,
    "ReduceL1": _reduced(norm, 1),
    "ReduceL2": _reduced(norm, 2),
    "ReduceLogSumExp": _reduced(torch.logsumexp),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceProd": _reduced(product),
    "ReduceSum": _reduced(torch.sum),
    "ReduceSumSquare": _reduced(sum_of_squares),
    "Reshape": shapes.reshape,
    "Resize": shapes.resize,
    "ScatterElements": _scatter_elements,
    "Selu": _plain(F.selu),
    "Slice": shapes.slice_,
    "Softmax": _softmax(F.softmax),
    "SpaceToDepth": shapes.space_to_depth,
    "Split": shapes.split,
    "Squeeze": shapes.squeeze,
    "Sum": _each_two(torch.add),
    "ThresholdedRelu": _plain(above, alpha=("alpha", 1.0)),
    "Tile": shapes.tile,
    "TopK": _top_k,
    "Transpose": shapes.transpose,
    "Trilu": _trilu,
    "Unsqueeze": shapes.unsqueeze,
}
