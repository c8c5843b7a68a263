"""Print the result of a collapse, without importing torch or onnx."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from irepdeploy.console import say, table
from irepdeploy.errors import counted

__all__ = ["kept_note", "show_regions", "summary"]

Facts = Mapping[str, Any]

# Names and numbers, in which reasons of the same kind differ, and the number of places that are listed per kind.
_VARIES, _NAMED = re.compile(r"'[^']*'|\d[\d,]*"), 3


def summary(facts: Facts) -> str:
    """Summarize `collapse_facts` in one line."""
    if not facts["changed"]:
        return f"{facts.get('note', 'nothing found that is cheaper as one convolution')}: the model is unchanged"
    convolutions, nodes = facts["convolutions"], facts["nodes"]
    collapsed = [region for region in facts["regions"] if region["collapsed"]]
    folded, nodes_text = facts.get("folded", 0), f"nodes {nodes['before']} -> {nodes['after']}"
    constants = f"{counted(folded, 'operator')} with constant results computed"
    if not collapsed:
        return f"{constants}, {nodes_text}"
    before, after = (sum(region[key] for region in collapsed) for key in ("macs_before", "macs_after"))
    return (
        f"{counted(len(collapsed), 'region')} collapsed: convolutions "
        f"{convolutions['before']} -> {convolutions['after']}, {nodes_text}, their MACs {before:,} -> {after:,}"
        f"{f'; {constants}' if folded else ''}"
    )


def show_regions(title: str, regions: Sequence[Facts]) -> None:
    """Print operators, MACs and float64 errors of every region, and why regions were kept.

    Kept regions with the same operators share a row, and reasons of the same kind share a line.
    """
    alike: dict[str, list[Facts]] = {}
    for place, region in enumerate(regions):
        alike.setdefault(str(place) if region["collapsed"] else _operators(region["operators_in"]), []).append(region)
    rows = [
        [
            _and_more([region["name"] for region in same], 1),
            _operators(same[0]["operators_in"]),
            _operators(same[0]["operators_out"]) if same[0]["collapsed"] else "unchanged",
            *(f"{sum(region[key] for region in same):,}" for key in ("macs_before", "macs_after")),
            _error(same[0]["error_interior"]),
            _error(same[0]["error_border"]),
        ]
        for same in alike.values()
    ]
    columns = ["region", "operators", "become", "MACs", "MACs after", "error inside", "at the border"]
    table(title, columns, rows)
    kinds: dict[str, list[tuple[str, str]]] = {}
    for region in regions:
        for reason in filter(None, region["reason"].split("; ")):
            kinds.setdefault(_VARIES.sub("#", reason), []).append((region["name"], reason))
    for (name, reason), *others in kinds.values():
        say(f"kept in {name}: {reason}")
        if others:
            say(f"  likewise {_and_more([_place(*other) for other in others], _NAMED)}")


def kept_note(regions: Sequence[Facts]) -> str | None:
    """Return one line about the regions that were kept, or None.

    There is none if nothing changed, since for a plain network it would look like a failed fuse.
    """
    kept = [region for region in regions if region["reason"]]
    if not kept or not any(region["collapsed"] for region in regions):
        return None
    count = "1 region is" if len(kept) == 1 else f"{len(kept)} regions are"
    first = f"{kept[0]['name']}, {kept[0]['reason'].split('; ')[0]}"
    return f"{count} not fully merged: in {first} (--explain lists all)"


def _place(name: str, reason: str) -> str:
    """Return where a reason applies: after an operator, or in the region of this name."""
    place, _, _ = reason.rpartition("': ")
    return f"{place}'" if place else f"in {name}"


def _and_more(names: Sequence[str], most: int) -> str:
    """Name the first of several, and count the others."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _operators(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _error(error: Any) -> str:
    return "-" if error is None else f"{float(error):.0e}"
