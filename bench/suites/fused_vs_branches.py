"""Suite fused-vs-branches: speed-up by fusing, for each network."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace

from irepdeploy.console import ProgressDisplay
from irepdeploy.errors import InputError
from irepdeploy.runs.suite import SuiteReport, SuiteRequest

from .latency_table import LatencyTable, latency_table
from .published import TABLE2, TABLE3, PaperRow
from .variants import BRANCHES, FOLDED, FUSED, KEPT, Variant

__all__ = ["fused_vs_branches"]

_SMOKE = "VGG-16"


def _table(name: str, plain: str, irep: str, rows: Sequence[PaperRow]) -> LatencyTable:
    by_label = {row.label: row for row in rows}
    before, after = replace(by_label[plain], label=name), replace(by_label[irep], label=f"Irep {name}")
    forms = [
        Variant(before, KEPT, True),
        Variant(before, FOLDED),
        Variant(after, BRANCHES),
        Variant(after, FUSED, True),
    ]
    return LatencyTable(
        name="fused-vs-branches",
        title="Branches standing and fused",
        variants=forms,
        reference=forms[-1].label,
        smoke=[form.label for form in forms],
    )


_TABLES = {
    name: _table(name, plain, irep, rows)
    for name, plain, irep, rows in (
        ("VGG-16", "VGG", "IrepVGG-16", TABLE2),
        ("ResNet-18 (CIFAR-10)", "ResNet-18", "IrepResNet-18", TABLE2),
        ("ResNet-18", "ResNet-18", "IrepResNet-18", TABLE3),
        ("ResNet-34", "ResNet-34", "IrepResNet-34", TABLE3),
        ("ResNet-50", "ResNet-50", "IrepResNet-50", TABLE3),
    )
}


def fused_vs_branches(request: SuiteRequest, display: ProgressDisplay) -> SuiteReport:
    """Measure the speed-up by fusing: each network plain, with its branches, and fused.

    Ratios are relative to the fused network. `SuiteRequest.only` takes names of networks, such as "VGG-16".
    """
    request.refuse("fused-vs-branches", "models")
    reports = [latency_table(_TABLES[name], replace(request, only=()), display) for name in _wanted(request)]
    first = reports[0]
    notes = [note for report in reports for note in report.notes]
    return SuiteReport(
        first.title,
        first.columns,
        [row for report in reports for row in report.rows],
        list(dict.fromkeys(notes)),
        {"suite": "fused-vs-branches", "networks": [report.figures for report in reports]},
    )


def _wanted(request: SuiteRequest) -> Sequence[str]:
    for name in request.only:
        if name not in _TABLES:
            near = difflib.get_close_matches(name, _TABLES, n=1)
            hint = f"did you mean {near[0]}?" if near else f"some of {', '.join(_TABLES)}"
            raise InputError(f"unknown network {name!r} in this suite", where="--only", hint=hint)
    if request.only:
        return [name for name in _TABLES if name in request.only]
    return [_SMOKE] if request.scale == "smoke" else list(_TABLES)
