"""ONNX handlers for activations.

Activations that ONNX has only in later opsets, or that some parser lacks, are written as their elementary operators.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .graph import Emitter, Value
from .shapes import cast_to, sliced


def dropout(emit: Emitter, input: Value, p: float = 0.5, training: bool = True, inplace: bool = False) -> Value:
    """Write nothing, as in eval mode."""
    if training and p > 0:
        raise emit.refuse("dropout that is always active is not supported (pass training=self.training)")
    return input


def clamp(emit: Emitter, input: Value, min: Any = None, max: Any = None, inplace: bool = False, **names: Any) -> Value:
    """Write clamp between two numbers."""
    low, high = names.get("min_val", min), names.get("max_val", max)
    if isinstance(low, Value) or isinstance(high, Value):
        kept = [(name, bound) for name, bound in (("Max", low), ("Min", high)) if bound is not None]
        for place, (operator, bound) in enumerate(kept, start=1):
            limit = cast_to(emit, bound, emit.dtype) if isinstance(bound, Value) else emit.constant(bound, operator)
            input = emit.node(
                operator, [cast_to(emit, input, emit.dtype), limit], part="" if place == len(kept) else "low"
            )
        return input
    bounds = [
        None if bound is None else emit.constant(float(bound), name) for bound, name in ((low, "min"), (high, "max"))
    ]
    return emit.node("Clip", [input, *(bounds if high is not None else bounds[:1])])


def relu6(emit: Emitter, input: Value, inplace: bool = False) -> Value:
    """Write ReLU6, a clamp between 0 and 6."""
    return clamp(emit, input, 0.0, 6.0)


def leaky_relu(emit: Emitter, input: Value, negative_slope: float = 0.01, inplace: bool = False) -> Value:
    """Write max(x, 0) + slope min(x, 0)."""
    return emit.node("LeakyRelu", [input], alpha=float(negative_slope))


def prelu(emit: Emitter, input: Value, weight: Value) -> Value:
    """Write a leaky ReLU with a slope for each channel."""
    if weight.tensor is None:
        raise emit.refuse("PReLU with computed slopes is not supported")
    slopes = weight.tensor.detach().reshape(-1, *[1] * (len(input.shape) - 2))
    return emit.node("PRelu", [input, emit.weight("slope", slopes, ("slope", id(weight.tensor), len(input.shape)))])


def elu(emit: Emitter, input: Value, alpha: float = 1.0, inplace: bool = False) -> Value:
    """Write x above 0 and alpha (exp(x) - 1) below."""
    return emit.node("Elu", [input], alpha=float(alpha))


def hardsigmoid(emit: Emitter, input: Value, inplace: bool = False) -> Value:
    """Write clip(x / 6 + 1 / 2, 0, 1)."""
    return emit.node("HardSigmoid", [input], alpha=1 / 6, beta=0.5)


def hardswish(emit: Emitter, input: Value, inplace: bool = False) -> Value:
    """Write x hardsigmoid(x)."""
    gate = emit.node("HardSigmoid", [input], part="gate", alpha=1 / 6, beta=0.5)
    return emit.node("Mul", [input, gate])


def silu(emit: Emitter, input: Value, inplace: bool = False) -> Value:
    """Write x sigmoid(x)."""
    return emit.node("Mul", [input, emit.node("Sigmoid", [input], part="gate")])


def mish(emit: Emitter, input: Value, inplace: bool = False) -> Value:
    """Write x tanh(log(1 + exp(x)))."""
    gate = emit.node("Tanh", [emit.node("Softplus", [input], part="softplus")], part="gate")
    return emit.node("Mul", [input, gate])


def gelu(emit: Emitter, input: Value, approximate: str = "none") -> Value:
    """Write x Phi(x) using erf, or its tanh approximation."""

    def times(x: Value, factor: float, part: str) -> Value:
        return emit.node("Mul", [x, emit.constant(factor, part)], part=part)

    if approximate == "tanh":
        cube = emit.node("Mul", [emit.node("Mul", [input, input], part="square"), input], part="cube")
        inner = emit.node("Add", [input, times(cube, 0.044715, "cubic")], part="inner")
        gate = emit.node("Tanh", [times(inner, math.sqrt(2 / math.pi), "scaled")], part="tanh")
    else:
        gate = emit.node("Erf", [times(input, math.sqrt(0.5), "scaled")], part="erf")
    return emit.node("Mul", [times(input, 0.5, "half"), emit.node("Add", [gate, emit.constant(1.0)], part="gate")])


def softplus(emit: Emitter, input: Value, beta: float = 1.0, threshold: float = 20.0) -> Value:
    """Write log(1 + exp(x)); above the threshold torch returns x, which is equal in float32."""
    if beta != 1 or threshold < 20:
        raise emit.refuse("softplus with a non-default beta or threshold is not supported")
    return emit.node("Softplus", [input])


def log_sigmoid(emit: Emitter, input: Value) -> Value:
    """Write -log(1 + exp(-x))."""
    turned = emit.node("Neg", [input], part="turned")
    return emit.node("Neg", [emit.node("Softplus", [turned], part="softplus")])


def rrelu(
    emit: Emitter,
    input: Value,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Value:
    """Write a leaky ReLU of the mean slope, as in eval mode."""
    if training:
        raise emit.refuse("a random slope is not supported (pass training=self.training)")
    return leaky_relu(emit, input, (lower + upper) / 2)


def softshrink(emit: Emitter, input: Value, lambd: float = 0.5) -> Value:
    """Write x - clip(x, -lambda, lambda)."""
    bounds = [emit.constant(-lambd, "min"), emit.constant(lambd, "max")]
    return emit.node("Sub", [input, emit.node("Clip", [input, *bounds], part="inner")])


def hardshrink(emit: Emitter, input: Value, lambd: float = 0.5) -> Value:
    """Write x where its size is above lambda, and 0 elsewhere."""
    size = emit.node("Abs", [input], part="size")
    above = emit.node("Greater", [size, emit.constant(lambd, "lambda")], part="above", type_of="bool")
    return emit.node("Where", [above, input, emit.constant(0.0, "zero")])


def celu(emit: Emitter, input: Value, alpha: float = 1.0, inplace: bool = False) -> Value:
    """Write x above 0 and alpha (exp(x / alpha) - 1) below."""
    return emit.node("Celu", [input], alpha=float(alpha))


def tanhshrink(emit: Emitter, input: Value) -> Value:
    """Write x - tanh(x)."""
    return emit.node("Sub", [input, emit.node("Tanh", [input], part="tanh")])


def threshold(emit: Emitter, input: Value, threshold: float, value: float, inplace: bool = False) -> Value:
    """Write x above the threshold and a number below."""
    above = emit.node("Greater", [input, emit.constant(threshold, "threshold")], part="above", type_of="bool")
    return emit.node("Where", [above, input, emit.constant(value, "value")])


def glu(emit: Emitter, input: Value, dim: int = -1) -> Value:
    """Write the first half times the sigmoid of the second."""
    axis = dim % len(input.shape)
    half = input.shape[axis] // 2
    value = sliced(emit, input, [(axis, 0, half, 1)], emit.shape, "value")
    gate = sliced(emit, input, [(axis, half, 2 * half, 1)], emit.shape, "gate")
    return emit.node("Mul", [value, emit.node("Sigmoid", [gate], part="open")])


def softmax(operator: str) -> Callable[..., Value]:
    """Return a handler of Softmax or LogSoftmax along one dimension."""

    def handler(emit: Emitter, input: Value, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None) -> Value:
        if dim is None:
            raise emit.refuse("softmax without a dimension is not supported (pass dim)")
        return emit.node(operator, [cast_to(emit, input, emit.dtype)], axis=dim % len(input.shape))

    return handler
