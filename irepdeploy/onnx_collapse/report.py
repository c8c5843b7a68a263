"""Report of a collapse: the regions found, their replacements and errors."""

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
        name: of the operator that computes its last result.
        operators_in: number of operators of each type before.
        operators_out: number of operators of each type after; equal if the region was kept.
        macs_before: MACs of one sample before, dynamic sizes at their nominal value.
        macs_after: MACs of one sample after.
        reason: why the region or a part of it was kept; empty if all of it was merged.
        error_interior: max|a - b| / max|a| in float64, over a random and a zero input, where no window reaches over
            the border; None if the region was kept, or if every window does.
        error_border: the same where windows reach over the border. Larger errors than rounding come from border
            constants, which the file stores rounded.
        sources: names of the tensors it reads.
        results: names of the tensors it computes.
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
        model: the result; the model as given if nothing changed.
        regions: collapsed ones, then kept ones with their reason.
        changed: whether anything was replaced or computed.
        given: what was collapsed: a model, its bytes or its path.
        operators_before: number of operators of each type in the whole graph before.
        operators_after: number of operators of each type after.
        folded: number of operators whose results are constant, and which were computed.
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
        """The bytes of `model`; the bytes as given if nothing changed."""
        return model_content(self.model if self.changed else self.given)
