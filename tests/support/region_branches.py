"""Random branches of a linear region, each a convolution whose taps lie within the region's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from support.graph_writer import GraphWriter

Pads = tuple[int, int, int, int]


@dataclass(frozen=True)
class Geometry:
    """The convolution to which the region is equal."""

    channels: int
    out: int
    groups: int
    kernel: tuple[int, int]
    stride: int
    pads: Pads
    size: tuple[int, int]


def random_geometry(rng: np.random.Generator, fault: str | None) -> Geometry:
    groups = int(rng.choice([1, 1, 2])) if fault is None else 1
    channels, out = (groups * int(rng.integers(1, 4)) for _ in range(2))
    kernel = (int(rng.integers(1, 6)), int(rng.integers(1, 6)))
    if rng.random() < 0.5 or fault is not None:
        kernel = (3, 3)
    stride = int(rng.choice([1, 1, 2]))
    pads = tuple(int(p) for p in rng.integers(0, list(kernel) * 2))
    if rng.random() < 0.7 or fault is not None:
        pads = (kernel[0] // 2, kernel[1] // 2, (kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
    if stride == 1 and sum(pads[::2]) == kernel[0] - 1 and sum(pads[1::2]) == kernel[1] - 1 and rng.random() < 0.6:
        out = channels
    size = (int(rng.integers(5, 9)), int(rng.integers(5, 9)))
    assert len(pads) == 4
    return Geometry(channels, out, groups, kernel, stride, pads, size)


class BranchWriter:
    """Writes branches from the region's input to tensors of its output's shape."""

    def __init__(self, graph: GraphWriter, geometry: Geometry, rng: np.random.Generator) -> None:
        self.graph, self.g, self.rng = graph, geometry, rng

    def dense(self, x: str) -> str:
        """Write the convolution whose kernel covers all others."""
        return self.conv(x, self.g.channels, self.g.out, self.g.kernel, (0, 0), 1, fewest=True)

    def branch(self, x: str) -> str:
        """Write a random branch."""
        kinds: list[Callable[[str], str]] = [self._conv, self._squeeze, self._expand, self._average, self._stacked]
        kinds += [self._border, self._joined]
        if self.g.channels == self.g.out and self.g.stride == 1:
            kinds.append(self._identity)
        if self.g.groups == 1 and self.g.channels > 1:
            kinds.append(self._halves)
        return kinds[self.rng.integers(len(kinds))](x)

    def added(self, terms: Sequence[str]) -> str:
        """Write the sum of tensors in one of many ways."""
        if self.rng.random() < 0.2:
            return str(self.graph.node("Sum", terms))
        total = terms[0]
        for term in terms[1:]:
            if self.rng.random() < 0.2:
                total = self.graph.node("Sub", [total, term])
            else:
                total = self.graph.node("Add", [total, term] if self.rng.random() < 0.5 else [term, total])
        return total

    def scaled(self, x: str, channels: int) -> str:
        """Return `x`, or an affine function of each of its channels."""
        rng, graph = self.rng, self.graph
        kind = rng.integers(9)
        shape = (channels, 1, 1) if rng.random() < 0.5 else (1, channels, 1, 1)
        values = rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)
        if kind == 0:
            return self.normalized(x, channels)
        if kind == 1:
            constant = graph.constant(values if rng.random() < 0.7 else values.flat[0])
            return str(graph.node("Mul", [x, constant] if rng.random() < 0.5 else [constant, x]))
        if kind == 2:
            return str(graph.node("Div", [x, graph.constant(values)]))
        if kind == 3:
            return str(graph.node(str(rng.choice(["Add", "Sub"])), [x, graph.constant(values)]))
        if kind == 4:
            return str(graph.node("Sub", [graph.constant(values), x]))
        if kind == 5:
            return str(graph.node(str(rng.choice(["Identity", "Dropout", "Neg"])), [x]))
        return x

    def normalized(self, x: str, channels: int) -> str:
        """Write a batch normalization with random statistics."""
        rng = self.rng
        parts = (rng.uniform(0.5, 1.5, channels), rng.normal(size=channels), rng.normal(size=channels))
        constants = [self.graph.constant(part) for part in (*parts, rng.uniform(0.5, 1.5, channels))]
        return str(self.graph.node("BatchNormalization", [x, *constants], epsilon=float(rng.choice([1e-5, 1e-3]))))

    def conv(
        self,
        x: str,
        channels: int,
        out: int,
        kernel: tuple[int, int],
        at: tuple[int, int],
        dilation: int = 1,
        *,
        bias: bool | None = None,
        stride: int | None = None,
        covers: tuple[int, int] | None = None,
        fewest: bool = False,
        padded: bool = True,
    ) -> str:
        """Write a convolution that reads the region's taps from `at` on, so that its output has the region's size.

        Args:
            covers: Taps of this and the following operators. Default: its own.
            fewest: Use as many groups as the region, and not more.
            padded: Whether the convolution pads; otherwise its input is already padded.
        """
        rng, g = self.rng, self.g
        own = [dilation * (k - 1) + 1 for k in kernel]
        pads = self._pads(at, covers or (own[0], own[1])) if padded else (0, 0, 0, 0)
        x, pads = self._read(x, pads)
        groups = g.groups
        if not fewest and rng.random() < 0.3:
            groups = g.groups * int(np.gcd(channels // g.groups, out // g.groups))
        weight = rng.normal(size=(out, channels // groups, *kernel))
        inputs = [x, self.graph.constant(weight)]
        if bias if bias is not None else rng.random() < 0.5:
            inputs.append(self.graph.constant(rng.normal(size=out)))
        step = g.stride if stride is None else stride
        attributes: dict[str, Any] = {"kernel_shape": list(kernel), "group": groups, "dilations": [dilation] * 2}
        return str(self.graph.node("Conv", inputs, pads=list(pads), strides=[step, step], **attributes))

    def _pads(self, at: tuple[int, int], covers: tuple[int, int]) -> Pads:
        top, left, bottom, right = self.g.pads
        kh, kw = self.g.kernel
        return top - at[0], left - at[1], bottom - (kh - at[0] - covers[0]), right - (kw - at[1] - covers[1])

    def _read(self, x: str, pads: Pads) -> tuple[str, Pads]:
        """Crop `x` where a pad is negative, and occasionally pad it with a node; return it and the remaining pads."""
        graph, rng = self.graph, self.rng
        top, left, bottom, right = (max(p, 0) for p in pads)
        rest = (top, left, bottom, right)
        if min(pads) < 0:
            if rng.random() < 0.5:
                ends = [-max(-p, 0) or 2**31 for p in pads[2:]]
                given = ([max(-pads[0], 0), max(-pads[1], 0)], ends, [2, 3])
                x = graph.node("Slice", [x, *(graph.constant(part, np.int64) for part in given)])
            else:
                x = self.pad_node(x, tuple(min(p, 0) for p in pads))
        if max(rest) > 0 and rng.random() < 0.2:
            x, rest = self.pad_node(x, rest), (0, 0, 0, 0)
        return x, rest

    def pad_node(self, x: str, pads: Sequence[int], mode: str = "constant") -> str:
        """Pad `x`."""
        top, left, bottom, right = pads
        amounts = self.graph.constant([0, 0, top, left, 0, 0, bottom, right], np.int64)
        return str(self.graph.node("Pad", [x, amounts], mode=mode))

    def _part(self) -> tuple[tuple[int, int], tuple[int, int], int]:
        """Return a kernel inside the region's, the place of its first tap, and its dilation."""
        rng, (kh, kw) = self.rng, self.g.kernel
        dilation = 2 if min(kh, kw) >= 3 and rng.random() < 0.4 else 1
        kernel = [int(rng.integers(1, (k - 1) // dilation + 2)) for k in (kh, kw)]
        spans = [dilation * (k - 1) + 1 for k in kernel]
        at = [int(rng.integers(0, k - span + 1)) for k, span in zip((kh, kw), spans, strict=True)]
        return (kernel[0], kernel[1]), (at[0], at[1]), dilation

    def _conv(self, x: str) -> str:
        kernel, at, dilation = self._part()
        return self.scaled(self.conv(x, self.g.channels, self.g.out, kernel, at, dilation), self.g.out)

    def _squeeze(self, x: str) -> str:
        """Write a 1x1 without a bias, which keeps zeros, then a kernel."""
        inner = self.g.groups * int(self.rng.integers(1, 4))
        kernel, at, dilation = self._part()
        x = self.pointwise(x, self.g.channels, inner, bias=False)
        return self.scaled(self.conv(x, inner, self.g.out, kernel, at, dilation), self.g.out)

    def _expand(self, x: str) -> str:
        """Write a kernel, then a 1x1 with any bias."""
        inner = self.g.groups * int(self.rng.integers(1, 4))
        kernel, at, dilation = self._part()
        x = self.scaled(self.conv(x, self.g.channels, inner, kernel, at, dilation), inner)
        return self.scaled(self.pointwise(x, inner, self.g.out), self.g.out)

    def pointwise(self, x: str, channels: int, out: int, *, bias: bool | None = None) -> str:
        """Write a 1x1 convolution of a padded tensor."""
        return self.conv(x, channels, out, (1, 1), (0, 0), bias=bias, stride=1, padded=False)

    def _border(self, x: str) -> str:
        """Write a 1x1 with a bias, padded with its image of zero, then a kernel."""
        inner = self.g.groups * int(self.rng.integers(1, 4))
        kernel, at, dilation = self._part()
        spans = (dilation * (kernel[0] - 1) + 1, dilation * (kernel[1] - 1) + 1)
        pads = self._pads(at, spans)
        if self.rng.random() < 0.4:
            x, pads = self._read(x, pads)
            x = self.pad_node(x, pads)
            x = self.scaled(self.pointwise(x, self.g.channels, inner), inner)
        else:
            x, pads = self._read(x, pads)
            zero = self.rng.normal(size=(1, inner, 1, 1))
            x = self.pointwise(x, self.g.channels, inner, bias=False)
            x = self.graph.node("Add", [x, self.graph.constant(zero)])
            name = self.graph.constant(zero)
            x = self.pad_node(self.graph.node("Sub", [x, name]), pads)
            x = self.graph.node("Add", [x, name])
        return self.conv(x, inner, self.g.out, kernel, at, dilation, padded=False)

    def _stacked(self, x: str) -> str:
        """Write two kernels in a row, all padding before the first."""
        rng, g = self.rng, self.g
        inner = g.groups * int(rng.integers(1, 3))
        first = [int(rng.integers(1, k + 1)) for k in g.kernel]
        step = g.stride if rng.random() < 0.5 else 1
        second = [int(rng.integers(1, (k - a) // step + 2)) for k, a in zip(g.kernel, first, strict=True)]
        covers = (first[0] + step * (second[0] - 1), first[1] + step * (second[1] - 1))
        at = tuple(int(rng.integers(0, k - span + 1)) for k, span in zip(g.kernel, covers, strict=True))
        x = self.conv(x, g.channels, inner, (first[0], first[1]), (at[0], at[1]), stride=step, covers=covers)
        x = self.scaled(x, inner)
        return self.conv(x, inner, g.out, (second[0], second[1]), (0, 0), stride=g.stride // step, padded=False)

    def _average(self, x: str) -> str:
        """Write an average over a part of the kernel, before or after a 1x1 if channels change."""
        kernel, at, _ = self._part()
        # Written without dilation, which old opsets lack.
        span = tuple(min(k, full - a) for k, full, a in zip(kernel, self.g.kernel, at, strict=True))
        before = self.rng.random() < 0.5
        channels = self.g.channels
        if before and self.g.channels != self.g.out:
            x, channels = self.pointwise(x, channels, self.g.out, bias=False), self.g.out
        x, pads = self._read(x, self._pads(at, (span[0], span[1])))
        # ONNX Runtime requires pads smaller than the kernel.
        if any(p >= k for p, k in zip(pads, span * 2, strict=True)):
            x, pads = self.pad_node(x, pads), (0, 0, 0, 0)
        steps = [self.g.stride] * 2
        x = self.graph.node(
            "AveragePool", [x], kernel_shape=list(span), strides=steps, pads=list(pads), count_include_pad=1
        )
        if channels != self.g.out:
            x = self.pointwise(x, channels, self.g.out)
        return self.scaled(x, self.g.out)

    def _identity(self, x: str) -> str:
        """Write the input at one of the kernel's taps."""
        rng, (kh, kw) = self.rng, self.g.kernel
        at = (int(rng.integers(kh)), int(rng.integers(kw)))
        inside = self.g.pads[0] < kh and self.g.pads[1] < kw
        if inside and sum(self.g.pads[::2]) == kh - 1 and sum(self.g.pads[1::2]) == kw - 1 and rng.random() < 0.8:
            at = (self.g.pads[0], self.g.pads[1])
        x, pads = self._read(x, self._pads(at, (1, 1)))
        if max(pads) > 0:
            x = self.pad_node(x, pads)
        x = self.normalized(x, self.g.channels) if rng.random() < 0.5 else x
        return self.scaled(x, self.g.channels)

    def _halves(self, x: str) -> str:
        """Split the channels, convolve each part, and sum or concatenate them."""
        rng, g, graph = self.rng, self.g, self.graph
        first = int(rng.integers(1, g.channels))
        sizes = (first, g.channels - first)
        if rng.random() < 0.5:
            parts = graph.node("Split", [x, graph.constant(sizes, np.int64)], 2, axis=1)
        else:
            bounds = ((0, first), (first, g.channels))
            parts = tuple(
                graph.node("Slice", [x, *(graph.constant([v], np.int64) for v in (low, high, 1))])
                for low, high in bounds
            )
        joined = g.out > 1 and rng.random() < 0.5
        outs = (1, g.out - 1) if joined else (g.out, g.out)
        found = []
        for part, size, out in zip(parts, sizes, outs, strict=True):
            kernel, at, dilation = self._part()
            found.append(self.conv(part, size, out, kernel, at, dilation))
        return str(graph.node("Concat", found, axis=1)) if joined else self.added(found)

    def _joined(self, x: str) -> str:
        """Write two convolutions side by side, concatenated, then a 1x1."""
        g = self.g
        if g.groups > 1:
            return self._conv(x)
        found, widths = [], (1, int(self.rng.integers(1, 3)))
        for width in widths:
            kernel, at, dilation = self._part()
            found.append(self.conv(x, g.channels, width, kernel, at, dilation))
        return self.pointwise(str(self.graph.node("Concat", found, axis=1)), sum(widths), g.out)
