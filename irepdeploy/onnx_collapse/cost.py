"""Cost: what operators take, in MACs and in elements moved, and the rule by which a region is accepted.

An element moved counts as ten MACs; between 0 and 100 the decisions on the networks that this was tuned on do not
change.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from irepdeploy.onnx_collapse.context import Context
from irepdeploy.onnx_collapse.form import Form
from irepdeploy.onnx_collapse.graph import Operator
from irepdeploy.onnx_collapse.operators import rule_of
from irepdeploy.onnx_collapse.stencil import Axis, Stencil

__all__ = ["Cost", "Window", "form_cost", "operator_cost", "window"]

_PER_ELEMENT = 10


@dataclass(frozen=True)
class Cost:
    """Of some operators."""

    macs: int = 0
    moved: int = 0
    nodes: int = 0
    convs: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.macs + other.macs, self.moved + other.moved, self.nodes + other.nodes, self.convs + other.convs
        )

    @property
    def total(self) -> int:
        """In MACs."""
        return self.macs + _PER_ELEMENT * self.moved

    def accepts(self, after: Cost) -> bool:
        """Whether `after` may stand in this one's place.

        Cost and nodes must fall, and neither convolutions nor MACs rise: a half-empty 2x2 kernel in the place of a
        crop and two 1x1 ones moves less, yet where arithmetic is what takes the time it takes longer.
        """
        cheaper = after.total < self.total and after.nodes < self.nodes
        return cheaper and after.convs <= self.convs and after.macs <= self.macs


@dataclass(frozen=True)
class Window:
    """One axis of a Conv node."""

    taps: int
    before: int
    after: int
    stride: int
    dilation: int
    first: int

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where the taps lie."""
        return tuple(self.first + self.dilation * tap for tap in range(self.taps))


def window(axis: Axis, size: int, *, free: bool) -> Window:
    """The smallest evenly spaced window that holds the taps of `axis`; zero taps are added where it crops."""
    first, last = min(axis.offsets[0], 0), axis.offsets[-1]
    dilation = math.gcd(*(offset - first for offset in axis.offsets)) or 1
    outputs = axis.outputs(size)
    while True:
        after = axis.excess + 1 + last if free else (outputs - 1) * axis.stride + last - (size - 1)
        # A window that ends before the map does may, as long as no further output would fit.
        if after < 0 and not free and (size - 1 - last) // axis.stride + 1 == outputs:
            after = 0
        if after >= 0:
            return Window((last - first) // dilation + 1, -first, after, axis.stride, dilation, first)
        last += dilation


def form_cost(form: Form) -> Cost:
    """Of the operators that a form is written as."""
    total = Cost()
    area = math.prod(form.size)
    elements = form.channels * area
    for name, term in form.terms.items():
        if term.unit:
            continue
        if term.per_element:
            total += Cost(elements, 2 * elements, 1)
            continue
        read = term.channels_in * math.prod(form.sizes[name])
        taps = _taps(term, form.sizes[name], free=form.free)
        weights = term.channels_out * (term.channels_in // term.groups) * taps
        total += Cost(weights * area, read + elements + weights, 1, 1)
    joined = len(form.terms) - 1
    return total + Cost(0, 3 * elements * joined, joined)


def _taps(term: Stencil, size: tuple[int, int], *, free: bool) -> int:
    axes = (replace(axis, offsets=kept.offsets) for axis, kept in zip(term.axes, term.taps(), strict=True))
    return math.prod(window(axis, pixels, free=free).taps for axis, pixels in zip(axes, size, strict=True))


def operator_cost(operator: Operator, context: Context) -> Cost:
    """Of an operator as it stands in the file."""
    read, written = (sum(_elements(name, context) for name in names) for names in (operator.inputs, operator.outputs))
    rule = rule_of(operator.kind)
    return Cost(rule.macs(operator, written, context), read + written, 1, int(rule.convolution))


def _elements(name: str, context: Context) -> int:
    """Of one sample; of a constant all."""
    sizes = context.graph.nominal(name) if name else None
    if not sizes:
        return 0
    return math.prod(sizes if context.graph.is_constant(name) else sizes[1:])
