"""Context: the view of the graph that operator rules use."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from irepdeploy.onnx_collapse.form import LARGEST_SIDE, Form, Linear, source_form
from irepdeploy.onnx_collapse.graph import FLOATS, Array, Graph, Operator
from irepdeploy.onnx_collapse.refusal import Refusal

__all__ = ["Context"]


@dataclass
class Context:
    """A graph as operator rules see it.

    Attributes:
        graph: The graph.
        numeric: Whether forms have numbers; for planning they have only a structure.
        structures: Cached structures of linear operators, by index of the operator.
    """

    graph: Graph
    numeric: bool = False
    structures: dict[int, Linear] = field(default_factory=dict)

    def form(self, name: str) -> Form:
        """Return the form of a source, or raise Refusal if it is not a feature map of floats with known sizes."""
        shape, nominal = self.graph.shape(name), self.graph.nominal(name)
        kind = self.graph.shapes.type(name)
        if shape is None or nominal is None or len(shape) != len(nominal):
            raise Refusal(f"the shape of {name!r} is not known")
        if len(shape) != 4:
            raise Refusal(f"{name!r} has {len(shape)} dimensions, not 4")
        if kind not in FLOATS:
            raise Refusal(f"{name!r} is not of float16, float32 or float64")
        if shape[1] is None:
            raise Refusal(f"{name!r} has a dynamic number of channels")
        if not all(0 < size <= LARGEST_SIDE for size in nominal[1:]):
            raise Refusal(f"the sizes of {name!r} are not those of a feature map: {nominal[1:]}")
        dynamic = shape[2] is None or shape[3] is None
        rounding = float(np.finfo(FLOATS[kind]).eps) / 2
        size = (nominal[2], nominal[3])
        return source_form(
            name, nominal[1], size, dynamic=dynamic, numeric=self.numeric, rounding=max(rounding, 2.0**-44)
        )

    def array(self, operator: Operator, place: int) -> Array | None:
        """Return a constant input with floats in float64, or None if it is omitted; raise Refusal if not constant."""
        name = operator.input(place)
        if not name:
            return None
        constant = self.graph.constant(name)
        if constant is None:
            raise Refusal(f"{name!r} is computed at run time")
        return constant.wide

    def weights(self, operator: Operator, place: int) -> Tensor | None:
        """Return a constant input as a tensor, which is float64 unless only its structure matters."""
        constant = None if self.numeric else self.graph.constant(operator.input(place))
        if constant is None or constant.native.dtype.kind != "f":
            return self.tensor(operator, place)
        return torch.from_numpy(np.require(constant.native, requirements=["C", "W"]))

    def tensor(self, operator: Operator, place: int) -> Tensor | None:
        """Return a constant input as a float64 tensor, or None if it is omitted."""
        array = self.array(operator, place)
        return None if array is None else torch.from_numpy(np.ascontiguousarray(array, np.float64))

    def integers(self, operator: Operator, place: int, attribute: str) -> list[int] | None:
        """Return integers that are an attribute in old opsets and an input in new ones, or None if both are absent."""
        if attribute in operator.attributes:
            found = operator.attributes[attribute]
            return [int(item) for item in (found if isinstance(found, list | tuple) else [found])]
        array = self.array(operator, place)
        return None if array is None else [int(item) for item in np.atleast_1d(array)]
