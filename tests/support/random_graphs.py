"""Random ONNX graphs of linear and other operators that share tensors freely, for property tests of any graph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from support.graph_writer import GraphWriter
from support.linear_regions import LinearRegion

_MOST_STEPS = 14


@dataclass(frozen=True)
class _Tensor:
    name: str
    channels: int
    size: tuple[int, int]


def random_graph(seed: int) -> LinearRegion:
    """Return a graph of one input, 4 to 14 operators that read any earlier tensor, and one to three outputs."""
    rng = np.random.default_rng([seed, 2])
    graph = GraphWriter(rng)
    shape = (int(rng.integers(1, 3)), int(rng.integers(1, 5)), int(rng.integers(5, 10)), int(rng.integers(5, 10)))
    writer = _Writer(graph, rng, _Tensor("x", shape[1], shape[2:]))
    for _ in range(rng.integers(4, _MOST_STEPS + 1)):
        writer.step()
    last = writer.tensors[-1]
    others = [tensor for tensor in writer.tensors[1:-1] if rng.random() < 0.1][:2]
    outputs = [graph.node("Identity", [tensor.name]) if rng.random() < 0.2 else tensor.name for tensor in others]
    outputs.append(graph.node("Relu", [last.name]))
    model = graph.model({"x": shape}, list(dict.fromkeys(outputs)), int(rng.choice([13, 17, 20])))
    return LinearRegion(model, {"x": shape})


class _Writer:
    def __init__(self, graph: GraphWriter, rng: np.random.Generator, source: _Tensor) -> None:
        self.graph, self.rng, self.tensors = graph, rng, [source]

    def step(self) -> None:
        """Write one more operator."""
        kinds = [self._conv] * 5 + [self._joined] * 5 + [self._scaled] * 3
        kinds += [self._pooled, self._padded, self._cropped, self._parts, self._positional, self._nonlinear]
        made = kinds[self.rng.integers(len(kinds))](self._chosen())
        self.tensors += [tensor for tensor in made if min(tensor.size) > 0]

    def _chosen(self) -> _Tensor:
        # Later tensors are chosen more often, which gives chains, and branches that rejoin.
        place = int(len(self.tensors) * self.rng.random() ** 0.6)
        return self.tensors[min(place, len(self.tensors) - 1)]

    def _conv(self, x: _Tensor) -> list[_Tensor]:
        rng = self.rng
        kernel = [int(rng.integers(1, min(size, 4) + 1)) for size in x.size]
        if rng.random() < 0.4:
            kernel = [1, 1]
        stride = int(rng.choice([1, 1, 1, 2]))
        pads = [k // 2 for k in kernel] * 2 if rng.random() < 0.6 else [int(rng.integers(0, k)) for k in kernel * 2]
        out = x.channels if rng.random() < 0.5 else int(rng.integers(1, 6))
        groups = int(np.gcd(x.channels, out)) if rng.random() < 0.3 else 1
        inputs = [x.name, self.graph.constant(rng.normal(size=(out, x.channels // groups, *kernel)))]
        if rng.random() < 0.4:
            inputs.append(self.graph.constant(rng.normal(size=out)))
        name = self.graph.node("Conv", inputs, pads=pads, strides=[stride] * 2, group=groups)
        return [_Tensor(name, out, _size(x, kernel, stride, pads))]

    def _joined(self, x: _Tensor) -> list[_Tensor]:
        rng, graph = self.rng, self.graph
        alike = [other for other in self.tensors if (other.channels, other.size) == (x.channels, x.size)]
        beside = [other for other in self.tensors if other.size == x.size]
        if rng.random() < 0.3 and sum(other.channels for other in beside) < 12:
            chosen = [x, beside[rng.integers(len(beside))]]
            name = graph.node("Concat", [tensor.name for tensor in chosen], axis=1)
            return [_Tensor(name, sum(tensor.channels for tensor in chosen), x.size)]
        other = alike[rng.integers(len(alike))]
        kind = str(rng.choice(["Add", "Add", "Add", "Sub", "Sum"]))
        return [_Tensor(graph.node(kind, [x.name, other.name]), x.channels, x.size)]

    def _scaled(self, x: _Tensor) -> list[_Tensor]:
        rng, graph = self.rng, self.graph
        values = rng.uniform(0.5, 1.5, (1, x.channels, 1, 1))
        kind = str(rng.choice(["Mul", "Div", "Add", "Sub", "Identity", "Neg", "BatchNormalization"]))
        if kind in ("Identity", "Neg"):
            return [_Tensor(graph.node(kind, [x.name]), x.channels, x.size)]
        if kind == "BatchNormalization":
            parts = [graph.constant(rng.uniform(0.5, 1.5, x.channels)) for _ in range(4)]
            return [_Tensor(graph.node(kind, [x.name, *parts]), x.channels, x.size)]
        inputs = [x.name, graph.constant(values)]
        return [
            _Tensor(
                graph.node(kind, inputs if kind == "Div" or rng.random() < 0.7 else inputs[::-1]), x.channels, x.size
            )
        ]

    def _pooled(self, x: _Tensor) -> list[_Tensor]:
        rng = self.rng
        kernel = [min(2 + int(rng.integers(2)), size) for size in x.size]
        stride = int(rng.choice([1, 2]))
        pads = [k // 2 for k in kernel] * 2 if rng.random() < 0.4 else [0] * 4
        options: dict[str, Any] = {"kernel_shape": kernel, "strides": [stride] * 2}
        if rng.random() < 0.3:
            name = self.graph.node("MaxPool", [x.name], **options)
            return [_Tensor(name, x.channels, _size(x, kernel, stride, [0] * 4))]
        name = self.graph.node("AveragePool", [x.name], pads=pads, count_include_pad=int(rng.integers(2)), **options)
        return [_Tensor(name, x.channels, _size(x, kernel, stride, pads))]

    def _padded(self, x: _Tensor) -> list[_Tensor]:
        # A negative pad crops, but a map must keep at least one row and column.
        pads = [int(p) for p in self.rng.integers(-1 if min(x.size) > 2 else 0, 3, 4)]
        inputs = [x.name, self.graph.constant([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64)]
        if self.rng.random() < 0.3:
            inputs.append(self.graph.constant(self.rng.normal()))
        name = self.graph.node("Pad", inputs)
        return [_Tensor(name, x.channels, (x.size[0] + pads[0] + pads[2], x.size[1] + pads[1] + pads[3]))]

    def _cropped(self, x: _Tensor) -> list[_Tensor]:
        axis, start = int(self.rng.integers(2)), int(self.rng.integers(2))
        end = x.size[axis] - int(self.rng.integers(2))
        step = int(self.rng.choice([1, 1, 2]))
        parts = ([start], [end], [axis + 2], [step])
        name = self.graph.node("Slice", [x.name, *(self.graph.constant(part, np.int64) for part in parts)])
        size = list(x.size)
        size[axis] = -(-(end - start) // step)
        return [_Tensor(name, x.channels, (size[0], size[1]))]

    def _parts(self, x: _Tensor) -> list[_Tensor]:
        if x.channels < 2:
            return self._scaled(x)
        first = int(self.rng.integers(1, x.channels))
        sizes = (first, x.channels - first)
        names = self.graph.node("Split", [x.name, self.graph.constant(sizes, np.int64)], 2, axis=1)
        return [_Tensor(name, count, x.size) for name, count in zip(names, sizes, strict=True)]

    def _positional(self, x: _Tensor) -> list[_Tensor]:
        constant = self.graph.constant(self.rng.normal(size=(1, x.channels, *x.size)))
        kind = str(self.rng.choice(["Add", "Sub", "Mul"]))
        return [_Tensor(self.graph.node(kind, [x.name, constant]), x.channels, x.size)]

    def _nonlinear(self, x: _Tensor) -> list[_Tensor]:
        if self.rng.random() < 0.2:
            return [_Tensor(self.graph.node("Mul", [x.name, x.name]), x.channels, x.size)]
        return [_Tensor(self.graph.node(str(self.rng.choice(["Relu", "Sigmoid"])), [x.name]), x.channels, x.size)]


def _size(x: _Tensor, kernel: list[int], stride: int, pads: list[int]) -> tuple[int, int]:
    height, width = (
        (size + pads[axis] + pads[axis + 2] - kernel[axis]) // stride + 1 for axis, size in enumerate(x.size)
    )
    return height, width
