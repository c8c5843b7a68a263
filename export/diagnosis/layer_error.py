"""Find the first of many tensors beyond a tolerance, with a bounded number of them in memory.

The error of a tensor is ``max|a - b| / max|a|`` over all inputs, where a is the reference. Values that are not finite
exceed any tolerance; tensors that are zero in both forms are within.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx

from irepdeploy.onnx_graph.shapes import tensor_types
from irepdeploy.reparam.comparator import Tolerance

from ..precision.inference import free_batch, samples_in

__all__ = ["Add", "LayerError", "Place", "first_beyond"]

Array = np.ndarray[Any, Any]

# Largest number of tensor elements of one model in memory at a time.
_HELD = 2**24


@dataclass(frozen=True)
class LayerError:
    """The first layer that differs: its node, its output, and max|a - b| / max|a|, which may be NaN or infinite."""

    layer: str
    tensor: str
    error: float


class Place(NamedTuple):
    """A tensor of both models: its layer, and its name in the reference and in the result."""

    layer: str
    reference: str
    tensor: str


Add = Callable[[Place, Array, Array], None]


def first_beyond(
    places: Sequence[Place],
    model: onnx.ModelProto,
    inputs: Mapping[str, Array],
    run: Callable[[Sequence[Place], Add], None],
    tolerance: Tolerance,
) -> LayerError | None:
    """Find the first of some places, in order, whose error exceeds a tolerance.

    `run` runs both models and calls back with both forms of each requested tensor; `model` is the result, used for the
    sizes of its tensors.
    """
    sizes = _sizes(model, min(free_batch(inputs), samples_in(inputs)))
    for portion in _portions(places, sizes):
        found = {place: _Difference() for place in portion}
        run(portion, lambda place, a, b, found=found: found[place].add(a, b))  # type: ignore[misc]  # mypy infers no default
        for place, difference in found.items():
            if not difference.within(tolerance):
                return LayerError(place.layer, place.reference, difference.error)
    return None


class _Difference:
    """The difference of two tensors, accumulated over batches."""

    def __init__(self) -> None:
        self.largest, self.scale = 0.0, 0.0
        self.products = np.zeros(3)

    def add(self, a: Array, b: Array) -> None:
        if a.shape != b.shape or a.size == 0:
            return
        x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        with np.errstate(invalid="ignore"):
            self.largest = np.maximum(self.largest, np.abs(x - y).max())
            self.scale = np.maximum(self.scale, np.abs(x).max())
            self.products += (x @ y, x @ x, y @ y)

    @property
    def error(self) -> float:
        if self.scale == 0:
            return 0.0 if self.largest == 0 else math.inf
        return float(self.largest) / float(self.scale)

    def within(self, tolerance: Tolerance) -> bool:
        if self.largest == 0:
            return True
        if not math.isfinite(self.largest):
            return False
        ab, aa, bb = self.products
        cosine = ab / math.sqrt(aa * bb) if aa * bb > 0 else 0.0
        return self.error <= tolerance.max_rel_error and (
            tolerance.min_cosine is None or bool(cosine >= tolerance.min_cosine)
        )


def _portions(places: Sequence[Place], sizes: Mapping[str, int]) -> Iterator[list[Place]]:
    portion: list[Place] = []
    held = 0
    for place in places:
        if portion and held + sizes[place.tensor] > _HELD:
            yield portion
            portion, held = [], 0
        portion.append(place)
        held += sizes[place.tensor]
    if portion:
        yield portion


def _sizes(model: onnx.ModelProto, batch: int) -> dict[str, int]:
    """Return the number of elements of each tensor in one batch, as far as its shape is known."""
    shapes = {name: value.type.tensor_type.shape.dim for name, value in tensor_types(model).items()}
    return {name: batch * math.prod(max(dim.dim_value, 1) for dim in dims[1:]) for name, dims in shapes.items()}
