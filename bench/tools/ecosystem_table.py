"""Tables of docs/ecosystem.md, from the lines of a walk over third-party networks."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from irepdeploy.board.comparison import TOLERANCES

from ..report.text import markdown_grid

__all__ = ["WAYS", "ecosystem_table", "verdict_of"]

WAYS = ("opened", "branches", "export", "collapse")
_WORKS, _RIGHT, _FAILS = "works", "refused for a right reason", "fails"
# Parts of the reasons of justified refusals. Anything else that does not work is a failure.
_RIGHT_REASONS: tuple[str, ...] = ()
# Larger errors are within 4 times the network's own noise, which is then shown.
_STATED = TOLERANCES["float32"].max_rel_error
# Results that mean "nothing to do": no convolution that branches fit, or a file that torch does not write.
_IDLE = {"works", "nothing to do", "not written"}
_Line = Mapping[str, Any]


def verdict_of(line: _Line) -> str:
    """Return the result of a network: works, refused for a right reason, or fails."""
    bad = [line[way] for way in WAYS if way in line and line[way]["verdict"] not in _IDLE]
    if not bad:
        return _WORKS
    right = all(each["verdict"] == "refused" and _is_right(each["reason"]) for each in bad)
    return _RIGHT if right else _FAILS


def ecosystem_table(lines: Sequence[_Line]) -> str:
    """Return a summary, the failures with their reasons, and a folded table of all networks, in Markdown."""
    groups: dict[str, list[_Line]] = {}
    for line in lines:
        groups.setdefault(line["network"].partition("/")[0], []).append(line)
    rows = [[group, *_counts(found)] for group, found in sorted(groups.items())]
    rows.append(["all", *_counts(lines)])
    heads = ["from", "networks", _WORKS, "share", _RIGHT, _FAILS]
    parts = [_versions(lines), markdown_grid(heads, rows, [True] + [False] * 5)]
    bad = [[line["network"], verdict_of(line), way, _cut(reason)] for line in lines for way, reason in _reasons(line)]
    if bad:
        parts.append(markdown_grid(["network", "verdict", "way", "reason"], bad, [True] * 4))
    for group, found in sorted(groups.items()):
        table = markdown_grid(
            ["network", "image", "blocks", "error", "export: convolutions", "error", "collapse: convolutions", "error"],
            [_row(line) for line in found],
            [True] + [False] * 7,
        )
        parts.append(
            f"<details><summary>{html.escape(group)}: {len(found)} networks</summary>\n\n{table}\n\n</details>"
        )
    return "\n\n".join(parts)


def _is_right(reason: str) -> bool:
    return any(re.search(each, reason) for each in _RIGHT_REASONS)


def _counts(lines: Sequence[_Line]) -> list[str]:
    found = Counter(verdict_of(line) for line in lines)
    share = f"{found[_WORKS] / len(lines):.0%}" if lines else "-"
    return [str(len(lines)), str(found[_WORKS]), share, str(found[_RIGHT]), str(found[_FAILS])]


def _versions(lines: Sequence[_Line]) -> str:
    names = ("torch", "torchvision", "timm", "onnxruntime")
    kinds = Counter(", ".join(f"{name} {line[name]}" for name in names if name in line) for line in lines)
    dates = sorted({line["date"] for line in lines})
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return f"{span}; {' or '.join(kinds)}."


def _reasons(line: _Line) -> list[tuple[str, str]]:
    return [
        (way, f"{line[way]['reason']}{f' ({place})' if (place := line[way].get('place')) else ''}")
        for way in WAYS
        if way in line and line[way]["verdict"] not in _IDLE
    ]


def _row(line: _Line) -> list[str]:
    branches, export, collapse = (line.get(way, {}) for way in WAYS[1:])
    before, after = collapse.get("convs_before"), collapse.get("convs")
    return [
        line["network"].partition("/")[2],
        str(line.get("size", "")),
        _cell(branches, str(branches.get("blocks", ""))),
        _error(branches),
        _cell(export, str(export.get("convs", ""))),
        _error(export),
        _cell(collapse, f"{after}" if before in (None, after) else f"{before} to {after}"),
        _error(collapse),
    ]


def _cell(found: _Line, text: str) -> str:
    verdict = found.get("verdict", "-")
    return text if verdict == "works" else verdict


def _error(found: _Line) -> str:
    error, noise = found.get("error"), found.get("noise")
    if error is None:
        return ""
    return f"{error:.0e}" if error <= _STATED or noise is None else f"{error:.0e} (noise {noise:.0e})"


def _cut(reason: str) -> str:
    return reason if len(reason) <= 240 else f"{reason[:237]}..."
