"""Operators that add or scale: sums, factors, batch normalizations and identities."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from irepdeploy.onnx_collapse.context import Context
from irepdeploy.onnx_collapse.form import CANONICAL, Form, Linear, apply, per_channel, settle, sum_forms
from irepdeploy.onnx_collapse.graph import Array, Graph, Operator
from irepdeploy.onnx_collapse.operators.rule import Attributes, OperatorRule, StencilRule
from irepdeploy.onnx_collapse.refusal import Refusal
from irepdeploy.reparam.algebra import bn_scale_shift

__all__ = ["BatchNormalization", "Div", "Dropout", "Identity", "Mean", "Mul", "Neg", "Sub", "Sum"]


class _Sum(OperatorRule):
    """A weighted sum of maps and constants."""

    linear = True
    reads_all = True
    per_element = True
    adds_constants = True

    def factor(self, place: int, count: int) -> float:
        """Return the factor of the input at `place` of `count` inputs."""
        return 1.0

    def forms(self, operator: Operator, forms: Sequence[Form], context: Context) -> dict[str, Form]:
        maps = iter(forms)
        parts, names, constants = [], [], []
        for place, name in enumerate(operator.inputs):
            factor = self.factor(place, len(operator.inputs))
            if context.graph.is_constant(name):
                constants.append((place, factor))
                continue
            form = next(maps)
            if factor != 1:
                scale = per_channel(torch.full((form.channels,), factor, dtype=torch.float64)).stencil
                form = apply(Linear(scale if context.numeric else replace(scale, kernel=None)), form)
            parts.append(form)
            names.append(name)
        total = sum_forms(parts, names)
        for place, factor in constants:
            total = _plus(total, factor * _constant(operator, place, total, context))
        return {operator.outputs[0]: total}

    def evaluate(self, inputs: Sequence[Any], attributes: Attributes) -> Tensor:
        return functools.reduce(torch.add, inputs)


class Sum(_Sum):
    """A sum of maps and constants (Add and Sum)."""

    def fold(self, inputs: Sequence[Any], attributes: Attributes) -> Array:
        return np.asarray(functools.reduce(np.add, inputs))


class Mean(_Sum):
    """A mean of maps and constants."""

    def factor(self, place: int, count: int) -> float:
        return 1 / count

    def evaluate(self, inputs: Sequence[Any], attributes: Attributes) -> Tensor:
        return super().evaluate(inputs, attributes) / len(inputs)


class Sub(_Sum):
    """A difference of two maps, or of a map and a constant."""

    def factor(self, place: int, count: int) -> float:
        return -1.0 if place else 1.0

    def evaluate(self, inputs: Sequence[Any], attributes: Attributes) -> Tensor:
        return inputs[0] - inputs[1]

    def fold(self, inputs: Sequence[Any], attributes: Attributes) -> Array:
        return np.subtract(*inputs)


class _Scale(StencilRule):
    """A multiplication of each channel by a factor."""

    per_element = True

    def macs(self, operator: Operator, written: int, context: Context) -> int:
        return written


class Mul(_Scale):
    """A product of a map and a constant."""

    reads_all = True

    def check(self, operator: Operator, forms: Mapping[str, Form], context: Context) -> None:
        if _ends_gelu(operator, context.graph):
            raise Refusal("it ends a GELU, which runtimes recognize by its five operators")
        super().check(operator, forms, context)

    def forms(self, operator: Operator, forms: Sequence[Form], context: Context) -> dict[str, Form]:
        if len(forms) > 1:
            raise Refusal(f"{operator.kind} of two tensors is not linear")
        return super().forms(operator, forms, context)

    def stencil(self, operator: Operator, form: Form, context: Context) -> Linear:
        place = next(place for place, name in enumerate(operator.inputs) if context.graph.is_constant(name))
        scale = self.factors(operator, place, form, context)
        if not bool(torch.isfinite(scale).all()):
            raise Refusal("a factor that is NaN or infinite")
        return per_channel(scale)

    def factors(self, operator: Operator, place: int, form: Form, context: Context) -> Tensor:
        factor = _constant(operator, place, form, context)
        if factor.shape[1:] != (1, 1):
            raise Refusal("a factor that differs by position")
        return torch.from_numpy(np.broadcast_to(factor.reshape(-1), (form.channels,)).copy())

    def evaluate(self, inputs: Sequence[Any], attributes: Attributes) -> Tensor:
        return inputs[0] * inputs[1]

    def fold(self, inputs: Sequence[Any], attributes: Attributes) -> Array:
        return np.multiply(*inputs)


class Div(Mul):
    """A map divided by a constant."""

    def factors(self, operator: Operator, place: int, form: Form, context: Context) -> Tensor:
        if place == 0:
            raise Refusal("it divides by the map")
        return 1 / super().factors(operator, place, form, context)

    def evaluate(self, inputs: Sequence[Any], attributes: Attributes) -> Tensor:
        return inputs[0] / inputs[1]

    def fold(self, inputs: Sequence[Any], attributes: Attributes) -> Array:
        a, b = inputs
        if a.dtype.kind == "f":
            return np.divide(a, b)
        return np.trunc(a / b).astype(a.dtype) if (a < 0).any() or (b < 0).any() else a // b


class Neg(_Scale):
    """A negation of the map."""

    reads_all = True

    def stencil(self, operator: Operator, form: Form, context: Context) -> Linear:
        return per_channel(torch.full((form.channels,), -1.0, dtype=torch.float64))

    def evaluate(self, inputs: Sequence[Any], attributes: Attributes) -> Tensor:
        return -inputs[0]

    def fold(self, inputs: Sequence[Any], attributes: Attributes) -> Array:
        return np.negative(*inputs)

    def macs(self, operator: Operator, written: int, context: Context) -> int:
        return 0


class BatchNormalization(_Scale):
    """A batch normalization in inference mode."""

    def stencil(self, operator: Operator, form: Form, context: Context) -> Linear:
        return per_channel(*self.scale_shift(operator, form.channels, context))

    @staticmethod
    def scale_shift(operator: Operator, channels: int, context: Context) -> tuple[Tensor, Tensor]:
        """Return the factor and the addend of each channel, both (C,) in float64."""
        if operator.attributes.get("training_mode", 0) or any(operator.outputs[1:]):
            raise Refusal("batch normalization in train mode")
        if operator.attributes.get("spatial", 1) != 1:
            raise Refusal("batch normalization by position")
        gamma, beta, mean, var = (context.tensor(operator, place) for place in range(1, 5))
        parts = (gamma, beta, mean, var)
        if mean is None or var is None or any(part is not None and part.shape != (channels,) for part in parts):
            raise Refusal("its statistics do not fit its input")
        scale, shift = bn_scale_shift(gamma, beta, mean, var, operator.attributes.get("epsilon", 1e-5))
        if not bool(torch.isfinite(scale).all() and torch.isfinite(shift).all()):
            raise Refusal("its statistics give NaN or infinity")
        return scale, shift

    def fold(self, inputs: Sequence[Any], attributes: Attributes) -> Array:
        if attributes.get("training_mode", 0) or attributes.get("spatial", 1) != 1:
            raise NotImplementedError
        tensors = [torch.from_numpy(array.astype(np.float64)) for array in inputs]
        return np.asarray(self.evaluate(tensors, attributes).numpy().astype(inputs[0].dtype))

    def evaluate(self, inputs: Sequence[Any], attributes: Attributes) -> Tensor:
        x, gamma, beta, mean, var = inputs
        return F.batch_norm(x, mean, var, gamma, beta, eps=attributes.get("epsilon", 1e-5))


class _Copy(OperatorRule):
    """A copy of the map."""

    linear = True
    per_element = True

    def forms(self, operator: Operator, forms: Sequence[Form], context: Context) -> dict[str, Form]:
        return {operator.outputs[0]: forms[0]}

    def evaluate(self, inputs: Sequence[Any], attributes: Attributes) -> Tensor:
        return inputs[0]


class Identity(_Copy):
    """A copy of the map (Identity)."""

    def fold(self, inputs: Sequence[Any], attributes: Attributes) -> Array:
        return np.asarray(*inputs)


class Dropout(_Copy):
    """A dropout in inference mode."""

    def forms(self, operator: Operator, forms: Sequence[Form], context: Context) -> dict[str, Form]:
        training = context.array(operator, 2) if operator.input(2) else None
        if training is not None and training.any():
            raise Refusal("dropout in train mode")
        mask = operator.outputs[1] if len(operator.outputs) > 1 else ""
        if mask and (mask in context.graph.readers or mask in context.graph.outputs):
            raise Refusal("the mask of a dropout is read")
        return super().forms(operator, forms, context)


def _plus(form: Form, constant: Array) -> Form:
    """Add a constant (C or 1, H or 1, W or 1) to a form."""
    if form.layout != CANONICAL and constant.size > 1:
        raise Refusal("its axes are transposed")
    by_position = constant.shape[1:] != (1, 1)
    if by_position and form.dynamic:
        raise Refusal("a constant that differs by position while sizes are dynamic")
    if form.bias is None:
        return form
    added = torch.from_numpy(np.ascontiguousarray(constant, np.float64))
    if form.bias.ndim == 1 and not by_position:
        return replace(form, bias=form.bias + added.reshape(-1))
    bias = form.bias if form.bias.ndim == 3 else form.bias[:, None, None]
    return settle(replace(form, bias=(bias + added).expand(form.channels, *form.size)))


def _constant(operator: Operator, place: int, form: Form, context: Context) -> Array:
    """Return a constant operand as an array (C or 1, H or 1, W or 1)."""
    array = context.array(operator, place)
    assert array is not None
    if array.ndim > 4 or any(size != 1 for size in array.shape[: max(array.ndim - 3, 0)]):
        raise Refusal("a constant with its own batch")
    found = array.reshape((1,) * max(3 - array.ndim, 0) + array.shape[max(array.ndim - 3, 0) :])
    limits = (form.channels, *form.size)
    if any(size not in (1, limit) for size, limit in zip(found.shape, limits, strict=True)):
        raise Refusal("a constant that makes the map larger")
    if form.layout != CANONICAL and found.size > 1:
        raise Refusal("its axes are transposed")
    return np.asarray(found, np.float64)


def _ends_gelu(operator: Operator, graph: Graph) -> bool:
    """Return whether a Mul is the last of ``x * (erf(x / sqrt(2)) + 1) * 0.5``.

    Runtimes replace all five operators by one kernel. Merging the last one would prevent this, which costs more than
    the multiplication that it saves.
    """
    half = next((constant for name in operator.inputs if (constant := graph.constant(name)) is not None), None)
    if operator.kind != "Mul" or half is None or half.wide.size != 1 or half.wide.item() != 0.5:
        return False
    return bool(_before(_before(_before([operator], "Mul", graph), "Add", graph), "Erf", graph))


def _before(operators: Sequence[Operator], kind: str, graph: Graph) -> list[Operator]:
    """Return the operators of type `kind` that compute inputs of these operators."""
    names = (name for operator in operators for name in operator.inputs)
    return [found for name in names if (found := graph.producers.get(name)) is not None and found.kind == kind]
