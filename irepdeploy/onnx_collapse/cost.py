"""Cost of operators in MACs and moved elements, and the rule that accepts a replacement.

A moved element counts as ten MACs. On the networks used for tuning, any weight from 0 to 100 gives the same decisions.
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
    """Cost of some operators for one sample.

    Attributes:
        macs: Multiply-accumulates.
        moved: Elements read and written.
        nodes: Number of nodes.
        convs: Number of convolutions among the nodes.
    """

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
        """Total cost, expressed in MACs."""
        return self.macs + _PER_ELEMENT * self.moved

    def accepts(self, after: Cost) -> bool:
        """Return whether operators of cost `after` may replace operators of this cost.

        The total cost and the number of nodes must decrease, and neither convolutions nor MACs may increase: a
        half-empty 2x2 kernel that replaces a crop and two 1x1 kernels moves fewer elements, but is slower if arithmetic
        limits the speed.
        """
        cheaper = after.total < self.total and after.nodes < self.nodes
        return cheaper and after.convs <= self.convs and after.macs <= self.macs


@dataclass(frozen=True)
class Window:
    """One axis of a Conv node.

    Attributes:
        taps: Kernel size.
        before: Padding before the map.
        after: Padding after the map.
        stride: Stride.
        dilation: Dilation.
        first: Offset of the first tap.
    """

    taps: int
    before: int
    after: int
    stride: int
    dilation: int
    first: int

    @property
    def offsets(self) -> tuple[int, ...]:
        """Offsets of all taps."""
        return tuple(self.first + self.dilation * tap for tap in range(self.taps))


def window(axis: Axis, size: int, *, dynamic: bool) -> Window:
    """Return the smallest evenly spaced window that contains the taps of an axis.

    Zero taps are added if the window would otherwise need negative padding.
    """
    first, last = min(axis.offsets[0], 0), axis.offsets[-1]
    dilation = math.gcd(*(offset - first for offset in axis.offsets)) or 1
    outputs = axis.outputs(size)
    while True:
        after = axis.excess + 1 + last if dynamic else (outputs - 1) * axis.stride + last - (size - 1)
        # A window may end before the end of the map if no further output fits.
        if after < 0 and not dynamic and (size - 1 - last) // axis.stride + 1 == outputs:
            after = 0
        if after >= 0:
            return Window((last - first) // dilation + 1, -first, after, axis.stride, dilation, first)
        last += dilation


def form_cost(form: Form) -> Cost:
    """Return the cost of the operators that implement a form."""
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
        taps = _taps(term, form.sizes[name], dynamic=form.dynamic)
        weights = term.channels_out * (term.channels_in // term.groups) * taps
        total += Cost(weights * area, read + elements + weights, 1, 1)
    joined = len(form.terms) - 1
    return total + Cost(0, 3 * elements * joined, joined)


def _taps(term: Stencil, size: tuple[int, int], *, dynamic: bool) -> int:
    axes = (replace(axis, offsets=kept.offsets) for axis, kept in zip(term.axes, term.taps, strict=True))
    return math.prod(window(axis, pixels, dynamic=dynamic).taps for axis, pixels in zip(axes, size, strict=True))


def operator_cost(operator: Operator, context: Context) -> Cost:
    """Return the cost of an operator in the file."""
    read, written = (sum(_elements(name, context) for name in names) for names in (operator.inputs, operator.outputs))
    rule = rule_of(operator.kind)
    return Cost(rule.macs(operator, written, context), read + written, 1, int(rule.convolution))


def _elements(name: str, context: Context) -> int:
    """Return the number of elements in one sample of a tensor, or in a constant."""
    sizes = context.graph.nominal(name) if name else None
    if not sizes:
        return 0
    return math.prod(sizes if context.graph.is_constant(name) else sizes[1:])
