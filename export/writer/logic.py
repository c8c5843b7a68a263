"""ONNX handlers for comparisons, logic, choices between tensors, and division that rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from .graph import Emitter, Value
from .shapes import cast_to, reshaped

Number = float | int | bool
Operand = Value | Number


def compare(operator: str, *, negated: bool = False) -> Callable[..., Value]:
    """Return a handler of a comparison; unequal types are promoted as torch does."""

    def handler(emit: Emitter, input: Operand, other: Operand) -> Value:
        kind = _common(input, other)
        operands = [_as(emit, operand, kind) for operand in (input, other)]
        found = emit.node(operator, operands, part="equal" if negated else "")
        return emit.node("Not", [found]) if negated else found

    return handler


def logical(operator: str, *, of_bits: bool = False) -> Callable[..., Value]:
    """Return a handler of a logical operator; one `of_bits` is logical for bools only."""

    def handler(emit: Emitter, *operands: Operand, **named: Operand) -> Value:
        if of_bits and emit.dtype != "bool":
            raise emit.refuse("operators of bits are supported for bools only")
        return emit.node(operator, [_as(emit, operand, "bool") for operand in (*operands, *named.values())])

    return handler


def where(emit: Emitter, condition: Value, input: Any = None, other: Any = None, **named: Any) -> Value:
    """Write a choice between two tensors."""
    if input is None or other is None:
        raise emit.refuse(
            "torch.where with a condition alone is not supported: the size of its result depends on values"
        )
    return emit.node("Where", [condition, _as(emit, input, emit.dtype), _as(emit, other, emit.dtype)])


def masked_fill(emit: Emitter, input: Value, mask: Value, value: Operand) -> Value:
    """Write a tensor with a number where the mask is true."""
    return emit.node("Where", [mask, _as(emit, value, emit.dtype), cast_to(emit, input, emit.dtype)])


def is_nan(emit: Emitter, input: Value) -> Value:
    """Write where a tensor is NaN."""
    return emit.node("IsNaN", [input])


def floor_divide(emit: Emitter, input: Operand, other: Operand) -> Value:
    """Write a quotient rounded down, from the remainder as torch computes it."""
    a, b = (_as(emit, operand, emit.dtype) for operand in (input, other))
    whole = emit.node("Sub", [a, _remainder(emit, a, b, "remainder")], part="whole")
    if not emit.dtype.startswith("float"):
        return emit.node("Div", [whole, b])
    return emit.node("Round", [emit.node("Div", [whole, b], part="quotient")])


def truncated_divide(emit: Emitter, input: Operand, other: Operand) -> Value:
    """Write a quotient rounded towards zero, as ONNX divides integers."""
    a, b = (_as(emit, operand, emit.dtype) for operand in (input, other))
    if not emit.dtype.startswith("float"):
        return emit.node("Div", [a, b])
    quotient = emit.node("Div", [a, b], part="quotient")
    size = emit.node("Floor", [emit.node("Abs", [quotient], part="size")], part="floor")
    return emit.node("Mul", [size, emit.node("Sign", [quotient], part="sign")])


def remainder(emit: Emitter, input: Operand, other: Operand) -> Value:
    """Write a remainder with the sign of the divisor."""
    return _remainder(emit, _as(emit, input, emit.dtype), _as(emit, other, emit.dtype))


def fmod(emit: Emitter, input: Operand, other: Operand) -> Value:
    """Write a remainder with the sign of the dividend."""
    return emit.node("Mod", [_as(emit, operand, emit.dtype) for operand in (input, other)], fmod=1)


def one_hot(emit: Emitter, tensor: Value, num_classes: int = -1) -> Value:
    """Write one-hot rows of class numbers."""
    count = emit.shape[-1]
    column = reshaped(emit, tensor, (*tensor.shape, 1), "column")
    classes = emit.weight("classes", torch.arange(count, dtype=getattr(torch, tensor.dtype)), object())
    return cast_to(emit, emit.node("Equal", [column, classes], part="equal", type_of="bool"), emit.dtype)


def holds(operator: str) -> Callable[..., Value]:
    """Return a handler of any or all."""

    def handler(emit: Emitter, input: Value, dim: Any = None, keepdim: bool = False) -> Value:
        rank = len(input.shape)
        dims = list(range(rank)) if dim is None else [axis % rank for axis in ([dim] if isinstance(dim, int) else dim)]
        if -1 in [input.shape[axis] for axis in dims]:
            raise emit.refuse("a reduction over a dynamic batch is not supported")
        truth = cast_to(emit, cast_to(emit, input, "bool"), "float32")
        most = emit.node(operator, [truth], part="most", type_of="float32", axes=dims, keepdims=int(keepdim))
        return cast_to(emit, most, "bool")

    return handler


def _remainder(emit: Emitter, a: Value, b: Value, part: str = "") -> Value:
    if not emit.dtype.startswith("float"):
        return emit.node("Mod", [a, b], part=part)
    # For floats ONNX has only the remainder with the sign of the dividend.
    left = emit.node("Mod", [a, b], part="left", fmod=1)
    sign = emit.node("Mul", [left, emit.node("Sign", [b], b.shape, part="sign")], part="signed")
    other = emit.node("Less", [sign, emit.constant(0.0, "zero")], part="other", type_of="bool")
    return emit.node("Where", [other, emit.node("Add", [left, b], part="turned"), left], part=part)


def _as(emit: Emitter, operand: Operand, dtype: str) -> Value:
    if isinstance(operand, Value):
        return cast_to(emit, operand, dtype)
    return emit.weight("constant", torch.tensor(operand, dtype=getattr(torch, dtype)), object())


def _common(a: Operand, b: Operand) -> str:
    """Return the dtype that torch compares two operands in."""
    samples: list[Any] = [
        torch.empty([1] * len(item.shape), dtype=getattr(torch, item.dtype)) if isinstance(item, Value) else item
        for item in (a, b)
    ]
    return str(torch.result_type(*samples)).removeprefix("torch.")
