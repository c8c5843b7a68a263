"""The one line that sums up a collapse."""

from __future__ import annotations

from typing import Any

from irepdeploy.export.collapse_table import summary

COUNTS: dict[str, Any] = {
    "changed": True,
    "convolutions": {"before": 4, "after": 2},
    "nodes": {"before": 12, "after": 5},
}
REGION = {"collapsed": True, "macs_before": 3000, "macs_after": 2000}


def test_the_summary() -> None:
    collapsed = "1 region collapsed: convolutions 4 -> 2, nodes 12 -> 5, their MACs 3,000 -> 2,000"
    folded = "3 operators with constant results computed"
    assert summary({**COUNTS, "regions": [REGION], "folded": 0}) == collapsed
    assert summary({**COUNTS, "regions": [REGION], "folded": 3}) == f"{collapsed}; {folded}"
    assert summary({**COUNTS, "regions": [], "folded": 3}) == f"{folded}, nodes 12 -> 5"
