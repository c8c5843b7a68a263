"""Forms: a tensor as an affine function of its sources, with one stencil for each source and a bias.

A bias is a vector (C,) if it is the same at every position, else a map (C, H, W), which results from zero padding after
a bias. Forms have numbers (`numeric`) or only a structure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from irepdeploy.onnx_collapse import stencil as stencils
from irepdeploy.onnx_collapse.refusal import Refusal
from irepdeploy.onnx_collapse.stencil import Axis, Stencil

__all__ = [
    "CANONICAL", "LARGEST_SIDE", "UNIFORM", "Form", "Linear", "apply", "as_map", "convolve", "per_channel", "settle",
    "source_form", "sum_forms",
]  # fmt: skip

CANONICAL = (0, 1, 2, 3)
# A bias map is uniform if it varies by at most this many rounding errors of its largest value in the file's float type.
UNIFORM = 16
# Largest height or width; a larger one is considered damage.
LARGEST_SIDE = 1 << 16


@dataclass(frozen=True)
class Linear:
    """An operator on one map, ``y = stencil(x) + bias``, which reads `fill` outside of x."""

    stencil: Stencil
    bias: Tensor | None = None
    fill: float = 0.0


@dataclass(frozen=True)
class Form:
    """A tensor as an affine function of its sources.

    Attributes:
        terms: Stencil of each source.
        channels: Number of channels C.
        size: (H, W), which are nominal if `dynamic`.
        bias: Bias (C,) or (C, H, W) in float64, or None if the form has only a structure.
        dynamic: Whether height or width are dynamic, so that nothing may depend on the position.
        sizes: (H, W) of each source.
        layout: Order of the axes (N, C, H, W) in the tensor.
        rounding: Relative rounding error of the file's float type.
        residue: Relative error of border constants that were treated as the bias.
    """

    terms: Mapping[str, Stencil]
    channels: int
    size: tuple[int, int]
    bias: Tensor | None
    dynamic: bool
    sizes: Mapping[str, tuple[int, int]]
    layout: tuple[int, ...] = CANONICAL
    rounding: float = 2.0**-24
    residue: float = field(default=0.0)

    @property
    def uniform(self) -> bool:
        """Whether the bias is the same at every position."""
        return self.bias is None or self.bias.ndim == 1


def source_form(
    name: str, channels: int, size: tuple[int, int], *, dynamic: bool, numeric: bool, rounding: float
) -> Form:
    """Return the form of a tensor that is its own source."""
    bias = torch.zeros(channels, dtype=torch.float64) if numeric else None
    term = stencils.identity(channels, numeric=numeric)
    return Form({name: term}, channels, size, bias, dynamic, {name: size}, rounding=rounding)


def per_channel(scale: Tensor, bias: Tensor | None = None) -> Linear:
    """Return the operator ``scale * x + bias`` on each channel; scale and bias are (C,)."""
    channels, point = len(scale), Axis((0,))
    kernel = scale.reshape(channels, 1, 1, 1).contiguous()
    return Linear(Stencil(channels, channels, channels, point, point, np.ones((1, 1), bool), kernel), bias)


def apply(linear: Linear, form: Form) -> Form:
    """Return the form of `linear` applied to `form`, or raise Refusal if it is not exact."""
    second = linear.stencil
    if form.layout != CANONICAL:
        raise Refusal("its axes are transposed")
    size = second.size(form.size)
    if min(size) < 1:
        raise Refusal("its result is empty")
    if max(size) > LARGEST_SIDE:
        raise Refusal(f"its result is {max(size):,} pixels wide")
    for name, first in form.terms.items():
        if not first.unit and not second.per_element:
            for one, two, outer, inner in zip(first.taps, second.taps, form.sizes[name], form.size, strict=True):
                if _reaches_over(one, two, outer, inner, dynamic=form.dynamic):
                    raise Refusal("the next operator pads with zeros where it is not zero")
    terms = {name: stencils.chain(first, second) for name, first in form.terms.items()}
    bias = form.bias
    if bias is not None:
        bias = _through(linear, bias, form)
    found = replace(form, terms=terms, channels=second.channels_out, size=size, bias=bias)
    return settle(found)


def _reaches_over(first: Axis, second: Axis, size: int, inner: int, *, dynamic: bool) -> bool:
    """Return whether `second` reads a position outside the inner map at which `first` still reads its source.

    The inner map is padded with zeros at such a position, while the merged stencil would not be zero.
    """
    if dynamic:
        low = any(place * first.stride + first.offsets[-1] >= 0 for place in range(second.offsets[0], 0))
        beyond = second.excess + second.offsets[-1] >= 0
        return low or (beyond and first.excess + 1 + first.offsets[0] < 0)
    places = second.reads(inner)
    if not len(places):
        return False
    seen = places[:, None] * first.stride + np.asarray(first.offsets)
    return bool(((seen >= 0) & (seen < size)).any())


def _through(linear: Linear, bias: Tensor, form: Form) -> Tensor:
    """Return the bias after an operator, which becomes a map only if the operator pads with another value."""
    second = linear.stencil
    assert second.kernel is not None
    outside = any(
        axis.may_read_outside() if form.dynamic else len(axis.reads(size)) > 0
        for axis, size in zip(second.axes, form.size, strict=True)
    )
    if outside and (bias.ndim == 3 or bool((bias != linear.fill).any())):
        if form.dynamic and (second.rows.stride > 1 or second.columns.stride > 1):
            raise Refusal("a bias before zero padding and a stride, which depends on dynamic sizes")
        found = convolve(second, as_map(bias, form.size)[None], fill=linear.fill)[0]
    elif bias.ndim == 3:
        found = convolve(second, bias[None])[0]
    elif not bool(bias.any()):
        found = bias.new_zeros(second.channels_out)
    else:
        sums = second.kernel.sum((2, 3))
        found = (sums.reshape(second.groups, -1, sums.shape[1]) @ bias.reshape(second.groups, -1, 1)).reshape(-1)
    if linear.bias is not None:
        found = found + (linear.bias if found.ndim == 1 else linear.bias[:, None, None])
    return found


def as_map(bias: Tensor, size: tuple[int, int]) -> Tensor:
    """Return a bias as a map (C, H, W)."""
    return bias if bias.ndim == 3 else bias[:, None, None].expand(-1, *size)


def sum_forms(forms: Sequence[Form], names: Sequence[str]) -> Form:
    """Return the sum of forms, or raise Refusal with the name of a form that does not fit."""
    total = forms[0]
    for name, form in zip(names[1:], forms[1:], strict=True):
        if (form.channels, form.size, form.layout) != (total.channels, total.size, total.layout):
            raise Refusal("sizes differ in a sum", [name])
        terms = dict(total.terms)
        for source, term in form.terms.items():
            if source not in terms:
                terms[source] = term
                continue
            for one, two in zip(terms[source].axes, term.axes, strict=True):
                if one.stride != two.stride:
                    raise Refusal(f"strides differ in a sum: {one.stride} and {two.stride}", [name])
                if form.dynamic and one.excess != two.excess:
                    raise Refusal("paddings differ in a sum", [name])
            terms[source] = stencils.add(terms[source], term)
        bias = None
        if total.bias is not None and form.bias is not None:
            same = total.bias.ndim == form.bias.ndim
            bias = total.bias + form.bias if same else as_map(total.bias, total.size) + as_map(form.bias, form.size)
        total = replace(
            total, terms=terms, bias=bias, dynamic=total.dynamic or form.dynamic, sizes={**total.sizes, **form.sizes},
            residue=max(total.residue, form.residue), rounding=max(total.rounding, form.rounding),
        )  # fmt: skip
    return settle(total)


def settle(form: Form) -> Form:
    """Replace a bias map that is uniform up to the rounding of the file's constants by its value in the middle.

    The variation is recorded as the residue.
    """
    if form.bias is None or form.bias.ndim == 1:
        return form
    height, width = form.bias.shape[1:]
    middle = form.bias[:, height // 2, width // 2].clone()
    largest = float(form.bias.abs().max())
    varied = float((form.bias - middle[:, None, None]).abs().max())
    if varied > UNIFORM * form.rounding * largest:
        return form
    return replace(form, bias=middle, residue=max(form.residue, varied / largest if largest else 0.0))


def convolve(stencil: Stencil, x: Tensor, fill: float = 0.0) -> Tensor:
    """Apply a stencil whose taps are evenly spaced to maps (N, C, H, W)."""
    assert stencil.kernel is not None
    size = stencil.size((x.shape[2], x.shape[3]))
    pads, dilation = [], []
    for axis, before, after in zip(stencil.axes, x.shape[2:], size, strict=True):
        last = (after - 1) * axis.stride + axis.offsets[-1]
        pads.append((-axis.offsets[0], last - (before - 1)))
        dilation.append(axis.offsets[1] - axis.offsets[0] if len(axis.offsets) > 1 else 1)
    x = F.pad(x, (*pads[1], *pads[0]), value=fill)
    strides = (stencil.rows.stride, stencil.columns.stride)
    if stencil.per_channel:
        return _per_channel(stencil.kernel, x, strides, dilation, size)
    return F.conv2d(x, stencil.kernel, stride=strides, dilation=tuple(dilation), groups=stencil.groups)


def _per_channel(
    kernel: Tensor, x: Tensor, strides: Sequence[int], dilation: Sequence[int], size: Sequence[int]
) -> Tensor:
    """Convolve tap by tap, because torch's float64 convolution processes one channel after the other."""
    found = x.new_zeros(*x.shape[:2], *size)
    spans = [(count - 1) * stride + 1 for count, stride in zip(size, strides, strict=True)]
    for a in range(kernel.shape[2]):
        for b in range(kernel.shape[3]):
            top, left = a * dilation[0], b * dilation[1]
            part = x[:, :, top : top + spans[0] : strides[0], left : left + spans[1] : strides[1]]
            found.addcmul_(kernel[:, 0, a, b, None, None], part)
    return found
