"""ONNX handlers for arithmetic, matrix products, reductions and normalizations of tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from .graph import FREE, Emitter, Value
from .logic import floor_divide, truncated_divide
from .pools import pair_or_more
from .shapes import END, Size, cast_to, reshaped, sliced, transposed

Number = float | int


def unary(operator: str) -> Callable[..., Value]:
    """Return a handler of a unary operator that torch and ONNX share."""

    def handler(emit: Emitter, input: Value, *, inplace: bool = False, out: None = None) -> Value:
        return emit.node(operator, [cast_to(emit, input, emit.dtype)])

    return handler


def add(emit: Emitter, input: Value | Number, other: Value | Number, *, alpha: Number = 1) -> Value:
    """Write a sum."""
    # Python's sum() starts with 0 + x.
    for number, tensor in ((input, other), (other, input)):
        if isinstance(tensor, Value) and not isinstance(number, Value) and number == 0:
            return cast_to(emit, tensor, emit.dtype)
    return emit.node("Add", [_operand(emit, input), _scaled(emit, other, alpha)])


def subtract(emit: Emitter, input: Value | Number, other: Value | Number, *, alpha: Number = 1) -> Value:
    """Write a difference."""
    return emit.node("Sub", [_operand(emit, input), _scaled(emit, other, alpha)])


def multiply(emit: Emitter, input: Value | Number, other: Value | Number) -> Value:
    """Write an elementwise product."""
    return emit.node("Mul", [_operand(emit, input), _operand(emit, other)])


def divide(emit: Emitter, input: Value | Number, other: Value | Number, *, rounding_mode: str | None = None) -> Value:
    """Write a quotient."""
    if rounding_mode is not None:
        return {"floor": floor_divide, "trunc": truncated_divide}[rounding_mode](emit, input, other)
    return emit.node("Div", [_operand(emit, input), _operand(emit, other)])


def power(emit: Emitter, input: Value | Number, exponent: Value | Number) -> Value:
    """Write a power, or a product if the exponent is 2."""
    if not isinstance(exponent, Value) and exponent == 2:
        return multiply(emit, input, input)
    return emit.node("Pow", [_operand(emit, input), _operand(emit, exponent)])


def rsqrt(emit: Emitter, input: Value) -> Value:
    """Write 1 / sqrt(x)."""
    return emit.node("Div", [emit.constant(1.0), emit.node("Sqrt", [input], input.shape, part="root")])


def log2(emit: Emitter, input: Value) -> Value:
    """Write a logarithm to the base 2."""
    natural = emit.node("Log", [input], part="natural")
    return emit.node("Mul", [natural, emit.constant(1 / math.log(2), "scale")])


def matmul(emit: Emitter, input: Value, other: Value) -> Value:
    """Write a matrix product."""
    return emit.node("MatMul", [_operand(emit, input), _operand(emit, other)])


def attention(
    emit: Emitter,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Value:
    """Write softmax(q k' scale + mask) v."""
    if dropout_p or is_causal or enable_gqa or (attn_mask is not None and not attn_mask.dtype.startswith("float")):
        raise emit.refuse("attention with dropout, a causal or boolean mask, or grouped queries is not supported")
    rank = len(query.shape)
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scaled = emit.node("Mul", [query, emit.constant(factor, "scale")], query.shape, part="query")
    turned = transposed(emit, key, [*range(rank - 2), rank - 1, rank - 2], "key")
    shape = (*query.shape[:-1], key.shape[-2])
    scores = emit.node("MatMul", [scaled, turned], shape, part="scores")
    if attn_mask is not None:
        scores = emit.node("Add", [scores, attn_mask], shape, part="masked")
    weights = emit.node("Softmax", [scores], shape, part="weights", axis=rank - 1)
    return emit.node("MatMul", [weights, value])


def einsum(emit: Emitter, equation: str, *operands: Any) -> Value:
    """Write a sum of products by an equation."""
    tensors = operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    return emit.node("Einsum", [cast_to(emit, tensor, emit.dtype) for tensor in tensors], equation=equation)


def product(emit: Emitter, input: Value, dim: int | None = None, keepdim: bool = False, *, dtype: Any = None) -> Value:
    """Write a product over a dimension."""
    return emit.node(
        "ReduceProd", [cast_to(emit, input, emit.dtype)], axes=_dims(emit, input, dim), keepdims=int(keepdim)
    )


def spread(*, root: bool) -> Callable[..., Value]:
    """Return a handler of the variance or the standard deviation."""

    def handler(
        emit: Emitter, input: Value, dim: Any = None, unbiased: bool | None = None, keepdim: bool = False, **named: Any
    ) -> Value:
        if isinstance(dim, bool):
            dim, unbiased = None, dim
        correction = named.get("correction", 1 if unbiased is None else int(unbiased))
        dims = _dims(emit, input, dim)
        thin = tuple(1 if axis in dims else size for axis, size in enumerate(input.shape))
        mean = emit.node("ReduceMean", [input], thin, part="mean", axes=dims, keepdims=1)
        centred = emit.node("Sub", [input, mean], input.shape, part="centred")
        squares = emit.node("Mul", [centred, centred], input.shape, part="squares")
        average = emit.node("ReduceMean", [squares], part="average", axes=dims, keepdims=int(keepdim))
        count = math.prod(input.shape[axis] for axis in dims)
        variance = emit.node("Mul", [average, emit.constant(count / (count - correction), "factor")], part="variance")
        return emit.node("Sqrt", [variance]) if root else variance

    return handler


def logsumexp(emit: Emitter, input: Value, dim: Any, keepdim: bool = False) -> Value:
    """Write log(sum(exp(x))) over dimensions."""
    return emit.node("ReduceLogSumExp", [input], axes=_dims(emit, input, dim), keepdims=int(keepdim))


def norm(
    emit: Emitter, input: Value, p: Any = 2, dim: Size = None, keepdim: bool = False, dtype: Any = None, **named: Any
) -> Value:
    """Write a vector norm over dimensions."""
    order = named.get("ord", 2 if p in (None, "fro") else p)
    if order not in (1, 2) or dtype is not None:
        raise emit.refuse(f"a norm of order {order} is not supported")
    return emit.node(f"ReduceL{int(order)}", [input], axes=_dims(emit, input, dim), keepdims=int(keepdim))


def rms_norm(
    emit: Emitter, input: Value, normalized_shape: Sequence[int], weight: Value | None = None, eps: float | None = None
) -> Value:
    """Write x / sqrt(mean(x x) + eps) over the last dimensions."""
    rank = len(input.shape)
    dims = list(range(rank - len(normalized_shape), rank))
    thin = tuple(1 if axis in dims else size for axis, size in enumerate(input.shape))
    least = torch.finfo(getattr(torch, emit.dtype)).eps if eps is None else eps
    squares = emit.node("Mul", [input, input], part="squares")
    mean = emit.node("ReduceMean", [squares], thin, part="mean", axes=dims, keepdims=1)
    raised = emit.node("Add", [mean, emit.constant(least, "eps")], thin, part="raised")
    size = emit.node("Sqrt", [raised], thin, part="size")
    if weight is None:
        return emit.node("Div", [input, size])
    return emit.node("Mul", [emit.node("Div", [input, size], part="level"), weight])


def total(emit: Emitter, input: Value, dim: Size = None, keepdim: bool = False, *, dtype: Any = None) -> Value:
    """Write a sum over dimensions as a mean times a count: ReduceSum takes its axes as an input from opset 13."""
    dims = _dims(emit, input, dim)
    if input.dtype == "bool":
        # A sum of sizes, which are integers, is exact.
        ones = cast_to(emit, input, "int32")
        counted = emit.node("ReduceL1", [ones], part="true", type_of="int32", axes=dims, keepdims=int(keepdim))
        return cast_to(emit, counted, emit.dtype)
    if not emit.dtype.startswith("float"):
        return _integer_sum(emit, cast_to(emit, input, emit.dtype), dims)
    count = math.prod(input.shape[axis] for axis in dims)
    average = emit.node("ReduceMean", [cast_to(emit, input, emit.dtype)], part="mean", axes=dims, keepdims=int(keepdim))
    return emit.node("Mul", [average, emit.constant(float(count), "count")])


def _integer_sum(emit: Emitter, x: Value, dims: Sequence[int]) -> Value:
    """Write a sum of integers as the last item of running sums, a form that all parsers read correctly."""
    for axis in dims:
        sums = emit.node("CumSum", [x, emit.weight("axis", torch.tensor(axis), object())], x.shape, part="sums")
        shape = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        x = sliced(emit, sums, [(axis, -1, END, 1)], shape, "last")
    return reshaped(emit, x, emit.shape)


def extremum(operator: str) -> Callable[..., Value | tuple[Value, ...]]:
    """Return a handler of amax/amin and max/min: of a tensor, along a dimension with indices, or of two tensors."""

    def handler(emit: Emitter, input: Value, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
        other = kwargs.get("other", dim)
        if isinstance(other, Value):
            return emit.node(operator, [_operand(emit, input), _operand(emit, other)])
        dims = _dims(emit, input, dim)
        values = emit.node(f"Reduce{operator}", [input], axes=dims, keepdims=int(keepdim))
        if len(emit.parts) == 1:
            return values
        where = emit.node(
            f"Arg{operator}", [input], part="indices", type_of="int64", axis=dims[0], keepdims=int(keepdim)
        )
        return values, where

    return handler


def argmax(operator: str) -> Callable[..., Value]:
    """Return a handler of argmax or argmin along one dimension."""

    def handler(emit: Emitter, input: Value, dim: int | None = None, keepdim: bool = False) -> Value:
        if dim is None:
            raise emit.refuse("argmax over all dimensions is not supported (pass dim)")
        return emit.node(operator, [input], axis=dim % len(input.shape), keepdims=int(keepdim))

    return handler


def layer_norm(
    emit: Emitter,
    input: Value,
    normalized_shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
) -> Value:
    """Write layer normalization over the last dimensions."""
    rank = len(input.shape)
    dims = list(range(rank - len(normalized_shape), rank))
    return _affine(emit, _standardised(emit, input, dims, eps, last=weight is None and bias is None), weight, bias)


def group_norm(
    emit: Emitter,
    input: Value,
    num_groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
) -> Value:
    """Write group normalization."""
    n, c, *rest = input.shape
    apart = reshaped(emit, input, (n, num_groups, c // num_groups * math.prod(rest)), "groups")
    level = reshaped(emit, _standardised(emit, apart, [2], eps), input.shape, "joined")
    given = [None if part is None else _column(emit, part, len(rest)) for part in (weight, bias)]
    return _affine(emit, level, given[0], given[1])


def instance_norm(emit: Emitter, module: Any, x: Value) -> Value:
    """Write instance normalization."""
    if module.track_running_stats:
        raise emit.refuse("instance normalization with running statistics is not supported")
    channels = x.shape[1]
    gamma = torch.ones(channels) if module.weight is None else module.weight
    beta = torch.zeros(channels) if module.bias is None else module.bias
    weights = [emit.weight(name, part, (id(module), name)) for name, part in (("weight", gamma), ("bias", beta))]
    return emit.node("InstanceNormalization", [x, *weights], epsilon=module.eps)


def normalize(emit: Emitter, input: Value, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None) -> Value:
    """Write x / max(|x|, eps)."""
    if p != 2:
        raise emit.refuse(f"normalize with p={p} is not supported")
    axis = dim % len(input.shape)
    shape = (*input.shape[:axis], 1, *input.shape[axis + 1 :])
    length = emit.node("ReduceL2", [input], shape, part="length", axes=[axis], keepdims=1)
    return emit.node("Div", [input, emit.node("Clip", [length, emit.constant(eps, "least")], shape, part="bounded")])


def _operand(emit: Emitter, value: Value | Number) -> Value:
    return cast_to(emit, value, emit.dtype) if isinstance(value, Value) else emit.constant(value)


def _scaled(emit: Emitter, value: Value | Number, alpha: Number) -> Value:
    if alpha == 1:
        return _operand(emit, value)
    if not isinstance(value, Value):
        return emit.constant(value * alpha)
    return emit.node("Mul", [_operand(emit, value), emit.constant(alpha, "alpha")], value.shape, part="scaled")


def _dims(emit: Emitter, x: Value, dim: Size) -> list[int]:
    rank = len(x.shape)
    dims = sorted(d % rank for d in pair_or_more(dim)) or list(range(rank))
    if any(x.shape[axis] == FREE for axis in dims):
        raise emit.refuse("a reduction over a dynamic batch is not supported")
    return dims


def _standardised(emit: Emitter, x: Value, dims: list[int], eps: float, *, last: bool = False) -> Value:
    thin = tuple(1 if axis in dims else size for axis, size in enumerate(x.shape))

    def mean(of: Value, part: str) -> Value:
        return emit.node("ReduceMean", [of], thin, part=part, axes=dims, keepdims=1)

    centred = emit.node("Sub", [x, mean(x, "mean")], x.shape, part="centred")
    variance = mean(emit.node("Mul", [centred, centred], x.shape, part="squares"), "variance")
    spread = emit.node(
        "Sqrt", [emit.node("Add", [variance, emit.constant(eps, "eps")], thin, part="raised")], thin, part="spread"
    )
    return emit.node("Div", [centred, spread], x.shape, part="" if last else "level")


def _affine(emit: Emitter, x: Value, weight: Value | None, bias: Value | None) -> Value:
    if weight is not None:
        x = emit.node("Mul", [x, weight], x.shape, part="scaled" if bias is not None else "")
    return x if bias is None else emit.node("Add", [x, bias], x.shape)


def _column(emit: Emitter, weights: Value, behind: int) -> Value:
    if weights.tensor is None:
        raise emit.refuse("normalization with computed weights is not supported")
    return emit.weight(weights.name.rpartition(".")[2], weights.tensor.reshape(-1, *[1] * behind), object())
