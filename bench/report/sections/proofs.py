"""Certificates: the source of each export, and the error of every hop."""

from __future__ import annotations

import math
from collections.abc import Sequence

from irepdeploy.errors import counted
from irepdeploy.verify.certificate import Hop

from ..certified import Certified
from ..charts.frame import Chart
from ..charts.intervals import IntervalRow, intervals
from ..others import PlainTable
from .section import Section

__all__ = ["export_claim", "hop_chart", "hop_figures", "proofs"]

_MOST_ROWS = 24
# Smaller errors are drawn here, since a logarithmic axis has no 0.
_LEAST = 1e-17


def proofs(found: Sequence[Certified]) -> Section | None:
    """Return a section with a table and a chart of the hops of each certificate."""
    if not found:
        return None
    charts = [chart for each in found if (chart := hop_chart(each)) is not None]
    text = (
        "A hop compares two forms of the network on the same inputs. Its error is the largest difference of an output, "
        "relative to the output's largest value; own noise is what the source differs from itself when only the "
        "rounding changes."
    )
    tables = tuple(_table(each) for each in found if each.certificate.hops)
    return Section("hops", "Certificates, hop by hop", text, (export_claim(found),), tuple(charts), tables)


def export_claim(found: Sequence[Certified]) -> str:
    """Return a sentence on how many exports passed and why others failed; "" if there are none."""
    if not found:
        return ""
    failed = [each for each in found if each.verdict != "passed"]
    passed = len(found) - len(failed)
    parts = [f"{counted(passed, 'export')} passed every check"] if passed else []
    if failed:
        reason = f"{failed[0].name}: {failed[0].verdict}"
        parts.append(f"{counted(len(failed), 'export')} failed ({reason}{', and more' if len(failed) > 1 else ''})")
    return f"{'; '.join(parts)}."


def hop_chart(found: Certified) -> Chart | None:
    """Draw the error of each hop and its tolerance on a logarithmic axis."""
    hops = [hop for hop in found.certificate.hops if math.isfinite(hop.error)][:_MOST_ROWS]
    if not hops:
        return None
    rows = [
        IntervalRow(
            f"{hop.source} \N{RIGHTWARDS ARROW} {hop.result}",
            max(hop.error, _LEAST),
            f"{hop.error:.1e} of {_allowed(hop)}",
            limit=hop.allowed if 0 < hop.allowed < math.inf else None,
            look="better" if hop.ok else "worse",
        )
        for hop in hops
    ]
    title = f"{found.name}: error of each hop"
    svg = intervals(rows, title, "largest relative error", log=True)
    return Chart(title, "Dot: error. Bar: tolerance.", svg)


def hop_figures(found: Certified) -> list[dict[str, object]]:
    """Return the hops for JSON; an error that is not finite is text, as in the certificate."""
    return [
        {
            "from": hop.source,
            "to": hop.result,
            "max_rel_error": hop.error if math.isfinite(hop.error) else str(hop.error),
            "allowed": hop.allowed if math.isfinite(hop.allowed) else None,
            "ok": hop.ok,
        }
        for hop in found.certificate.hops
    ]


def _table(found: Certified) -> PlainTable:
    rows = []
    for hop in found.certificate.hops:
        error, noise, allowed = hop.figures
        inputs = " + ".join(f"{group.get('count')} {str(group.get('name')).partition(',')[0]}" for group in hop.inputs)
        reason = "same" if hop.ok else str(hop.comparison.get("reason") or "not the same")
        worst = str(hop.comparison.get("worst_layer") or "")
        rows.append((hop.source, hop.result, inputs, error, noise, allowed, worst, reason))
    heads = ("from", "to", "inputs", "error", "own noise", "allowed", "worst layer", "verdict")
    return PlainTable(f"{found.name}: {found.source or 'export'}", found.certificate.created, heads, tuple(rows))


def _allowed(hop: Hop) -> str:
    return f"{hop.allowed:.0e}" if math.isfinite(hop.allowed) else "any"
