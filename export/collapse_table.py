"""Print the result of a collapse; nothing here imports torch or onnx."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from irepdeploy.console import say, table

__all__ = ["kept_note", "show_regions", "summary"]

Facts = Mapping[str, Any]


def summary(facts: Facts) -> str:
    """Summarise `collapse_facts` in one line."""
    if not facts["changed"]:
        return f"{facts.get('note', 'nothing found that is cheaper as one convolution')}: the model is unchanged"
    convolutions, nodes = facts["convolutions"], facts["nodes"]
    collapsed = [region for region in facts["regions"] if region["collapsed"]]
    folded, nodes_text = facts.get("folded", 0), f"nodes {nodes['before']} -> {nodes['after']}"
    constants = f"{folded} {'operator' if folded == 1 else 'operators'} with constant results computed"
    if not collapsed:
        return f"{constants}, {nodes_text}"
    before, after = (sum(region[key] for region in collapsed) for key in ("macs_before", "macs_after"))
    return (
        f"{len(collapsed)} {'region' if len(collapsed) == 1 else 'regions'} collapsed: convolutions "
        f"{convolutions['before']} -> {convolutions['after']}, {nodes_text}, their MACs {before:,} -> {after:,}"
        f"{f'; {constants}' if folded else ''}"
    )


def show_regions(title: str, regions: Sequence[Facts]) -> None:
    """Print operators, MACs and float64 errors of every region, and why a region stayed."""
    rows = [
        [
            region["name"],
            _operators(region["operators_in"]),
            _operators(region["operators_out"]) if region["collapsed"] else "unchanged",
            f"{region['macs_before']:,}",
            f"{region['macs_after']:,}",
            _error(region["error_interior"]),
            _error(region["error_border"]),
        ]
        for region in regions
    ]
    columns = ["region", "operators", "become", "MACs", "MACs after", "error inside", "at the border"]
    table(title, columns, rows)
    for region in regions:
        if region["reason"]:
            say(f"kept in {region['name']}:")
            for reason in region["reason"].split("; "):
                say(f"  {reason}")


def kept_note(regions: Sequence[Facts]) -> str | None:
    """Return one line about the regions that stayed, or None."""
    kept = [region for region in regions if region["reason"]]
    if not kept:
        return None
    count = f"{len(kept)} {'region keeps' if len(kept) == 1 else 'regions keep'} something"
    first = f"{kept[0]['name']}, {kept[0]['reason'].split('; ')[0]}"
    return f"{count}; in {first} (--explain lists all)"


def _operators(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _error(error: Any) -> str:
    return "-" if error is None else f"{float(error):.0e}"
