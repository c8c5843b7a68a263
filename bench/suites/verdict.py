"""What a table says about the paper's claim, read off the table itself, device by device."""

from __future__ import annotations

from collections.abc import Sequence

from .condition import Condition
from .latency_row import LatencyRow
from .published import NAS

__all__ = ["verdicts"]

# A ratio nearer to 1 than this is no order: loading one file twice makes medians that differ by half a percent.
_ALIKE = 0.02


def verdicts(rows: Sequence[LatencyRow], conditions: Sequence[Condition], reference: str) -> list[str]:
    """One sentence for each condition: how the NAS networks stand to the reference here and in the paper."""
    paper = [row.paper_ratio for row in rows if row.family == NAS and row.paper_ratio is not None]
    said = []
    for condition in conditions:
        here = [
            row.measured[condition.title].ratio
            for row in rows
            if row.family == NAS and row.paper_ratio is not None and condition.title in row.measured
        ]
        values = [each.value for each in here if each is not None]
        if not values or not paper:
            continue
        said.append(
            f"{condition.title}: the NAS networks take {_range(values)} times as long as {reference}; in the paper"
            f" {_range(paper)} times. {_order(values)}"
        )
    return said


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _order(values: Sequence[float]) -> str:
    if min(values) > 1 + _ALIKE:
        return "All are slower than it here too."
    if max(values) < 1 - _ALIKE:
        return "All are faster than it here: the paper's order does not hold on this device."
    return "Some are faster, some slower: the paper's order holds only in part here."
