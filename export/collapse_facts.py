"""Describe a collapse for the certificate."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from irepdeploy.onnx_collapse import Collapse, Region

__all__ = ["SWITCHED_OFF", "collapse_facts", "region_proofs"]

SWITCHED_OFF: dict[str, Any] = {"changed": False, "note": "collapse is switched off"}


def collapse_facts(found: Collapse) -> dict[str, Any]:
    """Return the changes of a collapse, and every region with its errors or the reason why it was kept."""
    before, after = found.operators_before, found.operators_after
    return {
        "changed": found.changed,
        "convolutions": {"before": before["Conv"], "after": after["Conv"]},
        "nodes": {"before": sum(before.values()), "after": sum(after.values())},
        "folded": found.folded,
        "regions": [_region_facts(region) for region in found.regions],
    }


def region_proofs(regions: Sequence[Region]) -> dict[str, Any]:
    """Return the worst float64 errors, inside and at the border."""
    proved = [region for region in regions if region.collapsed]
    worst = max(proved, key=lambda region: _error(region.error_interior), default=None)
    border = max(proved, key=lambda region: _error(region.error_border), default=None)
    if worst is None or border is None:
        return {}
    return {
        "count": len(proved),
        "float64": {"worst_layer": worst.name, "max_rel_error": worst.error_interior or 0.0},
        "float64 at the border": {"worst_layer": border.name, "max_rel_error": border.error_border or 0.0},
    }


def _region_facts(region: Region) -> dict[str, Any]:
    facts = dataclasses.asdict(region)
    facts["operators_in"], facts["operators_out"] = dict(region.operators_in), dict(region.operators_out)
    return {**facts, "collapsed": region.collapsed}


def _error(error: float | None) -> float:
    return -math.inf if error is None else error
