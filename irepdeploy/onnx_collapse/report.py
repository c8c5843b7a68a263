"""Collapse and Region: what was found in a graph, what became of it, and how exact it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

__all__ = ["Collapse", "Region"]


@dataclass(frozen=True)
class Region:
    """Linear operators between tensors that are needed, and what stands in their place.

    Args:
        name: of the operator that gives its result.
        operators_in, operators_out: how many of each kind before and after; equal where it was left alone.
        macs_before, macs_after: of one input; a size that is free counts as its nominal value.
        reason: why it was left alone, or which part of it was; empty where everything became one.
        error_interior: in float64, max|a - b| / max|a| of a random and of a zero input, where no window reaches over
            the border; None where it was left alone, or where every window does.
        error_border: the same where windows do. What is more than rounding here comes from constants of the border
            that the file holds rounded.
        sources, results: names of the tensors it reads and gives.
    """

    name: str
    operators_in: Mapping[str, int]
    operators_out: Mapping[str, int]
    macs_before: int
    macs_after: int
    reason: str = ""
    error_interior: float | None = None
    error_border: float | None = None
    sources: tuple[str, ...] = ()
    results: tuple[str, ...] = ()

    @property
    def collapsed(self) -> bool:
        """Whether something stands in its place."""
        return dict(self.operators_in) != dict(self.operators_out)


@dataclass(frozen=True)
class Collapse:
    """A model after its collapse.

    Args:
        model: the result; where nothing was found, the model as it was given.
        regions: in the order of the graph; those left alone with their reason.
        changed: whether anything was replaced.
        content: the bytes of `model`; the very bytes that were given where nothing changed.
        operators_before, operators_after: of the whole graph, by kind.
    """

    model: onnx.ModelProto = field(repr=False)
    regions: list[Region]
    changed: bool
    content: bytes = field(repr=False)
    operators_before: Counter[str] = field(default_factory=Counter)
    operators_after: Counter[str] = field(default_factory=Counter)
