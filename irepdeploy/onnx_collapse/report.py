"""Report of a collapse: the regions that were found, their replacements and errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import onnx

from irepdeploy.onnx_graph.model_file import OnnxModel, model_content

__all__ = ["Collapse", "Region"]


@dataclass(frozen=True)
class Region:
    """A region of linear operators and its replacement.

    Attributes:
        name: Name of the operator that computes the last result.
        operators_in: Number of operators of each type before.
        operators_out: Number of operators of each type after; equal to `operators_in` if the region was kept.
        macs_before: MACs of one sample before, with dynamic sizes at their nominal values.
        macs_after: MACs of one sample after.
        reason: Why the region or a part of it was kept; empty if all of it was merged.
        error_interior: Error ``max|a - b| / max|a|`` in float64 on a random and a zero input, at outputs whose windows
            do not cross the border. None if the region was kept, or if every window crosses the border.
        error_border: The same error at outputs whose windows cross the border. Errors larger than rounding come from
            border constants, which the file stores rounded.
        sources: Names of the tensors that the region reads.
        results: Names of the tensors that it computes.
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
        """Whether operators were replaced."""
        return dict(self.operators_in) != dict(self.operators_out)


@dataclass(frozen=True)
class Collapse:
    """A collapsed model and its report.

    Attributes:
        model: The result, or the model as given if nothing changed.
        regions: Regions that collapsed, followed by regions that were kept, with the reason.
        changed: Whether any operator was replaced or evaluated.
        given: The input of the collapse: a model, its bytes or its path.
        operators_before: Number of operators of each type in the whole graph before.
        operators_after: Number of operators of each type in the whole graph after.
        folded: Number of operators with constant results that were evaluated.
    """

    model: onnx.ModelProto = field(repr=False)
    regions: list[Region]
    changed: bool
    given: OnnxModel = field(repr=False)
    operators_before: Counter[str] = field(default_factory=Counter)
    operators_after: Counter[str] = field(default_factory=Counter)
    folded: int = 0

    @cached_property
    def content(self) -> bytes:
        """The bytes of `model`, or the bytes as given if nothing changed."""
        return model_content(self.model if self.changed else self.given)
