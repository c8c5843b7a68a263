"""The table of the regions of a collapse, and its one-line summary."""

from __future__ import annotations

from typing import Any

import pytest

from irepdeploy.export.collapse_table import kept_note, show_regions, summary

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


def region(name: str, reason: str, kinds: dict[str, int], *, collapsed: bool = False) -> dict[str, Any]:
    return {
        "name": name, "reason": reason, "operators_in": kinds, "operators_out": {"Conv": 1}, "collapsed": collapsed,
        "macs_before": 1000, "macs_after": 400, "error_interior": None, "error_border": None,
    }  # fmt: skip


def test_regions_and_reasons_of_one_kind_share_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    kept = [
        region(f"add{place}", f"behind 'add{place}': merged it would take 1,{place}00 MACs instead of 900", {"Add": 2})
        for place in range(6)
    ]
    kept[4]["reason"] += "; ConvTranspose 'up': no region"
    kept[5]["reason"] = "planning took too long"
    merged = [region(f"conv{place}", "", {"Conv": 2}, collapsed=True) for place in range(2)]
    show_regions("x.onnx", [*merged, *kept])
    table, _, text = capsys.readouterr().out.partition("kept in")
    assert [name for name in ("conv0", "conv1", "add0 and 5 more", "6,000", "2,400") if name not in table] == []
    assert "add1" not in table
    assert f"kept in{text}".splitlines() == [
        "kept in add0: behind 'add0': merged it would take 1,000 MACs instead of 900",
        "  likewise behind 'add1', behind 'add2', behind 'add3' and 1 more",
        "kept in add4: ConvTranspose 'up': no region",
        "kept in add5: planning took too long",
    ]


def test_what_stayed_is_noted_beside_what_collapsed_only() -> None:
    kept, merged = region("add", "merged it would take more", {"Add": 2}), region("c", "", {"Conv": 2}, collapsed=True)
    assert kept_note([kept]) is None and kept_note([merged]) is None
    assert kept_note([kept, merged]) == (
        "1 region is not fully merged: in add, merged it would take more (--explain lists all)"
    )
