"""Claims about a table, each derived from its rows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from .columns import digits, interval_text
from .row import Row
from .tables import Table

__all__ = ["claims_of", "order_claim"]


def claims_of(table: Table) -> list[str]:
    """Return what a table says in words; nothing if it has a single model or sweeps over batch sizes."""
    rows = [row for row in table.rows if row.measured]
    if len({row.model for row in rows}) < 2 or table.offline:
        return []
    return [
        claim
        for claim in (
            _extremes(rows),
            _same(rows, table.reference.model),
            _families(table.rows),
            _paper_order(table.rows),
        )
        if claim
    ]


def order_claim(ours: Sequence[tuple[float, float]], one: str, other: str) -> str:
    """Return in how many pairs of models two lists of latencies agree about which is faster, or "" if all are ties."""
    same = opposite = 0
    for (a, b), (c, d) in itertools.combinations(ours, 2):
        sign = (a - c) * (b - d)
        same += sign > 0
        opposite += sign < 0
    ties = len(ours) * (len(ours) - 1) // 2 - same - opposite
    if not same + opposite:
        return ""
    tied = f", {ties} tied in one of them" if ties else ""
    return (
        f"Of {same + opposite + ties} pairs of models, {same} are in the same order {one} as {other}, "
        f"{opposite} in the opposite one{tied} (by medians)."
    )


def _extremes(rows: Sequence[Row]) -> str:
    fast = min(rows, key=_median)
    slow = max(rows, key=_median)
    times = slow.record.ratio_to(fast.record)
    return (
        f"Fastest by median: {fast.model}, {digits(_median(fast))} ms. "
        f"Slowest: {slow.model}, {digits(_median(slow))} ms, {interval_text(times)} times as long."
    )


def _same(rows: Sequence[Row], reference: str) -> str:
    alike = [
        row.model
        for row in rows
        if (found := row.ratio) and found.low is not None and found.high is not None and found.low <= 1 <= found.high
    ]
    if not alike:
        return ""
    return f"Indistinguishable from {reference} (the interval contains 1): {', '.join(dict.fromkeys(alike))}."


def _families(rows: Sequence[Row]) -> str:
    best: dict[str, Row] = {}
    for row in rows:
        if row.family and (row.family not in best or _median(row) < _median(best[row.family])):
            best[row.family] = row
    if len(best) < 2:
        return ""
    ranked = sorted(best.items(), key=lambda item: _median(item[1]))
    parts = [f"{row.model} ({family}), {digits(_median(row))} ms" for family, row in ranked]
    return f"Fastest of each family, by median: {'; '.join(parts)}."


def _paper_order(rows: Sequence[Row]) -> str:
    both: dict[str, tuple[float, float]] = {}
    for row in rows:
        if row.paper_ms is not None:
            both.setdefault(row.model, (_median(row), row.paper_ms))
    return order_claim(list(both.values()), "here", "in the paper") if len(both) > 1 else ""


def _median(row: Row) -> float:
    return row.summary.median_ms
