"""Verdict of a table on the paper's claim, derived from its rows."""

from __future__ import annotations

from collections.abc import Sequence

from .condition import Condition
from .latency_row import LatencyRow
from .published import NAS

__all__ = ["verdicts"]

# Ratios closer to 1 are ties: medians of one file loaded twice differ by half a percent.
_ALIKE = 0.02


def verdicts(rows: Sequence[LatencyRow], conditions: Sequence[Condition], reference: str) -> list[str]:
    """Return a sentence per condition that compares the NAS networks with the reference, here and in the paper."""
    paper = [row.paper_ratio for row in rows if row.family == NAS and row.paper_ratio is not None]
    said = []
    for condition in conditions:
        values = _ratios(rows, condition, published=True)
        if not values or not paper:
            continue
        sentence = (
            f"{condition.title}: the NAS networks take {_range(values)} times as long as {reference}; in the paper"
            f" {_range(paper)} times. {_order(values)}"
        )
        folded = _ratios(rows, condition, published=False)
        if folded and _range(folded) != _range(values):
            sentence += f" With their BN folded too, as that one's is: {_range(folded)} times."
        said.append(sentence)
    return said


def _ratios(rows: Sequence[LatencyRow], condition: Condition, *, published: bool) -> list[float]:
    """Return the ratios of the NAS networks: of the variant with the paper's latency if `published`, else the other."""
    found = [
        row.measured[condition.title].ratio
        for row in rows
        if row.family == NAS and (row.paper_ratio is not None) == published and condition.title in row.measured
    ]
    return [each.value for each in found if each is not None]


def _range(values: Sequence[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _order(values: Sequence[float]) -> str:
    if min(values) > 1 + _ALIKE:
        return "All are slower than it here too."
    if max(values) < 1 - _ALIKE:
        return "All are faster than it here: the paper's order does not hold on this device."
    return "Some are faster, some slower: the paper's order holds only in part here."
