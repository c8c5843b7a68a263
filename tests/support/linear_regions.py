"""Random ONNX graphs whose linear part is one convolution by construction, or has one fault.

A region is a sum of branches and a dense convolution whose kernel covers them all, so that a single convolution always
costs less. It ends with a Relu.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from support.graph_writer import Free, GraphWriter
from support.region_branches import BranchWriter, random_geometry

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class LinearRegion:
    """A graph with one region.

    Attributes:
        inputs: Shape of each input.
        fault: Name of the fault; None if the region is one convolution and a Relu.
    """

    model: onnx.ModelProto
    inputs: dict[str, tuple[int, ...]]
    fault: str | None = None

    def feeds(self, seed: int = 0) -> dict[str, Array]:
        """Return standard normal inputs."""
        rng = np.random.default_rng(seed)
        return {name: rng.standard_normal(shape) for name, shape in self.inputs.items()}


def linear_region(seed: int) -> LinearRegion:
    """Return a region that is one convolution."""
    return _region(seed, None)


def faulty_region(seed: int, fault: str) -> LinearRegion:
    """Return a region with one of `FAULTS`."""
    return _region(seed, fault)


def _region(seed: int, fault: str | None) -> LinearRegion:
    rng = np.random.default_rng([seed, 0 if fault is None else 1 + list(FAULTS).index(fault)])
    geometry = random_geometry(rng, fault)
    graph = GraphWriter(rng)
    writer = BranchWriter(graph, geometry, rng)
    terms = [writer.dense("x")]
    terms += [writer.branch("x") for _ in range(rng.choice([1, 1, 1, 2, 3] if fault is None else [0, 1, 1, 2]))]
    batch = int(rng.integers(1, 3))
    inputs: dict[str, tuple[int, ...]] = {"x": (batch, geometry.channels, *geometry.size)}
    outputs: list[str] = []
    if fault is not None:
        terms.append(FAULTS[fault](_Site(writer, terms, inputs, outputs)))
    rng.shuffle(terms)
    y = writer.scaled(writer.added(terms), geometry.out)
    outputs.insert(0, graph.node("Relu", [y]))
    shapes: dict[str, Sequence[Free]] = {name: list(shape) for name, shape in inputs.items()}
    if rng.random() < 0.2:
        shapes["x"] = ["N", *inputs["x"][1:]]
    model = graph.model(shapes, outputs, int(rng.choice([13, 17, 20])))
    return LinearRegion(model, inputs, fault)


@dataclass
class _Site:
    """A region into which a fault is written: its branches, inputs and outputs so far."""

    writer: BranchWriter
    terms: list[str]
    inputs: dict[str, tuple[int, ...]]
    outputs: list[str]


def _relu_inside(site: _Site) -> str:
    writer = site.writer
    x = writer.graph.node("Relu", [writer.pointwise("x", writer.g.channels, 2)])
    return writer.conv(x, 2, writer.g.out, (3, 3), (0, 0))


def _padding_not_counted(site: _Site) -> str:
    writer = site.writer
    x = writer.pointwise("x", writer.g.channels, writer.g.out, bias=False)
    steps = [writer.g.stride] * 2
    return str(writer.graph.node("AveragePool", [x], kernel_shape=[3, 3], strides=steps, pads=[1, 1, 1, 1]))


def _bias_before_padding(site: _Site) -> str:
    writer = site.writer
    x = writer.normalized(writer.pointwise("x", writer.g.channels, 2), 2)
    return writer.conv(x, 2, writer.g.out, (3, 3), (0, 0))


def _cut_then_padded(site: _Site) -> str:
    writer = site.writer
    # The 3x3 in the middle loses the values that its padding would have read.
    x = writer.conv("x", writer.g.channels, 2, (2, 2), (0, 0), stride=1, padded=False, bias=False)
    return writer.conv(x, 2, writer.g.out, (2, 2), (0, 0), covers=(3, 3), bias=False)


def _read_elsewhere(site: _Site) -> str:
    writer = site.writer
    x = writer.pointwise("x", writer.g.channels, 2, bias=False)
    site.outputs.append(x if writer.rng.random() < 0.5 else writer.graph.node("Relu", [x]))
    return writer.conv(x, 2, writer.g.out, (3, 3), (0, 0))


def _computed_weights(site: _Site) -> str:
    writer = site.writer
    site.inputs["w"] = (writer.g.out, writer.g.channels, 3, 3)
    steps = [writer.g.stride] * 2
    return str(writer.graph.node("Conv", ["x", "w"], pads=list(writer.g.pads), strides=steps))


def _reflected(site: _Site) -> str:
    writer = site.writer
    x = writer.pad_node("x", (1, 1, 1, 1), "reflect")
    return writer.conv(x, writer.g.channels, writer.g.out, (3, 3), (0, 0), padded=False)


def _product(site: _Site) -> str:
    return str(site.writer.graph.node("Mul", [site.terms[0], site.terms[-1]]))


FAULTS: dict[str, Callable[[_Site], str]] = {
    "relu inside": _relu_inside,
    "padding not counted": _padding_not_counted,
    "bias before padding": _bias_before_padding,
    "cut, then padded": _cut_then_padded,
    "read elsewhere": _read_elsewhere,
    "computed weights": _computed_weights,
    "reflected": _reflected,
    "product": _product,
}
