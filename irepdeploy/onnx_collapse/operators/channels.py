"""Operators that concatenate, cut or reorder axes: Concat, Slice, Split and Transpose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from irepdeploy.onnx_collapse import stencil as stencils
from irepdeploy.onnx_collapse.context import Context
from irepdeploy.onnx_collapse.form import CANONICAL, Form, Linear, as_map
from irepdeploy.onnx_collapse.graph import Array, Operator
from irepdeploy.onnx_collapse.operators.rule import Attributes, OperatorRule, StencilRule, integers
from irepdeploy.onnx_collapse.refusal import NO_LOSS, Refusal
from irepdeploy.onnx_collapse.stencil import Axis

__all__ = ["Concat", "Slice", "Split", "Transpose"]


class Concat(OperatorRule):
    """A concatenation of channels, which is linear if all parts have the same single source."""

    linear = True
    reads_all = True

    def check(self, operator: Operator, forms: Mapping[str, Form], context: Context) -> None:
        """Check only the axis, since whether the parts have the same source depends on the region."""
        if not forms:
            raise Refusal("it is computed at run time")
        if operator.attributes.get("axis", 0) % 4 != 1:
            raise Refusal("it does not concatenate channels")

    def forms(self, operator: Operator, forms: Sequence[Form], context: Context) -> dict[str, Form]:
        if len(forms) != len(operator.inputs):
            raise Refusal("it concatenates constants")
        if operator.attributes["axis"] % 4 != 1:
            raise Refusal("it does not concatenate channels")
        first = forms[0]
        parts: list[stencils.Stencil] = []
        for name, form in zip(operator.inputs, forms, strict=True):
            if len(form.terms) != 1 or list(form.terms) != list(first.terms):
                raise Refusal(NO_LOSS)
            if form.size != first.size or form.layout != CANONICAL:
                raise Refusal("sizes differ in a concatenation", [name])
            parts += form.terms.values()
            for one, two in zip(parts[0].axes, parts[-1].axes, strict=True):
                if one.stride != two.stride or (form.dynamic and one.excess != two.excess):
                    raise Refusal("strides or paddings differ in a concatenation", [name])
        term = stencils.stack(parts)
        bias = None
        if first.bias is not None:
            biases = [form.bias for form in forms if form.bias is not None]
            if any(item.ndim == 3 for item in biases):
                biases = [as_map(item, first.size) for item in biases]
            bias = torch.cat(biases)
        joined = replace(
            first, terms=dict.fromkeys(first.terms, term), channels=term.channels_out, bias=bias,
            residue=max(form.residue for form in forms),
        )  # fmt: skip
        return {operator.outputs[0]: joined}

    def evaluate(self, inputs: Sequence[Any], attributes: Attributes) -> Tensor:
        return torch.cat(list(inputs), attributes["axis"])

    def fold(self, inputs: Sequence[Any], attributes: Attributes) -> Array:
        return np.concatenate(inputs, axis=attributes["axis"])


class Slice(StencilRule):
    """A cut with constant ranges, of channels or of height and width."""

    positional = True
    selects = True

    def forms(self, operator: Operator, forms: Sequence[Form], context: Context) -> dict[str, Form]:
        ranges = _ranges(operator, context)
        axes = {axis for axis, *_ in ranges}
        if 1 not in axes:
            return super().forms(operator, forms, context)
        if len(axes) > 1:
            raise Refusal("it cuts channels and other axes at once")
        channels = range(forms[0].channels)
        for _, start, end, step in ranges:
            channels = channels[start:end:step]
        return {operator.outputs[0]: _select(forms[0], channels)}

    def stencil(self, operator: Operator, form: Form, context: Context) -> Linear:
        axes = [Axis((0,)), Axis((0,))]
        for axis, start, end, step in _ranges(operator, context):
            if axis < 2 or step < 1:
                raise Refusal("it reverses the map, or cuts the batch")
            size = form.size[axis - 2]
            if form.dynamic and (start < 0 or (0 <= end < 1 << 31)):
                raise Refusal("it cuts at a place that depends on a dynamic size")
            first = min(max(start + size if start < 0 else start, 0), size)
            last = min(max(end + size if end < 0 else end, 0), size)
            # (size + excess) // step + 1 = ceil((last - first) / step)
            axes[axis - 2] = Axis((first,), step, last - first - 1 - size)
        return Linear(stencils.moved(form.channels, *axes))

    def evaluate(self, inputs: Sequence[Any], attributes: Attributes) -> Tensor:
        """Select by index, since Python clips slices in the same way as ONNX."""
        x = inputs[0]
        starts, ends = integers(inputs, 1, attributes, "starts") or [], integers(inputs, 2, attributes, "ends") or []
        axes = integers(inputs, 3, attributes, "axes") or range(len(starts))
        steps = integers(inputs, 4, attributes, "steps") or [1] * len(starts)
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            chosen = range(*slice(start, end, step).indices(x.shape[axis]))
            x = x.index_select(axis, torch.tensor(list(chosen), dtype=torch.int64))
        return x

    def fold(self, inputs: Sequence[Any], attributes: Attributes) -> Array:
        data = inputs[0]
        names = ("starts", "ends", "axes", "steps")
        starts, ends, axes, steps = (integers(inputs, place, attributes, name) for place, name in enumerate(names, 1))
        if starts is None or ends is None:
            raise ValueError("a Slice without ranges")
        axes, steps = axes or list(range(len(starts))), steps or [1] * len(starts)
        cut = [slice(None)] * data.ndim
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            size = data.shape[axis]
            start, end = (place + size if place < 0 else place for place in (start, end))
            if step < 0:
                # numpy would count a negative end from the other side.
                cut[axis] = slice(max(min(start, size - 1), 0), end if end >= 0 else None, step)
            else:
                cut[axis] = slice(max(start, 0), max(min(end, size), 0), step)
        return np.asarray(data[tuple(cut)])


class Split(OperatorRule):
    """A split of channels into constant parts."""

    linear = True

    def forms(self, operator: Operator, forms: Sequence[Form], context: Context) -> dict[str, Form]:
        (form,) = forms
        if operator.attributes.get("axis", 0) % 4 != 1:
            raise Refusal("it does not split channels")
        sizes = context.integers(operator, 1, "split")
        if sizes is None:
            count = operator.attributes.get("num_outputs", len(operator.outputs))
            whole = -(-form.channels // count)
            sizes = [min(whole, form.channels - whole * place) for place in range(count)]
        if sum(sizes) != form.channels or len(sizes) != len(operator.outputs):
            raise Refusal("its parts do not add up to its input")
        found, start = {}, 0
        for name, size in zip(operator.outputs, sizes, strict=True):
            if name:
                found[name] = _select(form, range(start, start + size))
            start += size
        return found

    def evaluate(self, inputs: Sequence[Any], attributes: Attributes) -> tuple[Tensor, ...]:
        axis = attributes.get("axis", 0)
        sizes = integers(inputs, 1, attributes, "split")
        return inputs[0].split(-(-inputs[0].shape[axis] // attributes["outputs"]) if sizes is None else sizes, axis)


class Transpose(OperatorRule):
    """A transposition, as around a scatter; only the order of the axes is recorded."""

    linear = True
    moves = True

    def forms(self, operator: Operator, forms: Sequence[Form], context: Context) -> dict[str, Form]:
        order = operator.attributes.get("perm") or [3, 2, 1, 0]
        return {operator.outputs[0]: replace(forms[0], layout=tuple(forms[0].layout[axis] for axis in order))}

    def evaluate(self, inputs: Sequence[Any], attributes: Attributes) -> Tensor:
        return inputs[0].permute(attributes.get("perm") or (3, 2, 1, 0))

    def fold(self, inputs: Sequence[Any], attributes: Attributes) -> Array:
        return np.transpose(inputs[0], attributes.get("perm"))


def _ranges(operator: Operator, context: Context) -> list[tuple[int, int, int, int]]:
    """Return (axis, start, end, step) for each range of a Slice."""
    starts, ends = context.integers(operator, 1, "starts"), context.integers(operator, 2, "ends")
    if starts is None or ends is None:
        raise Refusal("its ranges are not known")
    axes, steps = context.integers(operator, 3, "axes"), context.integers(operator, 4, "steps")
    axes = list(range(len(starts))) if axes is None else [axis % 4 for axis in axes]
    return list(zip(axes, starts, ends, steps or [1] * len(starts), strict=True))


def _select(form: Form, channels: range) -> Form:
    if not len(channels):
        raise Refusal("its result is empty")
    if form.layout != CANONICAL:
        raise Refusal("its axes are transposed")
    terms = {name: stencils.select(term, channels) for name, term in form.terms.items()}
    bias = None if form.bias is None else form.bias[list(channels)]
    return replace(form, terms=terms, channels=len(channels), bias=bias)
