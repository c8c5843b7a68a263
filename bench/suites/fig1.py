"""Suite fig1: latency against accuracy on ImageNet (Fig. 1), with every network in its deployed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from irepdeploy.console import ProgressDisplay
from irepdeploy.runs.pareto_front import pareto_front
from irepdeploy.runs.suite import SuiteReport, SuiteRequest

from .condition import conditions_for
from .latency_table import LatencyTable, latency_table
from .published import CARS, TABLE3
from .variants import KEPT, variants

__all__ = ["fig1"]

_TABLE = LatencyTable(
    name="fig1",
    title="Fig. 1, latency and accuracy on ImageNet",
    # The figure shows another device and prints no latencies.
    variants=[each for each in variants([replace(row, ms=None) for row in (*TABLE3, *CARS)]) if each.state != KEPT],
    reference="IrepResNet-18, fused",
    smoke=("ResNet-18, BN folded", "IrepResNet-18, fused", "CARS-Lat-A, BN folded"),
    notes=("Paper: a picture of a Jetson AGX Xavier, without numbers. `irepdeploy plot latency` draws this one.",),
)


def fig1(request: SuiteRequest, display: ProgressDisplay) -> SuiteReport:
    """Measure Fig. 1: latency against accuracy on ImageNet, with its Pareto front."""
    report = latency_table(_TABLE, request, display)
    fronts = [
        f"{each.title}: no other is both faster and more accurate than {'; '.join(front)}."
        for each in conditions_for(request)
        if (front := _front(report.figures["rows"], each.title))
    ]
    return replace(report, notes=[*fronts, *report.notes])


def _front(rows: Sequence[dict[str, Any]], title: str) -> list[str]:
    points = [
        (row["name"], row["measured"][title]["median_ms"], row["top1"])
        for row in rows
        if title in row["measured"] and row["top1"] is not None
    ]
    return [points[index][0] for index in pareto_front([(ms, top1) for _, ms, top1 in points])]
