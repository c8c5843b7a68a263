"""Rules of operators over channels: Concat, Split and Slice along them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from irepdeploy.onnx_collapse import stencil as stencils
from irepdeploy.onnx_collapse.context import Context
from irepdeploy.onnx_collapse.form import CANONICAL, Form
from irepdeploy.onnx_collapse.graph import Operator
from irepdeploy.onnx_collapse.refusal import NO_LOSS, Refusal
from irepdeploy.onnx_collapse.window_rules import slice_ranges

__all__ = ["channel_slice", "concat", "cuts_channels", "split"]


def concat(operator: Operator, forms: Sequence[Form], context: Context) -> Form:
    """Outputs of one source behind each other.

    Raises:
        Refusal: along another axis; several sources; strides or sizes differ.
    """
    if operator.attributes["axis"] % 4 != 1:
        raise Refusal("it does not concatenate channels")
    first = forms[0]
    for name, form in zip(operator.inputs, forms, strict=True):
        if len(form.terms) != 1 or list(form.terms) != list(first.terms):
            raise Refusal(NO_LOSS)
        if form.size != first.size or form.layout != CANONICAL:
            raise Refusal("sizes differ in a concatenation", [name])
        for one, two in zip(_term(first).axes, _term(form).axes, strict=True):
            if one.stride != two.stride or (form.free and one.excess != two.excess):
                raise Refusal("strides or paddings differ in a concatenation", [name])
    term = stencils.stack([_term(form) for form in forms])
    bias = None
    if first.bias is not None:
        parts = [form.bias for form in forms if form.bias is not None]
        if any(part.ndim == 3 for part in parts):
            parts = [part if part.ndim == 3 else part[:, None, None].expand(-1, *first.size) for part in parts]
        bias = torch.cat(parts)
    return replace(
        first, terms=dict.fromkeys(first.terms, term), channels=term.channels_out, bias=bias,
        residue=max(form.residue for form in forms),
    )  # fmt: skip


def _term(form: Form) -> stencils.Stencil:
    return next(iter(form.terms.values()))


def cuts_channels(operator: Operator, context: Context) -> bool:
    """Whether a Slice is along channels only.

    Raises:
        Refusal: along channels and other axes at once; or its ranges are computed at run time.
    """
    axes = {axis for axis, *_ in slice_ranges(operator, context)}
    if 1 in axes and len(axes) > 1:
        raise Refusal("it cuts channels and other axes at once")
    return axes == {1}


def channel_slice(operator: Operator, form: Form, context: Context) -> Form:
    """A Slice along channels."""
    channels = range(form.channels)
    for _, start, end, step in slice_ranges(operator, context):
        channels = channels[start:end:step]
    return _select(form, channels)


def split(operator: Operator, form: Form, context: Context) -> dict[str, Form]:
    """A Split along channels.

    Raises:
        Refusal: along another axis; the parts are not known.
    """
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


def _select(form: Form, channels: range) -> Form:
    if not len(channels):
        raise Refusal("its result is empty")
    if form.layout != CANONICAL:
        raise Refusal("its axes are transposed")
    terms = {name: stencils.select(term, channels) for name, term in form.terms.items()}
    bias = None if form.bias is None else form.bias[list(channels)]
    return replace(form, terms=terms, channels=len(channels), bias=bias)
