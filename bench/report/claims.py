"""Claims about a table, each derived from its rows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from .columns import digits, interval_text
from .gap import tied
from .row import Row
from .tables import Table

__all__ = ["Span", "claims_of", "order_claim"]

# Smallest and largest latency within the noise of a measurement, in a common unit.
Span = tuple[float, float]


def claims_of(table: Table) -> list[str]:
    """Return the results of a table as sentences; empty if it has a single model or sweeps over batch sizes."""
    rows = [row for row in table.rows if row.measured]
    if len({row.model for row in rows}) < 2 or table.offline:
        return []
    return [
        claim
        for claim in (
            _extremes(rows, table.fastest),
            _same(rows, table.reference.model),
            _families(table.rows),
            _paper_order(table.rows),
        )
        if claim
    ]


def order_claim(ours: Sequence[tuple[Span, Span]], one: str, other: str) -> str:
    """Return for how many pairs of models two lists of latencies agree on the faster one, or "" if all are ties.

    A latency is an interval, which has no width if its noise is unknown; overlapping intervals are a tie.
    """
    same = opposite = 0
    for (a, b), (c, d) in itertools.combinations(ours, 2):
        sign = _order(a, c) * _order(b, d)
        same += sign > 0
        opposite += sign < 0
    ties = len(ours) * (len(ours) - 1) // 2 - same - opposite
    if not same + opposite:
        return ""
    text = f", {ties} tied in one of them" if ties else ""
    return (
        f"Of {same + opposite + ties} pairs of models, {same} are in the same order {one} as {other}, "
        f"{opposite} in the opposite one{text} (by the intervals of the ratios)."
    )


def _order(one: Span, other: Span) -> int:
    return (one[1] < other[0]) - (other[1] < one[0])


def _extremes(rows: Sequence[Row], fastest: Sequence[Row]) -> str:
    fast = fastest[0]
    slow = max(rows, key=_median)
    others = [row.model for row in fastest[1:]]
    if slow in fastest:
        return f"All tie: no model is faster than another by the intervals ({digits(_median(fast))} ms)."
    times = slow.record.ratio_to(fast.record)
    tie = f", a tie with {', '.join(dict.fromkeys(others))}" if others else ""
    return (
        f"Fastest by median: {fast.model}, {digits(_median(fast))} ms{tie}. "
        f"Slowest: {slow.model}, {digits(_median(slow))} ms, {interval_text(times)} times as long."
    )


def _same(rows: Sequence[Row], reference: str) -> str:
    alike = [row.model for row in rows if row.is_tie]
    if not alike:
        return ""
    return f"A tie with {reference} (the interval contains 1): {', '.join(dict.fromkeys(alike))}."


def _families(rows: Sequence[Row]) -> str:
    best: dict[str, Row] = {}
    for row in rows:
        if row.family and (row.family not in best or _median(row) < _median(best[row.family])):
            best[row.family] = row
    if len(best) < 2:
        return ""
    ranked = sorted(best.items(), key=lambda item: _median(item[1]))
    first = ranked[0][1]
    parts = [
        f"{row.model} ({family}), {digits(_median(row))} ms"
        + (", a tie" if row.record is not first.record and tied(row.record.ratio_to(first.record)) else "")
        for family, row in ranked
    ]
    return f"Fastest of each family, by median: {'; '.join(parts)}."


def _paper_order(rows: Sequence[Row]) -> str:
    both: dict[str, tuple[Span, Span]] = {}
    for row in rows:
        if row.paper_ms is not None:
            both.setdefault(row.model, (row.span, (row.paper_ms, row.paper_ms)))
    return order_claim(list(both.values()), "here", "in the paper") if len(both) > 1 else ""


def _median(row: Row) -> float:
    return row.summary.median_ms
