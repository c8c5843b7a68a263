"""Rules: what an operator's outputs are of the forms of its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from irepdeploy.onnx_collapse.channel_rules import channel_slice, concat, cuts_channels, split
from irepdeploy.onnx_collapse.context import Array, Context
from irepdeploy.onnx_collapse.form import CANONICAL, Form, Linear, apply, settle, sum_forms
from irepdeploy.onnx_collapse.graph import Operator
from irepdeploy.onnx_collapse.refusal import Refusal
from irepdeploy.onnx_collapse.scatter_rules import scatter, transpose
from irepdeploy.onnx_collapse.window_rules import WINDOW_RULES, per_channel

__all__ = ["LINEAR", "apply_rule", "map_inputs"]

_SUMS = {"Add", "Mean", "Sub", "Sum"}
_SCALES = {"Div", "Mul", "Neg"}
_COPIES = {"Dropout", "Identity"}

# Operators that may be part of a region.
LINEAR = {*_SUMS, *_SCALES, *_COPIES, *WINDOW_RULES, "Concat", "ScatterElements", "ScatterND", "Split", "Transpose"}

# Multiplies and adds too; told apart from what is no candidate at all.
REFUSED = {
    "ConvTranspose": "a transposed convolution is not one convolution of its input",
    "DeformConv": "a deformable convolution reads where its input says",
}


def map_inputs(operator: Operator, context: Context) -> list[str]:
    """The inputs that are maps: those that are computed at run time."""
    if operator.kind in _SUMS | _SCALES | {"Concat"}:
        return [name for name in operator.inputs if not context.graph.is_constant(name)]
    return [operator.inputs[0]]


def apply_rule(operator: Operator, forms: Mapping[str, Form], context: Context) -> dict[str, Form]:
    """Forms of the outputs.

    Raises:
        Refusal: the operator is not linear and shift-invariant here, with the reason; or its attributes and constants
            do not fit, as in a damaged file.
    """
    try:
        return _apply(operator, forms, context)
    except (IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise Refusal(f"it cannot be read: {type(error).__name__}: {error}") from error


def _apply(operator: Operator, forms: Mapping[str, Form], context: Context) -> dict[str, Form]:
    kind, output = operator.kind, operator.outputs[0]
    if kind in REFUSED:
        raise Refusal(REFUSED[kind], [])
    if kind not in LINEAR:
        raise Refusal(f"{kind} is not linear", [])
    names = map_inputs(operator, context)
    if not names or any(name not in forms for name in names):
        raise Refusal("it reads no map", [])
    if kind in _SUMS:
        return {output: _sum(operator, forms, context)}
    if kind == "Concat":
        if len(names) != len(operator.inputs):
            raise Refusal("it concatenates constants")
        return {output: concat(operator, [forms[name] for name in names], context)}
    form = forms[names[0]]
    if kind == "Split":
        return split(operator, form, context)
    if kind == "Transpose":
        return {output: transpose(operator, form, context)}
    if kind in ("ScatterElements", "ScatterND"):
        return {output: scatter(operator, form, context)}
    if kind in _COPIES:
        return {output: _copy(operator, form, context)}
    if kind == "Slice" and cuts_channels(operator, context):
        return {output: channel_slice(operator, form, context)}
    if kind in _SCALES and len(names) > 1:
        raise Refusal(f"{kind} of two tensors is not linear")
    return {output: apply(_linear(operator, form, context), form)}


def _linear(operator: Operator, form: Form, context: Context) -> Linear:
    """The operator as a stencil; without numbers it is kept."""
    build = _scale if operator.kind in _SCALES else WINDOW_RULES[operator.kind]
    if context.numeric:
        return build(operator, form, context)
    if operator.index not in context.structures:
        linear = build(operator, form, context)
        context.structures[operator.index] = Linear(replace(linear.stencil, kernel=None), fill=linear.fill)
    return context.structures[operator.index]


def _scale(operator: Operator, form: Form, context: Context) -> Linear:
    if operator.kind == "Neg":
        return per_channel(torch.full((form.channels,), -1.0, dtype=torch.float64))
    place = next(place for place, name in enumerate(operator.inputs) if context.graph.is_constant(name))
    if operator.kind == "Div" and place == 0:
        raise Refusal("it divides by the map")
    factor = _constant(operator, place, form, context)
    if factor.shape[1:] != (1, 1):
        raise Refusal("a factor that differs by position")
    scale = torch.from_numpy(np.broadcast_to(factor.reshape(-1), (form.channels,)).copy())
    scale = 1 / scale if operator.kind == "Div" else scale
    if not bool(torch.isfinite(scale).all()):
        raise Refusal("a factor that is NaN or infinite")
    return per_channel(scale)


def _sum(operator: Operator, forms: Mapping[str, Form], context: Context) -> Form:
    """Add, Sub, Sum and Mean of maps and constants."""
    parts, names = [], []
    constants: list[tuple[int, int]] = []
    share = 1 / len(operator.inputs) if operator.kind == "Mean" else 1.0
    for place, name in enumerate(operator.inputs):
        sign = -1 if operator.kind == "Sub" and place else 1
        if context.graph.is_constant(name):
            constants.append((place, sign))
            continue
        form = forms[name]
        if sign * share != 1:
            factor = per_channel(torch.full((form.channels,), sign * share, dtype=torch.float64))
            stencil = factor.stencil if context.numeric else replace(factor.stencil, kernel=None)
            form = apply(Linear(stencil), form)
        parts.append(form)
        names.append(name)
    total = sum_forms(parts, names)
    for place, sign in constants:
        total = _plus(total, sign * share * _constant(operator, place, total, context))
    return total


def _plus(form: Form, constant: Array) -> Form:
    """Add a constant (C or 1, H or 1, W or 1)."""
    if form.layout != CANONICAL and constant.size > 1:
        raise Refusal("its axes are transposed")
    by_position = constant.shape[1:] != (1, 1)
    if by_position and form.free:
        raise Refusal("a constant that differs by position while sizes are free")
    if form.bias is None:
        return form
    added = torch.from_numpy(np.ascontiguousarray(constant, np.float64))
    if form.bias.ndim == 1 and not by_position:
        return replace(form, bias=form.bias + added.reshape(-1))
    bias = form.bias if form.bias.ndim == 3 else form.bias[:, None, None]
    return settle(replace(form, bias=(bias + added).expand(form.channels, *form.size)))


def _constant(operator: Operator, place: int, form: Form, context: Context) -> Array:
    """A constant operand as (C or 1, H or 1, W or 1)."""
    array = context.array(operator, place)
    assert array is not None
    if array.ndim > 4 or any(size != 1 for size in array.shape[: max(array.ndim - 3, 0)]):
        raise Refusal("a constant with a batch of its own")
    found = array.reshape((1,) * max(3 - array.ndim, 0) + array.shape[max(array.ndim - 3, 0) :])
    limits = (form.channels, *form.size)
    if any(size not in (1, limit) for size, limit in zip(found.shape, limits, strict=True)):
        raise Refusal("a constant that makes the map larger")
    if form.layout != CANONICAL and found.size > 1:
        raise Refusal("its axes are transposed")
    return np.asarray(found, np.float64)


def _copy(operator: Operator, form: Form, context: Context) -> Form:
    if operator.kind == "Dropout":
        training = context.array(operator, 2) if operator.input(2) else None
        if training is not None and training.any():
            raise Refusal("dropout in train mode")
        mask = operator.outputs[1] if len(operator.outputs) > 1 else ""
        if mask and (mask in context.graph.readers or mask in context.graph.outputs):
            raise Refusal("the mask of a dropout is read")
    return form
